// SPDX-License-Identifier: Apache-2.0
// Element-by-element operations on the CPU, by Eigen's vectorised arrays: SwiGLU's product, soft caps.
#pragma once

#include <Eigen/Core>
#include <algorithm>

#include "xlstm/core/executor.hpp"
#include "xlstm/core/view.hpp"

namespace xlstm::cpu {

using ConstArray = Eigen::Map<const Eigen::ArrayXf>;
using MutableArray = Eigen::Map<Eigen::ArrayXf>;

/// Rows that are worth handing to another thread. They depend on the shape alone, so that results never depend on the
/// number of threads.
constexpr Index rows_per_block(Index cols) {
  constexpr Index values_per_task = 16384;
  return std::max<Index>(1, values_per_task / std::max<Index>(1, cols));
}
constexpr Index row_blocks(Index rows, Index cols) { return ceil_div(rows, rows_per_block(cols)); }

/// Calls f(first, count) for blocks of rows_per_block rows.
template <class Exec, class F>
void for_row_blocks(Exec& exec, Index rows, Index cols, F&& f) {
  const Index block = rows_per_block(cols);
  exec.parallel_for(row_blocks(rows, cols), [&](Index task, int) {
    const Index first = task * block;
    f(first, std::min(block, rows - first));
  });
}

/// Calls f(first, count) for blocks of columns: for sums over rows, which stay in order within a column.
template <class Exec, class F>
void for_column_blocks(Exec& exec, Index cols, F&& f) {
  constexpr Index block = 256;
  exec.parallel_for(ceil_div(cols, block), [&](Index task, int) {
    const Index first = task * block;
    f(first, std::min(block, cols - first));
  });
}

template <class T, Index C>
auto array_row(const MatrixView<T, C>& m, Index r) {
  return Eigen::Map<std::conditional_t<std::is_const_v<T>, const Eigen::ArrayXf, Eigen::ArrayXf>>(m.row(r), m.cols());
}

/// y += x.
template <class Exec, Index D>
void add(Exec& exec, MatrixView<const float, D> x, MatrixView<float, D> y) {
  for_row_blocks(exec, y.rows(), y.cols(), [&](Index first, Index count) {
    for (Index r = first; r < first + count; ++r) array_row(y, r) += array_row(x, r);
  });
}

/// y = silu(gate) ⊙ up.
template <class Exec, Index F>
void swiglu(Exec& exec, MatrixView<const float, F> gate, MatrixView<const float, F> up, MatrixView<float, F> y) {
  for_row_blocks(exec, y.rows(), y.cols(), [&](Index first, Index count) {
    for (Index r = first; r < first + count; ++r) {
      array_row(y, r) = array_row(gate, r) * array_row(gate, r).logistic() * array_row(up, r);
    }
  });
}

/// dgate = dy·up·σ(g)(1 + g(1 − σ(g))), dup = dy·silu(g). dup may be dy itself.
template <class Exec, Index F>
void swiglu_backward(Exec& exec, MatrixView<const float, F> gate, MatrixView<const float, F> up,
                     MatrixView<const float, F> dy, MatrixView<float, F> dgate, MatrixView<float, F> dup) {
  for_row_blocks(exec, dy.rows(), dy.cols(), [&](Index first, Index count) {
    for (Index r = first; r < first + count; ++r) {
      const auto g = array_row(gate, r);
      auto s = array_row(dgate, r);  // holds σ(g) until both results are made from it
      s = g.logistic();
      constexpr Index piece = 64;
      for (Index c = 0; c < dy.cols(); c += piece) {
        const Index n = std::min(piece, dy.cols() - c);
        Eigen::Array<float, Eigen::Dynamic, 1, 0, piece, 1> d = array_row(dy, r).segment(c, n);
        const auto gc = g.segment(c, n);
        auto sc = s.segment(c, n);
        array_row(dup, r).segment(c, n) = d * gc * sc;
        sc = d * array_row(up, r).segment(c, n) * sc * (1.0F + gc * (1.0F - sc));
      }
    }
  });
}

/// y = a·tanh(y/a) in place; nothing for NoSoftCap.
template <class Cap, class Exec, Index D>
void soft_cap(Exec& exec, MatrixView<float, D> y) {
  if constexpr (Cap::active) {
    constexpr float a = static_cast<float>(Cap::value);
    for_row_blocks(exec, y.rows(), y.cols(), [&](Index first, Index count) {
      for (Index r = first; r < first + count; ++r) array_row(y, r) = a * (array_row(y, r) * (1.0F / a)).tanh();
    });
  }
}

}  // namespace xlstm::cpu
