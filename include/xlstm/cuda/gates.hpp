// SPDX-License-Identifier: Apache-2.0
// The cell's gates (cell/gates.hpp) on devices, in fp32: whatever its policy names, a program's own gates too, whose
// functions are constexpr or XLSTM_HOST_DEVICE.
#pragma once

#include "xlstm/cell/mlstm.hpp"
#include "xlstm/cuda/math.hpp"

namespace xlstm::cuda {

/// log σ(cap(f̃)).
template <class Cell>
XLSTM_HOST_DEVICE float log_forget(float preactivation) {
  return log_sigmoid(Cell::GateCap::apply(preactivation));
}

/// log i = gate(cap(ĩ)).
template <class Cell>
XLSTM_HOST_DEVICE float log_input(float preactivation) {
  return Cell::InputGate::log_gate(Cell::GateCap::apply(preactivation));
}

/// What a token does to the state: C ← decay C + input k vᵀ, with the stabiliser after it.
struct TokenScales {
  float decay;
  float input;
  float m;
};

/// From the gates' pre-activations and m before the token (xLSTM 7B, arXiv 2503.13427, Eq. 5–7).
template <class Cell>
XLSTM_HOST_DEVICE TokenScales token_scales(float igate, float fgate, float m_before) {
  const float log_f = log_forget<Cell>(fgate);
  const float log_i = log_input<Cell>(igate);
  const float m = Cell::InputGate::stabilized ? max(log_f + m_before, log_i) : 0.0F;
  return {exp(log_f + m_before - m), exp(log_i - m), m};
}

/// 1 / (max(|s|, exp(−m)) + ε) of s = nᵀq̂; 1 without a normalizer (Eq. 9).
template <class Cell>
XLSTM_HOST_DEVICE float inverse_denominator(float s, float m) {
  if constexpr (Cell::Normalizer::active) {
    return 1.0F / (max(abs(s), exp(-m)) + static_cast<float>(Cell::eps));
  } else {
    return 1.0F;
  }
}

}  // namespace xlstm::cuda
