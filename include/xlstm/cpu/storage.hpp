// SPDX-License-Identifier: Apache-2.0
// How a row of stored weights becomes floats: one policy per storage format, all that the product kernels know of it.
#pragma once

#include <cstddef>
#include <type_traits>

#include "xlstm/core/index.hpp"
#include "xlstm/cpu/simd.hpp"
#include "xlstm/nn/parameter.hpp"

namespace xlstm::cpu {

/// What a product kernel reads a weight matrix (out, in) through: vectors of simd::width floats of one row.
/// `load(column)` may touch columns [column, column + width) of its row, `load_partial` `count` < width of them; column
/// is a multiple of width. `block(column)` is what the fastest loop reads: `block_columns` columns (a multiple of
/// width) from a multiple of that on, all inside the row, `vector(i)` the i-th width of them; of `paired` rows
/// `vector(0)` is the block's even columns and `vector(1)` its odd ones.
/// `parts` is how many bf16 make up an element exactly (amx_tiles.hpp).
/// `address(column)` is where that column's bytes begin (for prefetching), `row_bytes` what a row costs to read.
template <class Rows>
concept WeightRows = requires(const Rows& rows, Index i) {
  rows.row(i).load(i);
  rows.row(i).load_partial(i, i);
  rows.row(i).block(i).vector(i);
  rows.row(i).address(i);
  rows.row_bytes();
  Rows::block_columns;
  Rows::paired;
  Rows::parts;
};

/// Row-major weights in float, bf16 or f16 as a checkpoint holds them. `data` need not be aligned beyond 2 bytes.
template <class W>
struct PlainRows {
  static constexpr bool paired = std::is_same_v<W, bf16>;  // a shift or a mask turns half of a vector into floats
  static constexpr Index block_columns = paired ? 2 * simd::width : simd::width;
  static constexpr Index parts = paired ? 1 : std::is_same_v<W, f16> ? 2 : 3;
  struct Block {
    const W* data;
    simd::Floats vector(Index i) const {
      if constexpr (paired) {
        return i == 0 ? simd::load_even(data) : simd::load_odd(data);
      } else {
        return simd::load(data + i * simd::width);
      }
    }
  };
  struct Row {
    const W* data;
    simd::Floats load(Index column) const { return simd::load(data + column); }
    simd::Floats load_partial(Index column, Index count) const { return simd::load_partial(data + column, count); }
    Block block(Index column) const { return {data + column}; }
    const void* address(Index column) const { return data + column; }
  };

  const W* data = nullptr;
  Index stride = 0;  ///< elements from one row to the next

  Row row(Index r) const { return {data + r * stride}; }
  Index row_bytes() const { return stride * static_cast<Index>(sizeof(W)); }
};

static_assert(WeightRows<PlainRows<float>> && WeightRows<PlainRows<bf16>> && WeightRows<PlainRows<f16>>);

/// The rows of a parameter.
template <class W, Index Out, Index In>
PlainRows<W> weight_rows(const DenseWeight<W, Out, In>& weight) {
  return {weight.data(), In};
}

}  // namespace xlstm::cpu
