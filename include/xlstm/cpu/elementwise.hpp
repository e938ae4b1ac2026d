// SPDX-License-Identifier: Apache-2.0
// Element-by-element operations on the CPU: sums, SwiGLU's product, soft caps.
#pragma once

#include <Eigen/Core>
#include <algorithm>

#include "xlstm/cell/gates.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/core/view.hpp"
#include "xlstm/cpu/vector_math.hpp"

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
      simd::for_each_vector(y.cols(), [&](Index c, Index lanes) {
        const simd::Floats g = simd::load_first(gate.row(r) + c, lanes), u = simd::load_first(up.row(r) + c, lanes);
        simd::store_first(y.row(r) + c, g * simd::sigmoid(g) * u, lanes);
      });
    }
  });
}

/// dgate = dy·up·σ(g)(1 + g(1 − σ(g))), dup = dy·silu(g). dup may be dy itself.
template <class Exec, Index F>
void swiglu_backward(Exec& exec, MatrixView<const float, F> gate, MatrixView<const float, F> up,
                     MatrixView<const float, F> dy, MatrixView<float, F> dgate, MatrixView<float, F> dup) {
  for_row_blocks(exec, dy.rows(), dy.cols(), [&](Index first, Index count) {
    for (Index r = first; r < first + count; ++r) {
      simd::for_each_vector(dy.cols(), [&](Index c, Index lanes) {
        const simd::Floats g = simd::load_first(gate.row(r) + c, lanes), u = simd::load_first(up.row(r) + c, lanes);
        const simd::Floats d = simd::load_first(dy.row(r) + c, lanes), s = simd::sigmoid(g);
        simd::store_first(dup.row(r) + c, d * g * s, lanes);
        simd::store_first(dgate.row(r) + c, d * u * s * (1.0F + g * (1.0F - s)), lanes);
      });
    }
  });
}

/// y = cap(y) in place, of one array.
template <class Cap, class Array>
void cap_array(Array&& y) {
  if constexpr (is_soft_cap<Cap>) {
    constexpr float a = static_cast<float>(Cap::value);
    y = a * (y * (1.0F / a)).tanh();
  } else if constexpr (Cap::active) {
    y = y.unaryExpr([](float x) { return Cap::apply(x); });
  }
}

/// y = cap(y) in place; nothing for NoSoftCap.
template <class Cap, class Exec, Index D>
void soft_cap(Exec& exec, MatrixView<float, D> y) {
  if constexpr (Cap::active) {
    for_row_blocks(exec, y.rows(), y.cols(), [&](Index first, Index count) {
      for (Index r = first; r < first + count; ++r) cap_array<Cap>(array_row(y, r));
    });
  }
}

}  // namespace xlstm::cpu
