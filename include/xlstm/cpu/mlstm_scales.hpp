// SPDX-License-Identifier: Apache-2.0
// The scales of a chunk from its gates. With b the running sum of log f in the chunk, m the state's before it, and
//     c_j = log i_j − b_j,      M_i = max(m, max_{j≤i} c_j)      (a gate without stabiliser: m = 0, M_i = −b_i)
// every exponent of the chunkwise form (TFLA, arXiv 2503.14376, §2.2) is a difference of these, never positive:
//     D̃_ij − μ_i = c_j − M_i,    b_i + m − μ_i = m − M_i,    a_j − m' = c_j − M_L,    g + m − m' = m − M_L,
//     μ_i = b_i + M_i,           m' = b_L + M_L.
// They are double, since c and M grow with the chunk while their differences are what matters.
#pragma once

#include <algorithm>
#include <cmath>

#include "xlstm/cell/mlstm.hpp"

namespace xlstm::cpu {

/// 1/√Q.
template <class Cell>
inline const float query_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(Cell::qk_dim)));

template <class Cell>
double log_forget(float fgate) {
  return log_sigmoid(Cell::GateCap::apply(static_cast<double>(fgate)));
}

template <class Cell>
double log_input(float igate) {
  return Cell::InputGate::log_gate(Cell::GateCap::apply(static_cast<double>(igate)));
}

/// Of each token in a chunk.
struct ChunkScales {
  double* b = nullptr;
  double* c = nullptr;
  double* maximum = nullptr;  ///< M
};

/// Fills the scales of `length` tokens from `row` on; returns the m of the state after them.
template <class Cell>
double chunk_scales(const MLSTMInput<const float, Cell>& in, Index row, Index length, Index head, double m,
                    const ChunkScales& scales) {
  double b = 0;
  double maximum = m;
  for (Index t = 0; t < length; ++t) {
    b += log_forget<Cell>(in.fgate.row(row + t)[head]);
    const double c = log_input<Cell>(in.igate.row(row + t)[head]) - b;
    maximum = Cell::InputGate::stabilized ? std::max(maximum, c) : -b;
    scales.b[t] = b;
    scales.c[t] = c;
    scales.maximum[t] = maximum;
  }
  return Cell::InputGate::stabilized ? b + maximum : 0;
}

/// 1/d and δs/(δh·h) of one token from the signed sum s and m_t: d = max(|s|, exp(−m_t)) + ε.
struct Denominator {
  float inverse = 1;
  float sum_factor = 0;
};

template <class Cell>
Denominator denominator(float s, double m) {
  if constexpr (!Cell::Normalizer::active) return {};
  const double size = std::abs(static_cast<double>(s));
  const double floor = std::exp(-m);
  const double inverse = 1.0 / (std::max(size, floor) + Cell::eps);
  const bool through_sum = Cell::denominator_gradient && size > floor;
  return {static_cast<float>(inverse), static_cast<float>(through_sum ? (s > 0 ? -inverse : inverse) : 0.0)};
}

}  // namespace xlstm::cpu
