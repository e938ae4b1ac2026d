// SPDX-License-Identifier: Apache-2.0
// What a product of matrices in a device's memory is, as the library says it (row-major, like all of its matrices) and
// as BLAS libraries take it (column-major): a row-major matrix is its transpose column-major, and D = A B is
// Dᵀ = Bᵀ Aᵀ.
#pragma once

#include <cstdint>

#include "xlstm/core/index.hpp"

namespace xlstm::cuda {

/// D = A B, or D += A B, D (m × n), A (m × k), B (k × n), row-major. Row r of a matrix as it is stored begins at
/// r·stride; a transposed operand is stored as its transpose: A as (k × m), B as (n × k).
struct MatrixProduct {
  Index m = 0;
  Index n = 0;
  Index k = 0;
  Index a_stride = 0;
  Index b_stride = 0;
  Index d_stride = 0;
  bool a_transposed = false;
  bool b_transposed = false;
  bool add = false;
};

/// A matrix as it is stored, column c beginning at c·stride, and whether its transpose takes part.
struct ColumnMajorMatrix {
  Index rows = 0;
  Index cols = 0;
  Index stride = 0;
  bool transposed = false;

  friend bool operator==(const ColumnMajorMatrix&, const ColumnMajorMatrix&) = default;
};

/// result = first second: first is the library's B, second its A, result its D. A bias of the library's, one value a
/// column, is one value a row here.
struct ColumnMajorProduct {
  ColumnMajorMatrix first;
  ColumnMajorMatrix second;
  ColumnMajorMatrix result;
};

/// A row-major operand (rows × cols), perhaps stored as its transpose.
constexpr ColumnMajorMatrix column_major_operand(Index rows, Index cols, Index stride, bool transposed) {
  ColumnMajorMatrix matrix;
  matrix.rows = transposed ? rows : cols;
  matrix.cols = transposed ? cols : rows;
  matrix.stride = stride;
  matrix.transposed = transposed;
  return matrix;
}

constexpr ColumnMajorProduct column_major(const MatrixProduct& p) {
  ColumnMajorProduct product;
  product.first = column_major_operand(p.k, p.n, p.b_stride, p.b_transposed);
  product.second = column_major_operand(p.m, p.k, p.a_stride, p.a_transposed);
  product.result = column_major_operand(p.m, p.n, p.d_stride, false);
  return product;
}

/// Y = X Wᵀ for X (rows, in) and W (out, in).
constexpr MatrixProduct linear_product(Index rows, Index in, Index out, Index x_stride, Index y_stride) {
  return {
      .m = rows, .n = out, .k = in, .a_stride = x_stride, .b_stride = in, .d_stride = y_stride, .b_transposed = true};
}
/// dX (+)= dY W.
constexpr MatrixProduct linear_backward_input_product(Index rows, Index in, Index out, Index dy_stride, Index dx_stride,
                                                      bool add) {
  return {.m = rows, .n = in, .k = out, .a_stride = dy_stride, .b_stride = in, .d_stride = dx_stride, .add = add};
}
/// dW += dYᵀ X.
constexpr MatrixProduct linear_backward_weight_product(Index rows, Index in, Index out, Index dy_stride,
                                                       Index x_stride) {
  return {.m = out,
          .n = in,
          .k = rows,
          .a_stride = dy_stride,
          .b_stride = x_stride,
          .d_stride = in,
          .a_transposed = true,
          .add = true};
}

/// The largest power of two up to 256 that divides an address: what a BLAS library may be promised of it.
inline Index alignment_of(const void* address) {
  const auto bits = reinterpret_cast<std::uintptr_t>(address) | 256U;
  return static_cast<Index>(bits & (~bits + 1));
}

}  // namespace xlstm::cuda
