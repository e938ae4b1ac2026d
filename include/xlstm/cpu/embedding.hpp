// SPDX-License-Identifier: Apache-2.0
// Rows of the embedding matrix, and their gradient.
#pragma once

#include <span>

#include "xlstm/core/element.hpp"
#include "xlstm/cpu/elementwise.hpp"

namespace xlstm::cpu {

/// y_r = weight[tokens[r]]; W is float, bf16 or f16.
template <class W, class Exec, Index D>
void embed(Exec& exec, std::span<const Token> tokens, const W* weight, MatrixView<float, D> y) {
  for_row_blocks(exec, y.rows(), y.cols(), [&](Index first, Index count) {
    for (Index r = first; r < first + count; ++r) {
      const W* row = weight + Index{tokens[static_cast<std::size_t>(r)]} * y.cols();
      for (Index c = 0; c < y.cols(); ++c) y.row(r)[c] = static_cast<float>(row[c]);
    }
  });
}

/// dweight[tokens[r]] += dy_r; a task owns columns, so equal tokens never meet and the order of additions is fixed.
template <class Exec, Index D>
void embed_backward(Exec& exec, std::span<const Token> tokens, MatrixView<const float, D> dy, float* dweight) {
  for_column_blocks(exec, dy.cols(), [&](Index first, Index count) {
    for (Index r = 0; r < dy.rows(); ++r) {
      const Index token = tokens[static_cast<std::size_t>(r)];
      MutableArray(dweight + token * dy.cols() + first, count) += array_row(dy, r).segment(first, count);
    }
  });
}

}  // namespace xlstm::cpu
