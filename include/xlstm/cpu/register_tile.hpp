// SPDX-License-Identifier: Apache-2.0
// A tile of a blocked product's C whose sums are in vector registers: how high it is, and how it is stored.
#pragma once

#include <algorithm>

#include "xlstm/core/index.hpp"
#include "xlstm/cpu/simd.hpp"

namespace xlstm::cpu {

/// The height of tiles, from `least` to `most`, that pads m rows least; of those the largest.
constexpr Index tile_height(Index m, Index least, Index most) {
  Index best = most;
  for (Index h = most - 1; h >= least; --h) {
    if (round_up(m, h) < round_up(m, best)) best = h;
  }
  return best;
}

/// c (+)= sum, of which `count_m` × `count_n` elements are inside the matrix; without `add`, to `initial` (one value a
/// column) or zero. Always inlined: sums whose address is passed on would not stay in registers.
template <int Rows, int Vectors>
[[gnu::always_inline]] inline void store_tile(const simd::Floats (&sum)[Rows][Vectors], float* c, Index stride,
                                              Index count_m, Index count_n, const float* initial, bool add) {
  if (count_m >= Rows && count_n >= Vectors * simd::width && (add || initial == nullptr)) {
    if (add) {
#pragma GCC unroll 16
      for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j) {
          float* const to = c + i * stride + j * simd::width;
          simd::store(to, sum[i][j] + simd::load(to));
        }
      }
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j) simd::store(c + i * stride + j * simd::width, sum[i][j]);
      }
    }
    return;
  }
#pragma GCC unroll 4
  for (int j = 0; j < Vectors; ++j) {
    const Index first = j * simd::width;
    const Index lanes = std::min<Index>(simd::width, count_n - first);
    if (lanes <= 0) break;
    const bool whole = lanes == simd::width;
    const auto load = [&](const float* p) { return whole ? simd::load(p) : simd::load_partial(p, lanes); };
    const simd::Floats begin = !add && initial != nullptr ? load(initial + first) : simd::zero();
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      if (i >= count_m) break;
      float* to = c + i * stride + first;
      const simd::Floats total = sum[i][j] + (add ? load(to) : begin);
      if (whole) {
        simd::store(to, total);
      } else {
        simd::store_partial(to, total, lanes);
      }
    }
  }
}

}  // namespace xlstm::cpu
