// SPDX-License-Identifier: Apache-2.0
// y = x Wᵀ + bias for few rows of x (decoding): every weight is read from memory once, in the order in which it lies
// there, for all rows; both operands run along `in`, so nothing is packed or transposed.
#pragma once

#include <algorithm>

#include "xlstm/core/index.hpp"
#include "xlstm/core/view.hpp"
#include "xlstm/cpu/simd.hpp"
#include "xlstm/cpu/storage.hpp"

namespace xlstm::cpu {

/// The measured choices: how many rows of x and of W one tile of accumulators holds. An accumulator is one vector whose
/// lanes are added at the end; what a tile's shape is changes no bit of the result.
struct RowProductTuning {
  static constexpr int x_rows = simd::registers == 32 ? 6 : 3;
  static constexpr int w_rows = simd::registers == 32 ? 4 : 3;
  static constexpr int w_rows_for_one = 4;  ///< with a single row of x
};

namespace detail {

template <int XRows, int WRows, WeightRows Rows>
inline void row_product_tile(const float* x, Index x_stride, const Rows& weight, Index first, Index in,
                             const float* bias, float* y, Index y_stride) {
  simd::Floats sum[XRows][WRows] = {};
  decltype(weight.row(0)) row[WRows];
#pragma GCC unroll 8
  for (int o = 0; o < WRows; ++o) row[o] = weight.row(first + o);
  const auto accumulate = [&](auto&& load_w, auto&& load_x) {
    simd::Floats w[WRows];
#pragma GCC unroll 8
    for (int o = 0; o < WRows; ++o) w[o] = load_w(row[o]);
#pragma GCC unroll 8
    for (int r = 0; r < XRows; ++r) {
      const simd::Floats v = load_x(x + r * x_stride);
#pragma GCC unroll 8
      for (int o = 0; o < WRows; ++o) sum[r][o] = simd::fma(w[o], v, sum[r][o]);
    }
  };
  Index c = 0;
  for (; c + simd::width <= in; c += simd::width) {
    accumulate([c](const auto& w) { return w.load(c); }, [c](const float* p) { return simd::load(p + c); });
  }
  if (const Index rest = in - c; rest > 0) {
    accumulate([c, rest](const auto& w) { return w.load_partial(c, rest); },
               [c, rest](const float* p) { return simd::load_partial(p + c, rest); });
  }
  for (int r = 0; r < XRows; ++r) {
    for (int o = 0; o < WRows; ++o) {
      y[r * y_stride + first + o] = simd::reduce_add(sum[r][o]) + (bias != nullptr ? bias[first + o] : 0.0F);
    }
  }
}

template <int XRows, int WRows, WeightRows Rows>
inline void row_product_rows(const float* x, Index x_stride, const Rows& weight, Index first, Index last, Index in,
                             const float* bias, float* y, Index y_stride) {
  Index o = first;
  for (; o + WRows <= last; o += WRows) {
    row_product_tile<XRows, WRows>(x, x_stride, weight, o, in, bias, y, y_stride);
  }
  for (; o < last; ++o) row_product_tile<XRows, 1>(x, x_stride, weight, o, in, bias, y, y_stride);
}

/// `rows` ≤ XRows rows of x against weight rows [first, last).
template <int XRows, int WRows, WeightRows Rows>
inline void row_product_dispatch(Index rows, const float* x, Index x_stride, const Rows& weight, Index first,
                                 Index last, Index in, const float* bias, float* y, Index y_stride) {
  if (rows == XRows) {
    row_product_rows<XRows, WRows>(x, x_stride, weight, first, last, in, bias, y, y_stride);
  } else if constexpr (XRows > 1) {
    row_product_dispatch<XRows - 1, WRows>(rows, x, x_stride, weight, first, last, in, bias, y, y_stride);
  }
}

}  // namespace detail

/// y(r, o) = Σ_i x(r, i) W(o, i) + bias(o) for o in [first, last); y is the whole (rows, out) matrix, bias null or
/// (out).
template <WeightRows Rows>
void row_products(MatrixView<const float> x, const Rows& weight, Index first, Index last, const float* bias,
                  MatrixView<float> y) {
  using Tuning = RowProductTuning;
  if (x.rows() == 1) {
    detail::row_product_rows<1, Tuning::w_rows_for_one>(x.data(), 0, weight, first, last, x.cols(), bias, y.data(), 0);
    return;
  }
  // A band of W that stays in the first-level cache while all rows of x pass over it.
  const Index band = round_up(std::max<Index>(1, 16384 / std::max<Index>(1, weight.row_bytes())), Tuning::w_rows);
  for (Index o = first; o < last; o += band) {
    for (Index r = 0; r < x.rows(); r += Tuning::x_rows) {
      const Index rows = std::min<Index>(Tuning::x_rows, x.rows() - r);
      detail::row_product_dispatch<Tuning::x_rows, Tuning::w_rows>(
          rows, x.row(r), x.stride(), weight, o, std::min(o + band, last), x.cols(), bias, y.row(r), y.stride());
    }
  }
}

}  // namespace xlstm::cpu
