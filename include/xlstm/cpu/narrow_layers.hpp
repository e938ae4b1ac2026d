// SPDX-License-Identifier: Apache-2.0
// Linear layers of a few outputs beside many rows (igate and fgate have one a head). A tile of a blocked product is
// some 32 columns wide, most of which such a layer would leave empty, and packing would take longer than multiplying.
// Seen from the other side it is a product of few rows: of yᵀ = W xᵀ, and of dW = dyᵀ x, where x is what is read once.
#pragma once

#include <algorithm>
#include <span>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/core/view.hpp"
#include "xlstm/cpu/column_products.hpp"
#include "xlstm/cpu/row_products.hpp"
#include "xlstm/cpu/simd.hpp"
#include "xlstm/cpu/storage.hpp"

namespace xlstm::cpu {

/// Up to so many outputs a layer of many rows is a narrow one.
inline constexpr Index few_outputs = 8;

namespace detail {

/// y_t = x W_tᵀ + bias_t for all tasks, which are narrow. A Task has weight, out, bias and y, as WeightTask does.
template <Executor Exec, class Task>
void narrow_layers(Exec& exec, Arena& arena, MatrixView<const float> x, std::span<const Task> tasks) {
  const ArenaScope scope(arena);
  const Index in = x.cols();
  Index outputs = 0;
  for (const Task& t : tasks) outputs += t.out;
  const MatrixView<float> weights(arena.template allocate<float>(outputs * in), outputs, in);
  Index first_output = 0;
  for (const Task& t : tasks) {
    for (Index o = 0; o < t.out; ++o) t.weight.copy_row(o, in, weights.row(first_output++));
  }
  const RowPanels panels(arena, weights, true, false, exec.size(), 1);
  constexpr Index piece = 64;
  float* const transposes = arena.template allocate<float>(exec.size() * outputs * piece);
  exec.parallel_for(ceil_div(x.rows(), piece), [&](Index p, int thread) {
    const Index first = p * piece, count = std::min(piece, x.rows() - first);
    const MatrixView<float> yt(transposes + thread * outputs * piece, outputs, count);
    row_products(panels, PlainRows<float>{x.row(first), x.stride()}, 0, count, nullptr, yt, thread);
    Index row = 0;
    for (const Task& t : tasks) {
      for (Index o = 0; o < t.out; ++o, ++row) {
        const float bias = t.bias != nullptr ? t.bias[o] : 0.0F;
        for (Index r = 0; r < count; ++r) t.y.row(first + r)[o] = yt.row(row)[r] + bias;
      }
    }
  });
}

/// dweight_t += dy_tᵀ x for all tasks, which are narrow. A Task has dy and dweight, as WeightGradientTask does.
template <Executor Exec, class Task>
void narrow_weight_gradients(Exec& exec, Arena& arena, MatrixView<const float> x, std::span<const Task> tasks) {
  const ArenaScope scope(arena);
  const auto count = static_cast<Index>(tasks.size());
  MatrixView<const float>* const transposes = arena.template allocate<MatrixView<const float>>(count);
  for (Index t = 0; t < count; ++t) {
    const MatrixView<const float> dy = tasks[static_cast<std::size_t>(t)].dy;
    const MatrixView<float> transposed(arena.template allocate<float>(dy.size()), dy.cols(), dy.rows());
    for (Index r = 0; r < dy.rows(); ++r) {
      for (Index o = 0; o < dy.cols(); ++o) transposed.row(o)[r] = dy.row(r)[o];
    }
    transposes[t] = transposed;
  }
  const Index in = x.cols(), most_columns = 256;
  const Index columns = std::clamp<Index>(round_up(ceil_div(in, 2 * exec.size()), 64), 64, most_columns);
  float* const sums = arena.template allocate<float>(exec.size() * few_outputs * most_columns);
  exec.parallel_for(ceil_div(in, columns), [&](Index piece, int thread) {
    const Index first = piece * columns, width = std::min(columns, in - first);
    for (Index t = 0; t < count; ++t) {
      const MatrixView<const float> dyt = transposes[t];
      const MatrixView<float> some(sums + thread * few_outputs * most_columns, dyt.rows(), width);
      // Sums of all rows in one chain would lose more to rounding than a wider layer's.
      constexpr Index rows_at_once = 1024;
      for (Index k = 0; k < dyt.cols(); k += rows_at_once) {
        column_products(dyt.middle_cols(k, std::min(rows_at_once, dyt.cols() - k)),
                        PlainRows<float>{x.row(k) + first, x.stride()}, 0, width, some, false);
        for (Index o = 0; o < dyt.rows(); ++o) {
          float* const to = tasks[static_cast<std::size_t>(t)].dweight + o * in + first;
          for (Index c = 0; c < width; ++c) to[c] += some.row(o)[c];
        }
      }
    }
  });
}

}  // namespace detail

}  // namespace xlstm::cpu
