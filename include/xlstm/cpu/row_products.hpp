// SPDX-License-Identifier: Apache-2.0
// y = x Wᵀ + bias for few rows of x (decoding): every weight is read from memory once, in the order in which it lies
// there, for all rows; both operands run along `in`, so nothing is packed or transposed.
#pragma once

#include <array>
#include <utility>

#include "xlstm/core/index.hpp"
#include "xlstm/core/view.hpp"
#include "xlstm/cpu/simd.hpp"
#include "xlstm/cpu/storage.hpp"

namespace xlstm::cpu {

/// The measured choices: how many rows of x and of W one tile of accumulators holds, and how far ahead to ask for
/// weights. An accumulator is one vector whose lanes are added at the end: the tile's shape changes no bit of a result.
struct RowProductTuning {
  template <class Rows>  // those that keep a scale in a register leave room for fewer sums
  static constexpr Index x_rows = simd::registers == 32 ? (Rows::block_columns == simd::width ? 6 : 4) : 2;
  static constexpr Index w_rows = 4;
  static constexpr Index bytes_ahead = 2048;
};

namespace detail {

/// XRows rows of x times the rows `first`, first + spacing, … of W.
template <Index XRows, Index WRows, WeightRows Rows>
inline void row_product_tile(MatrixView<const float> x, const Rows& weight, Index first, Index spacing,
                             const float* bias, MatrixView<float> y) {
  const Index in = x.cols();
  simd::Floats sum[XRows][WRows] = {};
  decltype(weight.row(0)) row[WRows];
#pragma GCC unroll 8
  for (Index o = 0; o < WRows; ++o) row[o] = weight.row(first + o * spacing);
  const auto accumulate = [&](auto&& load_w, auto&& load_x) {
    simd::Floats w[WRows];
#pragma GCC unroll 8
    for (Index o = 0; o < WRows; ++o) w[o] = load_w(o);
#pragma GCC unroll 8
    for (Index r = 0; r < XRows; ++r) {
      const simd::Floats v = load_x(x.row(r));
#pragma GCC unroll 8
      for (Index o = 0; o < WRows; ++o) sum[r][o] = simd::fma(w[o], v, sum[r][o]);
    }
  };
  constexpr Index block = Rows::block_columns;
  Index c = 0;
  for (; c + block <= in; c += block) {
    const auto block_of = [&]<std::size_t... O>(std::index_sequence<O...>) {
      (simd::prefetch(static_cast<const char*>(row[O].address(c)) + RowProductTuning::bytes_ahead), ...);
      return std::array{row[O].block(c)...};
    };
    const auto blocks = block_of(std::make_index_sequence<WRows>());
#pragma GCC unroll 16
    for (Index i = 0; i < block / simd::width; ++i) {
      accumulate([&](Index o) { return blocks[static_cast<std::size_t>(o)].vector(i); },
                 [c, i](const float* p) { return simd::load(p + c + i * simd::width); });
    }
  }
  for (; c < in; c += simd::width) {
    if (const Index rest = in - c; rest >= simd::width) {
      accumulate([&](Index o) { return row[o].load(c); }, [c](const float* p) { return simd::load(p + c); });
    } else {
      accumulate([&](Index o) { return row[o].load_partial(c, rest); },
                 [c, rest](const float* p) { return simd::load_partial(p + c, rest); });
    }
  }
#pragma GCC unroll 8
  for (Index r = 0; r < XRows; ++r) {
    float total[WRows];
    if constexpr (WRows == 4) {
      simd::reduce_add_four(sum[r], total);
    } else {
      for (Index o = 0; o < WRows; ++o) total[o] = simd::reduce_add(sum[r][o]);
    }
    for (Index o = 0; o < WRows; ++o) {
      const Index to = first + o * spacing;
      y.row(r)[to] = total[o] + (bias != nullptr ? bias[to] : 0.0F);
    }
  }
}

/// The same for the first min(x.rows(), XRows) rows of x.
template <Index XRows, Index WRows, WeightRows Rows>
inline void row_product_few(MatrixView<const float> x, const Rows& weight, Index first, Index spacing,
                            const float* bias, MatrixView<float> y) {
  if constexpr (XRows > 1) {
    if (x.rows() < XRows) return row_product_few<XRows - 1, WRows>(x, weight, first, spacing, bias, y);
  }
  row_product_tile<XRows, WRows>(x, weight, first, spacing, bias, y);
}

/// Rows [first, last) of W as WRows streams, each a contiguous part of them: a core's prefetchers follow one stream a
/// page, and several far apart bring in half as much again as one.
template <Index XRows, Index WRows, WeightRows Rows>
inline void row_product_streams(MatrixView<const float> x, const Rows& weight, Index first, Index last,
                                const float* bias, MatrixView<float> y) {
  const Index tiles = ceil_div(x.rows(), XRows);
  const auto each_x_tile = [&](auto&& product) {
    for (Index t = 0; t < tiles; ++t) {
      const Index begin = x.rows() * t / tiles;
      const Index count = x.rows() * (t + 1) / tiles - begin;
      product(x.middle_rows(begin, count), y.middle_rows(begin, count));
    }
  };
  const Index length = (last - first) / WRows;
  for (Index o = first; o < first + length; ++o) {
    each_x_tile([&](MatrixView<const float> some_x, MatrixView<float> some_y) {
      row_product_few<XRows, WRows>(some_x, weight, o, length, bias, some_y);
    });
  }
  for (Index o = first + length * WRows; o < last; ++o) {
    each_x_tile([&](MatrixView<const float> some_x, MatrixView<float> some_y) {
      row_product_few<XRows, 1>(some_x, weight, o, 0, bias, some_y);
    });
  }
}

}  // namespace detail

/// y(r, o) = Σ_i x(r, i) W(o, i) + bias(o) for o in [first, last); y is the whole (rows, out) matrix, bias null or
/// (out).
template <WeightRows Rows>
void row_products(MatrixView<const float> x, const Rows& weight, Index first, Index last, const float* bias,
                  MatrixView<float> y) {
  detail::row_product_streams<RowProductTuning::x_rows<Rows>, RowProductTuning::w_rows>(x, weight, first, last, bias,
                                                                                        y);
}

}  // namespace xlstm::cpu
