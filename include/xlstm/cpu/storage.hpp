// SPDX-License-Identifier: Apache-2.0
// How a row of stored weights becomes floats: one policy per storage format, all that the product kernels know of it.
#pragma once

#include <cstddef>

#include "xlstm/core/index.hpp"
#include "xlstm/cpu/simd.hpp"

namespace xlstm::cpu {

/// What a product kernel reads a weight matrix (out, in) through: vectors of simd::width floats of one row.
/// `load(column)` may touch columns [column, column + width) of its row, `load_partial` `count` < width of them;
/// `address(column)` is where that column's bytes begin (for prefetching), `row_bytes` what a row costs to read.
template <class Rows>
concept WeightRows = requires(const Rows& rows, Index i) {
  rows.row(i).load(i);
  rows.row(i).load_partial(i, i);
  rows.row(i).address(i);
  rows.row_bytes();
};

/// Row-major weights in float, bf16 or f16 as a checkpoint holds them. `data` need not be aligned beyond 2 bytes.
template <class W>
struct PlainRows {
  struct Row {
    const W* data;
    simd::Floats load(Index column) const { return simd::load(data + column); }
    simd::Floats load_partial(Index column, Index count) const { return simd::load_partial(data + column, count); }
    const void* address(Index column) const { return data + column; }
  };

  const W* data = nullptr;
  Index stride = 0;  ///< elements from one row to the next

  Row row(Index r) const { return {data + r * stride}; }
  Index row_bytes() const { return stride * static_cast<Index>(sizeof(W)); }
};

static_assert(WeightRows<PlainRows<float>> && WeightRows<PlainRows<bf16>> && WeightRows<PlainRows<f16>>);

}  // namespace xlstm::cpu
