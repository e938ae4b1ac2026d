// SPDX-License-Identifier: Apache-2.0
// Floats to codes and scales (core/quantization.hpp), and back. Every group is rounded by itself: int8 to the smallest
// scale that covers its largest magnitude, int4 to the scale, of a list around it and of either sign, with the least
// squared error. No rounding depends on the number of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "xlstm/core/element.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/core/quantization.hpp"
#include "xlstm/cpu/quantized_rows.hpp"
#include "xlstm/cpu/simd.hpp"

namespace xlstm::cpu {

/// Weights of larger magnitude cannot be quantised, groups of smaller ones become zeros.
inline constexpr float largest_quantized = 1e30F;
inline constexpr float smallest_quantized = 1e-30F;

namespace detail {

/// The smallest bf16 that is not below x ≥ 0.
inline bf16 bf16_not_below(float x) {
  return bf16::from_bits(static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(x) + 0xffffU) >> 16));
}

/// Rounds `count` ≤ group_size values at w to integers in [least, most] times a scale; `w` has zeros up to the next
/// multiple of simd::width. Codes go to q as floats.
inline simd::Floats rounded_codes(simd::Floats w, float inverse, float least, float most) {
  const simd::Floats shift = simd::broadcast(0x1.8p23F);  // adding and subtracting it rounds to an integer
  const simd::Floats q = w * simd::broadcast(inverse) + shift - shift;
  return simd::min(simd::max(q, simd::broadcast(least)), simd::broadcast(most));
}

inline float squared_error(const float* w, Index padded, float scale, float least, float most) {
  simd::Floats sum = simd::zero();
  for (Index i = 0; i < padded; i += simd::width) {
    const simd::Floats x = simd::load(w + i);
    const simd::Floats error = x - rounded_codes(x, 1 / scale, least, most) * simd::broadcast(scale);
    sum = simd::fma(error, error, sum);
  }
  return simd::reduce_add(sum);
}

/// The scale for one group whose largest magnitude is `largest`.
template <Index GroupSize>
bf16 group_scale(Int8<GroupSize>, const float*, Index, float largest) {
  return bf16_not_below(largest / 127);
}
template <Index GroupSize>
bf16 group_scale(Int4<GroupSize>, const float* w, Index padded, float largest) {
  bf16 best;
  float least_error = std::numeric_limits<float>::infinity();
  for (int step = 0; step < 14; ++step) {
    for (const float sign : {1.0F, -1.0F}) {
      const bf16 scale(sign * largest / (5.75F + 0.25F * static_cast<float>(step)));
      const float error = squared_error(w, padded, scale, -8, 7);
      if (error < least_error) {
        least_error = error;
        best = scale;
      }
    }
  }
  return best;
}

template <Index GroupSize>
void store_codes(Int8<GroupSize>, const float* q, Index first, Index count, std::uint8_t* row) {
  for (Index i = 0; i < count; ++i) row[first + i] = static_cast<std::uint8_t>(static_cast<std::int8_t>(q[i]));
}
template <Index GroupSize>
void store_codes(Int4<GroupSize>, const float* q, Index first, Index count, std::uint8_t* row) {
  constexpr Index half = quantization_run / 2;
  for (Index run = 0; run < count; run += quantization_run) {
    std::uint8_t* const to = row + (first + run) / 2;
    for (Index j = 0; j < half; ++j) {
      to[j] =
          static_cast<std::uint8_t>(static_cast<int>(q[run + j] + 8) | static_cast<int>(q[run + half + j] + 8) << 4);
    }
  }
}

template <Index GroupSize>
constexpr float least_code(Int8<GroupSize>) {
  return -127;
}
template <Index GroupSize>
constexpr float least_code(Int4<GroupSize>) {
  return -8;
}
template <Index GroupSize>
constexpr float most_code(Int8<GroupSize>) {
  return 127;
}
template <Index GroupSize>
constexpr float most_code(Int4<GroupSize>) {
  return 7;
}

}  // namespace detail

/// One row of `in` floats to F::row_bytes(in) codes and F::groups(in) scales. False, and nothing useful written, if a
/// value is NaN, infinite or beyond largest_quantized.
template <QuantizedFormat F>
bool quantize_row(const float* row, Index in, std::uint8_t* codes, bf16* scales) {
  constexpr Index group = F::group_size;
  alignas(64) float w[group];
  alignas(64) float q[group];
  for (Index first = 0; first < in; first += group) {
    const Index count = std::min(group, in - first);
    const Index padded = round_up(count, quantization_run);
    std::copy_n(row + first, count, w);
    std::fill(w + count, w + padded, 0.0F);
    float largest = 0;
    for (Index i = 0; i < count; ++i) {
      if (!(std::abs(w[i]) <= largest_quantized)) return false;
      largest = std::max(largest, std::abs(w[i]));
    }
    bf16 scale;
    std::fill_n(q, padded, 0.0F);
    if (largest >= smallest_quantized) {
      scale = detail::group_scale(F{}, w, padded, largest);
      for (Index i = 0; i < padded; i += simd::width) {
        simd::store(q + i, detail::rounded_codes(simd::load(w + i), 1 / scale, detail::least_code(F{}),
                                                 detail::most_code(F{})));
      }
    }
    scales[first / group] = scale;
    detail::store_codes(F{}, q, first, padded, codes);
  }
  return true;
}

/// The floats that a row of codes and scales stands for.
template <QuantizedFormat F>
void dequantize_row(const std::uint8_t* codes, const bf16* scales, Index in, float* row) {
  const auto from = weight_rows<F>(codes, scales, in).row(0);
  for (Index i = 0; i < in; i += simd::width) {
    const Index count = std::min<Index>(simd::width, in - i);
    simd::store_partial(row + i, from.load(i), count);
  }
}

/// Quantises a (rows, in) matrix, of which read(r, floats) writes row r. Returns the first row that has a value which
/// cannot be quantised, −1 where there is none.
template <QuantizedFormat F, Executor Exec, class Read>
Index quantize_rows(Exec& exec, Index rows, Index in, Read&& read, std::uint8_t* codes, bf16* scales) {
  constexpr Index piece = 16;
  std::vector<float> buffers(static_cast<std::size_t>(exec.size() * in));
  std::atomic<Index> wrong{rows};
  exec.parallel_for(ceil_div(rows, piece), [&](Index p, int thread) {
    float* const row = buffers.data() + thread * in;
    for (Index r = p * piece; r < std::min(rows, (p + 1) * piece); ++r) {
      read(r, row);
      if (quantize_row<F>(row, in, codes + r * F::row_bytes(in), scales + r * F::groups(in))) continue;
      for (Index seen = wrong; r < seen && !wrong.compare_exchange_weak(seen, r);) {
      }
    }
  });
  return wrong < rows ? wrong.load() : -1;
}

}  // namespace xlstm::cpu
