// SPDX-License-Identifier: Apache-2.0
// Where the operands of a blocked product (matrix_product.hpp) lie; how they are packed is each tile's own matter.
#pragma once

#include <cstdint>

#include "xlstm/core/index.hpp"
#include "xlstm/cpu/prefetch.hpp"
#include "xlstm/cpu/storage.hpp"

namespace xlstm::cpu {

/// A(m, k) = data[m · stride + k].
struct RowsOfA {
  const float* data;
  Index stride;
};

/// A(m, k) = data[k · stride + m].
struct ColumnsOfA {
  const float* data;
  Index stride;
};

/// Bytes of B's panels that stay in a 2 MiB cache, beside A and C (measured).
inline constexpr Index near_b_bytes = Index{1450} << 10;

/// Where columns [column, column + columns) of rows [first, first + count) lie.
template <WeightRows Rows>
MemoryRows memory_of(const Rows& rows, Index first, Index count, Index column, Index columns) {
  if (count <= 0 || columns <= 0) return {};
  const auto at = [&](Index r, Index c) { return static_cast<const std::uint8_t*>(rows.row(r).address(c)); };
  const std::uint8_t* const begin = at(first, column);
  return {begin, at(first, column + columns) - begin, count > 1 ? at(first + 1, column) - begin : 0, count};
}

/// B(k, n) = row n of the stored matrix, column k.
template <WeightRows Rows>
struct TransposedB {
  Rows rows;
  static constexpr Index parts() { return Rows::parts; }
  /// Of B's rows [k, k + depth) and columns [n, n + count).
  MemoryRows memory(Index k, Index depth, Index n, Index count) const { return memory_of(rows, n, count, k, depth); }
};

/// B(k, n) = row k of the stored matrix, column n.
template <WeightRows Rows>
struct PlainB {
  Rows rows;
  static constexpr Index parts() { return Rows::parts; }
  /// Of B's rows [k, k + depth) and columns [n, n + count).
  MemoryRows memory(Index k, Index depth, Index n, Index count) const { return memory_of(rows, k, depth, n, count); }
};

}  // namespace xlstm::cpu
