// SPDX-License-Identifier: Apache-2.0
// Where the operands of a blocked product (matrix_product.hpp) lie; how they are packed is each tile's own matter.
#pragma once

#include "xlstm/core/index.hpp"
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

/// B(k, n) = row n of the stored matrix, column k.
template <WeightRows Rows>
struct TransposedB {
  Rows rows;
  static constexpr Index parts() { return Rows::parts; }
};

/// B(k, n) = row k of the stored matrix, column n.
template <WeightRows Rows>
struct PlainB {
  Rows rows;
  static constexpr Index parts() { return Rows::parts; }
};

}  // namespace xlstm::cpu
