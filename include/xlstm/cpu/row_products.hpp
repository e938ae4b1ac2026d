// SPDX-License-Identifier: Apache-2.0
// y = x Wᵀ + bias for few rows of x (decoding): every weight is read from memory once, in the order in which it lies
// there, for all rows; both operands run along `in`, so nothing is packed or transposed.
#pragma once

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/core/view.hpp"
#include "xlstm/cpu/amx_row_products.hpp"
#include "xlstm/cpu/simd.hpp"
#include "xlstm/cpu/storage.hpp"

namespace xlstm::cpu {

/// The measured choices: how many rows of x and of W one tile of accumulators holds, and how far ahead to ask for
/// weights. An accumulator is one vector whose lanes are added at the end: the tile's shape changes no bit of a result.
/// A vector of weights that has become floats serves all rows of x in the tile, so that these come first: with 8 rows
/// the products are limited by arithmetic.
struct RowProductTuning {
  struct Tile {
    Index x_rows, w_rows;
  };
  static constexpr Tile low = simd::registers == 32 ? Tile{6, 4} : Tile{2, 4};
  static constexpr Tile high = simd::registers == 32 ? Tile{8, 3} : Tile{4, 2};
  static constexpr Index bytes_ahead = 2048;
};

/// The rows of x in the order in which tiles read them: tile after tile, in each the vectors of its rows for the first
/// simd::width columns, then those for the next, and so on, so that no stride of x makes them compete for a place in
/// the cache. Columns beyond the last are zeros. Memory is the arena's.
class RowPanels {
 public:
  RowPanels() = default;
  /// In the order for weights that are paired (bf16), for others, or for both, on so many threads;
  /// on AMX in so many parts (AmxRowPanels).
  RowPanels(Arena& arena, MatrixView<const float> x, bool natural, bool paired, [[maybe_unused]] Index threads,
            [[maybe_unused]] Index parts)
      : x_(x), tiles_(ceil_div(x.rows(), RowProductTuning::high.x_rows)), cols_(round_up(x.cols(), simd::width)) {
#if defined(XLSTM_SIMD_AMX)
    const Index least = parts == 1 ? AmxRowTuning::least_rounded_rows : AmxRowTuning::least_rows;
    if (paired && x.rows() >= least && x.rows() <= AmxRowPanels::most_rows && amx::permitted()) {
      amx_panels_ = arena.allocate<AmxRowPanels>(threads);
      for (Index t = 0; t < threads; ++t) amx_panels_[t] = AmxRowPanels(arena, x, parts);
    }
#endif
    for (const bool pair : {false, true}) {
      if (!(pair ? paired && !on_amx() : natural)) continue;
      panels_[pair] = arena.allocate<float>(x.rows() * cols_);
      for (Index t = 0; t < tiles_; ++t) {
        for (Index r = 0; r < count(t); ++r)
          pack(x.row(begin(t) + r), pair, count(t), panel(t, pair) + r * simd::width);
      }
    }
  }

  MatrixView<const float> rows() const { return x_; }
#if defined(XLSTM_SIMD_AMX)
  /// Whether paired weights are multiplied on AMX.
  bool on_amx() const { return amx_panels_ != nullptr; }
  /// A thread packs for itself: getting what another has just written into its cache takes longer.
  const AmxRowPanels& amx_panels(int thread) const {
    amx_panels_[thread].fill();
    return amx_panels_[thread];
  }
#else
  static constexpr bool on_amx() { return false; }
#endif
  Index tiles() const { return tiles_; }
  Index begin(Index tile) const { return x_.rows() * tile / tiles_; }
  Index count(Index tile) const { return begin(tile + 1) - begin(tile); }
  const float* panel(Index tile, bool paired) const { return panels_[paired] + begin(tile) * cols_; }

 private:
  float* panel(Index tile, bool paired) { return panels_[paired] + begin(tile) * cols_; }
  void pack(const float* from, bool pair, Index rows, float* to) const {
    const Index step = rows * simd::width;
    Index c = 0;
    for (; pair && c + 2 * simd::width <= x_.cols(); c += 2 * simd::width, to += 2 * step) {
      simd::Floats even, odd;
      simd::split_pairs(simd::load(from + c), simd::load(from + c + simd::width), even, odd);
      simd::store(to, even);
      simd::store(to + step, odd);
    }
    for (; c + simd::width <= x_.cols(); c += simd::width, to += step) simd::store(to, simd::load(from + c));
    if (c < x_.cols()) simd::store(to, simd::load_partial(from + c, x_.cols() - c));
  }

  MatrixView<const float> x_;
  Index tiles_ = 0;
  Index cols_ = 0;
  float* panels_[2] = {};
#if defined(XLSTM_SIMD_AMX)
  AmxRowPanels* amx_panels_ = nullptr;  // one for each thread
#endif
};

namespace detail {

/// A panel of XRows rows of x times the rows `first`, first + spacing, … of W, to rows of y from `y_row` on.
template <Index XRows, Index WRows, WeightRows Rows>
inline void row_product_tile(const float* panel, Index in, const Rows& weight, Index first, Index spacing,
                             const float* bias, MatrixView<float> y, Index y_row) {
  constexpr Index sums = XRows * WRows;
  constexpr bool own_products = requires(simd::Floats w) { Rows::multiply_add(w, w, w); };  // nvcc asks not in a lambda
  simd::Floats sum[sums] = {};
  decltype(weight.row(0)) row[WRows];
#pragma GCC unroll 8
  for (Index o = 0; o < WRows; ++o) row[o] = weight.row(first + o * spacing);
  const auto accumulate = [&](auto&& load_w) {
    simd::Floats w[WRows];
#pragma GCC unroll 8
    for (Index o = 0; o < WRows; ++o) w[o] = load_w(o);
#pragma GCC unroll 8
    for (Index r = 0; r < XRows; ++r) {
      const simd::Floats v = simd::load(panel + r * simd::width);
#pragma GCC unroll 8
      for (Index o = 0; o < WRows; ++o) {
        if constexpr (own_products) {
          sum[r * WRows + o] = Rows::multiply_add(w[o], v, sum[r * WRows + o]);
        } else {
          sum[r * WRows + o] = simd::fma(w[o], v, sum[r * WRows + o]);
        }
      }
    }
    panel += XRows * simd::width;
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
      accumulate([&](Index o) { return blocks[static_cast<std::size_t>(o)].vector(i); });
    }
  }
  for (; c + simd::width <= in; c += simd::width) accumulate([&](Index o) { return row[o].load(c); });
  if (c < in) accumulate([&](Index o) { return row[o].load_partial(c, in - c); });
  float total[sums];
#pragma GCC unroll 8
  for (Index i = 0; i + 4 <= sums; i += 4) {
    const simd::Floats four[4] = {sum[i], sum[i + 1], sum[i + 2], sum[i + 3]};
    simd::reduce_add_four(four, total + i);
  }
#pragma GCC unroll 4
  for (Index i = sums / 4 * 4; i < sums; ++i) total[i] = simd::reduce_add(sum[i]);
#pragma GCC unroll 8
  for (Index r = 0; r < XRows; ++r) {
#pragma GCC unroll 8
    for (Index o = 0; o < WRows; ++o) {
      const Index to = first + o * spacing;
      y.row(y_row + r)[to] = total[r * WRows + o] + (bias != nullptr ? bias[to] : 0.0F);
    }
  }
}

/// The same for any number of rows from Least to XRows.
template <Index XRows, Index Least, Index WRows, WeightRows Rows>
inline void row_product_few(const float* panel, Index count, Index in, const Rows& weight, Index first, Index spacing,
                            const float* bias, MatrixView<float> y, Index y_row) {
  if constexpr (XRows > Least) {
    if (count < XRows) {
      return row_product_few<XRows - 1, Least, WRows>(panel, count, in, weight, first, spacing, bias, y, y_row);
    }
  }
  row_product_tile<XRows, WRows>(panel, in, weight, first, spacing, bias, y, y_row);
}

/// Rows [first, last) of W as WRows streams, each a contiguous part of them: a core's prefetchers follow one stream a
/// page, and several far apart bring in half as much again as one. Tiles of x have Least to XRows rows.
template <Index XRows, Index Least, Index WRows, WeightRows Rows>
inline void row_product_streams(const RowPanels& x, const Rows& weight, Index first, Index last, const float* bias,
                                MatrixView<float> y) {
  const Index in = x.rows().cols();
  const Index length = (last - first) / WRows;
  for (Index o = first; o < first + length; ++o) {
    for (Index t = 0; t < x.tiles(); ++t) {
      row_product_few<XRows, Least, WRows>(x.panel(t, Rows::paired), x.count(t), in, weight, o, length, bias, y,
                                           x.begin(t));
    }
  }
  for (Index o = first + length * WRows; o < last; ++o) {
    for (Index t = 0; t < x.tiles(); ++t) {
      row_product_few<XRows, Least, 1>(x.panel(t, Rows::paired), x.count(t), in, weight, o, 0, bias, y, x.begin(t));
    }
  }
}

}  // namespace detail

/// y(r, o) = Σ_i x(r, i) W(o, i) + bias(o) for o in [first, last); y is the whole (rows, out) matrix, bias null or
/// (out). x has the order that Rows::paired says. `thread` is the calling one's number.
template <WeightRows Rows>
void row_products(const RowPanels& x, const Rows& weight, Index first, Index last, const float* bias,
                  MatrixView<float> y, [[maybe_unused]] int thread) {
#if defined(XLSTM_SIMD_AMX)
  if constexpr (std::is_same_v<Rows, PlainRows<bf16>>) {
    if (x.on_amx()) return amx_row_products(x.amx_panels(thread), weight, first, last, bias, y);
  }
#endif
  constexpr RowProductTuning::Tile low = RowProductTuning::low, high = RowProductTuning::high;
  if (x.rows().rows() <= x.tiles() * low.x_rows) {
    detail::row_product_streams<low.x_rows, 1, low.w_rows>(x, weight, first, last, bias, y);
  } else {
    detail::row_product_streams<high.x_rows, low.x_rows, high.w_rows>(x, weight, first, last, bias, y);
  }
}

}  // namespace xlstm::cpu
