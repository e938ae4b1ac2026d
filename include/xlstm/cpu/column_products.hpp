// SPDX-License-Identifier: Apache-2.0
// dx (+)= dy W for few rows of dy: every weight is read once, in the order in which it lies in memory, for all rows; a
// stretch of dx stays in the nearest cache while the rows of W go by.
#pragma once

#include <algorithm>

#include "xlstm/core/index.hpp"
#include "xlstm/core/view.hpp"
#include "xlstm/cpu/simd.hpp"
#include "xlstm/cpu/storage.hpp"

namespace xlstm::cpu {

namespace detail {

/// dx(r, c) += Σ_j dy(r, o + j) W(o + j, c) for Count rows of W and the columns [first, last).
template <Index Count, WeightRows Rows>
inline void add_rows(MatrixView<const float> dy, const Rows& weight, Index o, Index first, Index last,
                     MatrixView<float> dx) {
  for (Index c = first; c < last; c += simd::width) {
    const Index lanes = std::min<Index>(simd::width, last - c);
    const bool whole = lanes == simd::width;
    simd::Floats w[Count];
#pragma GCC unroll 4
    for (Index j = 0; j < Count; ++j) {
      const auto row = weight.row(o + j);
      simd::prefetch(static_cast<const char*>(row.address(c)) + 2 * Count * weight.row_bytes());
      w[j] = whole ? row.load(c) : row.load_partial(c, lanes);
    }
    for (Index r = 0; r < dy.rows(); ++r) {
      float* const to = dx.row(r) + c;
      const float* const factors = dy.row(r) + o;
      simd::Floats sum = whole ? simd::load(to) : simd::load_partial(to, lanes);
#pragma GCC unroll 4
      for (Index j = 0; j < Count; ++j) sum = simd::fma(simd::broadcast(factors[j]), w[j], sum);
      if (whole) {
        simd::store(to, sum);
      } else {
        simd::store_partial(to, sum, lanes);
      }
    }
  }
}

}  // namespace detail

/// Columns [first, last) of dx = dy W, or of dx += dy W if `add`; first is a multiple of simd::width. The sum runs in
/// the order of W's rows, so that the cut into columns changes no bit.
template <WeightRows Rows>
void column_products(MatrixView<const float> dy, const Rows& weight, Index first, Index last, MatrixView<float> dx,
                     bool add) {
  constexpr Index at_once = 4;
  const Index out = dy.cols();
  for (Index r = 0; !add && r < dx.rows(); ++r) std::fill(dx.row(r) + first, dx.row(r) + last, 0.0F);
  Index o = 0;
  for (; o + at_once <= out; o += at_once) detail::add_rows<at_once>(dy, weight, o, first, last, dx);
  for (; o < out; ++o) detail::add_rows<1>(dy, weight, o, first, last, dx);
}

}  // namespace xlstm::cpu
