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
#include <type_traits>

#include "xlstm/cell/mlstm.hpp"
#include "xlstm/core/arena.hpp"
#include "xlstm/cpu/panels.hpp"
#include "xlstm/cpu/vector_math.hpp"

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

/// Of each token in a chunk; arrays of scale_count(length), of which the last b and M go on, and c with M.
struct ChunkScales {
  double* b = nullptr;
  double* c = nullptr;
  double* maximum = nullptr;  ///< M
  double* igate = nullptr;    ///< cap(ĩ), cap(f̃)
  double* fgate = nullptr;
};

/// To whole panels, of which rows and columns of the chunk's matrices are made.
constexpr Index scale_count(Index length) { return round_up(length, panel_width); }

inline ChunkScales allocate_scales(Arena& arena, Index longest) {
  const auto doubles = [&] { return arena.allocate<double>(scale_count(longest)); };
  return {doubles(), doubles(), doubles(), doubles(), doubles()};
}

namespace detail {

/// x = Cap(x) of `count` pre-activations.
template <class Cap>
void cap_all(double* x, Index count) {
  if constexpr (is_soft_cap<Cap>) {
    simd::transform(x, count, x, [](simd::Doubles v) { return Cap::value * simd::tanh(v * (1 / Cap::value)); });
  } else if constexpr (!std::is_same_v<Cap, NoSoftCap>) {
    for (Index i = 0; i < count; ++i) x[i] = Cap::apply(x[i]);
  }
}

/// log i of `count` capped pre-activations.
template <class InputGate>
void log_input_all(const double* igate, Index count, double* to) {
  if constexpr (std::is_same_v<InputGate, SigmoidInputGate>) {
    simd::transform(igate, count, to, [](simd::Doubles v) { return simd::log_sigmoid(v); });
  } else {
    for (Index i = 0; i < count; ++i) to[i] = InputGate::log_gate(igate[i]);
  }
}

}  // namespace detail

/// Fills the scales of `length` tokens from `row` on; returns the m of the state after them.
template <class Cell>
double chunk_scales(const MLSTMInput<const float, Cell>& in, Index row, Index length, Index head, double m,
                    const ChunkScales& scales) {
  const Index padded = scale_count(length);
  for (Index t = 0; t < length; ++t) {
    scales.igate[t] = static_cast<double>(in.igate.row(row + t)[head]);
    scales.fgate[t] = static_cast<double>(in.fgate.row(row + t)[head]);
  }
  for (double* gate : {scales.igate, scales.fgate}) {
    std::fill(gate + length, gate + padded, 0.0);
    detail::cap_all<typename Cell::GateCap>(gate, length);
  }
  detail::log_input_all<typename Cell::InputGate>(scales.igate, length, scales.c);
  simd::transform(scales.fgate, length, scales.b, [](simd::Doubles f) { return simd::log_sigmoid(f); });
  double b = 0;
  double maximum = m;
  for (Index t = 0; t < length; ++t) {
    b += scales.b[t];
    const double c = scales.c[t] - b;
    maximum = Cell::InputGate::stabilized ? std::max(maximum, c) : -b;
    scales.b[t] = b;
    scales.c[t] = c;
    scales.maximum[t] = maximum;
  }
  for (double* scale : {scales.c, scales.maximum}) std::fill(scale + length, scale + padded, maximum);
  std::fill(scales.b + length, scales.b + padded, b);
  return Cell::InputGate::stabilized ? b + maximum : 0;
}

/// exp(−m_t) of each token, m_t = b_t + M_t.
inline void denominator_floors(const ChunkScales& scales, Index length, double* to) {
  for (Index t = 0; t < length; t += simd::double_width)
    simd::store(to + t, simd::exp(-(simd::load(scales.b + t) + simd::load(scales.maximum + t))));
}

/// What each token's key weighs in the state after the chunk, exp(c_j − M_L).
inline void key_weights(const ChunkScales& scales, Index length, float* to) {
  const double last = scales.maximum[length - 1];
  for (Index t = 0; t < length; t += simd::width)
    simd::store(to + t, simd::exp_of_negative(simd::differences(scales.c + t, last)));
}

/// What the state before the chunk weighs in each token's query, exp(m − M_i)/√Q.
template <class Cell>
void query_weights(const ChunkScales& scales, Index length, double m, float* to) {
  for (Index t = 0; t < length; t += simd::width)
    simd::store(to + t, query_scale<Cell> * simd::exp_of_negative(-simd::differences(scales.maximum + t, m)));
}

/// 1/d and δs/(δh·h) of one token from the signed sum s and exp(−m_t): d = max(|s|, exp(−m_t)) + ε. As it is, of a cell
/// without a normalizer.
struct Denominator {
  float inverse = 1;
  float sum_factor = 0;
};

template <class Cell>
Denominator denominator(float s, double floor) {
  static_assert(Cell::Normalizer::active, "xlstm: a cell without a normalizer has no denominator");
  const double size = std::abs(static_cast<double>(s));
  const double inverse = 1.0 / (std::max(size, floor) + Cell::eps);
  const bool through_sum = Cell::denominator_gradient && size > floor;
  return {static_cast<float>(inverse), static_cast<float>(through_sum ? (s > 0 ? -inverse : inverse) : 0.0)};
}

}  // namespace xlstm::cpu
