// SPDX-License-Identifier: Apache-2.0
// The linear layer y = x Wᵀ + bias and its backward on the CPU. Weights are (out, in) in any format that WeightRows
// reads (storage.hpp, quantized_rows.hpp), used where they lie; arithmetic is fp32, or of its precision
// (amx_tiles.hpp): dx = dy W, dW = dyᵀ x, dbias = Σ_rows dy. Integer products of rounded inputs are in
// int8_activations.hpp and integer_product.hpp.
//
// Results do not depend on the number of threads, bit for bit. A row's result does not depend on what the other rows
// hold; it depends on how many there are only in the order of its additions: up to `few_rows` rows, and above, the sums
// are grouped differently, which changes the result by rounding only; on AMX and with bf16 weights below
// `AmxRowTuning::least_rows` too. Layers of up to `few_outputs` outputs have kernels of their own (narrow_layers.hpp).
#pragma once

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <span>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/core/view.hpp"
#include "xlstm/cpu/column_products.hpp"
#include "xlstm/cpu/matrix_product.hpp"
#include "xlstm/cpu/narrow_layers.hpp"
#include "xlstm/cpu/row_products.hpp"
#include "xlstm/cpu/storage.hpp"
#include "xlstm/cpu/weight_gradients.hpp"

namespace xlstm::cpu {

/// Up to so many rows the weights are streamed once past all rows; above, the product is blocked.
inline constexpr Index few_rows = 32;
/// The same for the gradient of the input.
inline constexpr Index few_gradient_rows = 16;

/// One of several products of the same x: y (rows, out) = x Wᵀ + bias. `bias` is null or (out).
template <class W>
struct LinearTask {
  const W* weight;  ///< (out, in), row-major
  Index out;
  const float* bias;
  MatrixView<float> y;
};

namespace detail {

/// What the products need of a format, so that one group may hold weights of several.
struct WeightKernels {
  void (*row_products)(const RowPanels& x, const void* rows, Index first, Index last, const float* bias,
                       MatrixView<float> y, int thread);
  void (*copy_row)(const void* rows, Index row, Index columns, float* to);
  MemoryRows (*memory)(const void* rows, Index k, Index depth, Index n, Index count);
  void (*pack)(const void* rows, Index k, Index depth, Index n, Index count, float* panels);
  void (*pack_highest)(const void* rows, Index k, Index depth, Index n, Index count, std::uint32_t* panels);
  void (*pack_high)(const void* rows, Index k, Index depth, Index n, Index count, std::uint32_t* panels);
};
template <class Tiles, class Rows>
void pack_weights(const void* rows, Index k, Index depth, Index n, Index count, typename Tiles::Element* panels) {
  Tiles::pack_b(TransposedB<Rows>{*static_cast<const Rows*>(rows)}, k, depth, n, count, panels);
}
template <WeightRows Rows>
inline constexpr WeightKernels weight_kernels = {
    [](const RowPanels& x, const void* rows, Index first, Index last, const float* bias, MatrixView<float> y,
       int thread) { row_products(x, *static_cast<const Rows*>(rows), first, last, bias, y, thread); },
    [](const void* rows, Index row, Index columns, float* to) {
      const auto from = static_cast<const Rows*>(rows)->row(row);
      Index c = 0;
      for (; c + simd::width <= columns; c += simd::width) simd::store(to + c, from.load(c));
      if (c < columns) simd::store_partial(to + c, from.load_partial(c, columns - c), columns - c);
    },
    [](const void* rows, Index k, Index depth, Index n, Index count) {
      return TransposedB<Rows>{*static_cast<const Rows*>(rows)}.memory(k, depth, n, count);
    },
    pack_weights<VectorTiles, Rows>,
#if defined(XLSTM_SIMD_AMX)
    pack_weights<AmxTiles<HighestPrecision>, Rows>,
    pack_weights<AmxTiles<HighPrecision>, Rows>,
#else
    nullptr,
    nullptr,
#endif
};

}  // namespace detail

/// Rows of weights of any format; refers to what it is made of.
class AnyWeightRows {
 public:
  AnyWeightRows() = default;
  template <WeightRows Rows>
  explicit AnyWeightRows(const Rows& rows)
      : rows_(&rows),
        kernels_(&detail::weight_kernels<Rows>),
        row_bytes_(rows.row_bytes()),
        parts_(Rows::parts),
        paired_(Rows::paired) {}

  Index row_bytes() const { return row_bytes_; }
  bool paired() const { return paired_; }
  /// See row_products.hpp; x in the order that paired() says.
  void row_products(const RowPanels& x, Index first, Index last, const float* bias, MatrixView<float> y,
                    int thread) const {
    kernels_->row_products(x, rows_, first, last, bias, y, thread);
  }
  /// The first columns of a row, as floats.
  void copy_row(Index row, Index columns, float* to) const { kernels_->copy_row(rows_, row, columns, to); }
  /// As the right-hand side of a blocked product (see TransposedB), for VectorTiles or AmxTiles.
  template <class Tiles>
  void pack(Index k, Index depth, Index n, Index count, typename Tiles::Element* panels) const {
    if constexpr (std::is_same_v<Tiles, VectorTiles>) {
      kernels_->pack(rows_, k, depth, n, count, panels);
    } else if constexpr (Tiles::a_parts == HighestPrecision::bf16_parts) {
      kernels_->pack_highest(rows_, k, depth, n, count, panels);
    } else {
      kernels_->pack_high(rows_, k, depth, n, count, panels);
    }
  }
  Index parts() const { return parts_; }
  MemoryRows memory(Index k, Index depth, Index n, Index count) const {
    return kernels_->memory(rows_, k, depth, n, count);
  }

 private:
  const void* rows_ = nullptr;
  const detail::WeightKernels* kernels_ = nullptr;
  Index row_bytes_ = 0;
  Index parts_ = 1;
  bool paired_ = false;
};

/// One of several products of the same x, whatever the format of its weights: y (rows, out) = x Wᵀ + bias.
struct WeightTask {
  AnyWeightRows weight;  ///< (out, in)
  Index out;
  const float* bias;  ///< null or (out)
  MatrixView<float> y;
};

namespace detail {

/// All tasks' rows of weights in one parallel region, in pieces of contiguous memory: up to 512 KiB, on AMX up to
/// 2 MiB, which is long for a core's prefetchers; where that would be too few for the threads to share evenly, smaller
/// ones. `parts`: of x on AMX (AmxRowPanels).
template <Executor Exec>
void row_product_group(Exec& exec, Arena& arena, MatrixView<const float> x, std::span<const WeightTask> tasks,
                       Index parts = 3) {
  const ArenaScope scope(arena);
  const auto any = [tasks](bool paired) {
    return std::any_of(tasks.begin(), tasks.end(), [=](const auto& t) { return t.weight.paired() == paired; });
  };
  const RowPanels panels(arena, x, any(false), any(true), exec.size(), parts);
  Index bytes = 0;
  for (const auto& task : tasks) bytes += task.out * task.weight.row_bytes();
  const bool on_amx = panels.on_amx();
  // Of several matrices of different sizes finer pieces, which threads can share evenly.
  const Index wanted = (tasks.size() > 2 ? 2 : 1) * exec.size();
  const Index piece_bytes = on_amx ? std::clamp<Index>(bytes / wanted, Index{1} << 15, AmxRowTuning::piece_bytes)
                                   : std::clamp<Index>(bytes / (4 * exec.size()), Index{1} << 15, Index{1} << 19);
  const auto piece_rows = [=](const WeightTask& task) {
    const Index rows = std::max<Index>(1, piece_bytes / std::max<Index>(1, task.weight.row_bytes()));
    const Index pieces = std::max<Index>(1, ceil_div(task.out, rows));
    return on_amx ? round_up(std::max<Index>(1, ceil_div(task.out, pieces)), 32) : round_up(rows, 24);
  };
  Index pieces = 0;
  for (const auto& task : tasks) pieces += ceil_div(task.out, piece_rows(task));
  exec.parallel_for(pieces, [&](Index piece, int thread) {
    for (const auto& task : tasks) {
      const Index rows = piece_rows(task);
      const Index count = ceil_div(task.out, rows);
      if (piece < count) {
        task.weight.row_products(panels, piece * rows, std::min(task.out, (piece + 1) * rows), task.bias, task.y,
                                 thread);
        return;
      }
      piece -= count;
    }
  });
}

}  // namespace detail

/// y_t = x W_tᵀ + bias_t for every task, in one parallel region: x is (rows, in), W_t (out_t, in), y_t (rows, out_t).
template <class Precision = HighestPrecision, Executor Exec>
void linear_group(Exec& exec, Arena& arena, MatrixView<const float> x, Index in, std::span<const WeightTask> tasks) {
  assert(x.cols() == in);
  if (x.rows() == 0) return;
  if (x.rows() <= few_rows) {
    detail::row_product_group(exec, arena, x, tasks);
    return;
  }
  const ArenaScope scope(arena);
  using Task = ProductTask<AnyWeightRows>;
  Task* const wide = arena.allocate<Task>(static_cast<Index>(tasks.size()));
  WeightTask* const narrow = arena.allocate<WeightTask>(static_cast<Index>(tasks.size()));
  std::size_t wide_count = 0, narrow_count = 0;
  for (const WeightTask& t : tasks) {
    if (t.out <= few_outputs) {
      narrow[narrow_count++] = t;
    } else {
      wide[wide_count++] = {t.weight, t.out, t.bias, t.y, false};
    }
  }
  if (narrow_count > 0) detail::narrow_layers(exec, arena, x, std::span<const WeightTask>(narrow, narrow_count));
  matrix_products<Precision>(exec, arena, RowsOfA{x.data(), x.stride()}, x.rows(), in,
                             std::span<const Task>(wide, wide_count));
}

/// The same for weights that are all row-major W.
template <class Precision = HighestPrecision, class W, Executor Exec>
void linear_group(Exec& exec, Arena& arena, MatrixView<const float> x, Index in, std::span<const LinearTask<W>> tasks) {
  const ArenaScope scope(arena);
  const auto count = static_cast<Index>(tasks.size());
  PlainRows<W>* const rows = arena.allocate<PlainRows<W>>(count);
  WeightTask* const list = arena.allocate<WeightTask>(count);
  for (Index t = 0; t < count; ++t) {
    const LinearTask<W>& task = tasks[static_cast<std::size_t>(t)];
    rows[t] = {task.weight, in};
    list[t] = {AnyWeightRows(rows[t]), task.out, task.bias, task.y};
  }
  linear_group<Precision>(exec, arena, x, in, std::span<const WeightTask>(list, tasks.size()));
}

/// y = x Wᵀ + bias: x (rows, in), W (out, in) in any format, bias null or (out), y (rows, out).
template <WeightRows Rows, Executor Exec>
void linear(Exec& exec, Arena& arena, MatrixView<const float> x, const Rows& weight, Index out, Index in,
            const float* bias, MatrixView<float> y) {
  assert(y.rows() == x.rows() && y.cols() == out);
  const WeightTask task{AnyWeightRows(weight), out, bias, y};
  linear_group(exec, arena, x, in, std::span<const WeightTask>(&task, 1));
}

/// The same for row-major weights.
template <class W, Executor Exec>
void linear(Exec& exec, Arena& arena, MatrixView<const float> x, const W* weight, Index out, Index in,
            const float* bias, MatrixView<float> y) {
  linear(exec, arena, x, PlainRows<W>{weight, in}, out, in, bias, y);
}

/// dx = dy W, or dx += dy W if `add`: dy (rows, out), weight (out, in), dx (rows, in).
template <class Precision = HighestPrecision, class W, Executor Exec>
void linear_backward_input(Exec& exec, Arena& arena, MatrixView<const float> dy, const W* weight, Index out, Index in,
                           MatrixView<float> dx, bool add) {
  assert(dy.cols() == out && dx.rows() == dy.rows() && dx.cols() == in);
  if (dy.rows() <= few_gradient_rows) {
    const Index columns = std::clamp<Index>(round_up(ceil_div(in, exec.size()), 64), 64, 1024);
    exec.parallel_for(ceil_div(in, columns), [&](Index piece, int) {
      const Index first = piece * columns;
      column_products(dy, PlainRows<W>{weight, in}, first, std::min(in, first + columns), dx, add);
    });
    return;
  }
  using Task = ProductTask<PlainB<PlainRows<W>>>;
  const Task task{{{weight, in}}, in, nullptr, dx, add};
  matrix_products<Precision>(exec, arena, RowsOfA{dy.data(), dy.stride()}, dy.rows(), out,
                             std::span<const Task>(&task, 1));
}

namespace detail {

/// sum += Σ_rows dy, unless null.
template <Executor Exec>
void add_sum_of_rows(Exec& exec, MatrixView<const float> dy, float* sum) {
  if (sum == nullptr) return;
  constexpr Index piece = 256;
  exec.parallel_for(ceil_div(dy.cols(), piece), [&](Index p, int) {
    const Index first = p * piece;
    const Index last = std::min(dy.cols(), first + piece);
    for (Index r = 0; r < dy.rows(); ++r) {
      const float* from = dy.row(r);
      for (Index o = first; o < last; ++o) sum[o] += from[o];
    }
  });
}

}  // namespace detail

/// dweight += dyᵀ x and dbias += Σ_rows dy: dy (rows, out), x (rows, in), dweight (out, in), dbias null or (out).
template <class Precision = HighestPrecision, Executor Exec>
void linear_backward_weight(Exec& exec, Arena& arena, MatrixView<const float> dy, MatrixView<const float> x,
                            float* dweight, float* dbias) {
  assert(dy.rows() == x.rows());
  if (dy.rows() == 0) return;
  const WeightGradientTask task{dy, dweight};
  weight_gradients<Precision>(exec, arena, x, std::span<const WeightGradientTask>(&task, 1),
                              [&](const Tasks& parts) { exec.parallel_for(parts.count(), parts); });
  detail::add_sum_of_rows(exec, dy, dbias);
}

/// Back through one of several layers of the same x: dy (rows, out), weight and dweight (out, in), dbias null or (out).
template <class W>
struct LinearBackwardTask {
  MatrixView<const float> dy;
  const W* weight;
  float* dweight;
  float* dbias;
};

/// dx = Σ_t dy_t W_t; for each task dW_t += dy_tᵀ x and dbias_t += Σ_rows dy_t: x and dx (rows, in). dx is written
/// while x and all dy are read.
template <class Precision = HighestPrecision, class W, Executor Exec>
void linear_backward(Exec& exec, Arena& arena, MatrixView<const float> x, std::span<const LinearBackwardTask<W>> tasks,
                     MatrixView<float> dx) {
  const Index in = x.cols();
  if (x.rows() <= few_gradient_rows) {
    for (const auto& t : tasks) {
      linear_backward_input<Precision>(exec, arena, t.dy, t.weight, t.dy.cols(), in, dx, &t != tasks.data());
      linear_backward_weight<Precision>(exec, arena, t.dy, x, t.dweight, t.dbias);
    }
    return;
  }
  const ArenaScope scope(arena);
  using InputProduct = Product<PlainB<PlainRows<W>>>;
  const auto count = static_cast<Index>(tasks.size());
  InputProduct* const inputs = arena.allocate<InputProduct>(count);
  WeightGradientTask* const weights = arena.allocate<WeightGradientTask>(count);
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    const auto& [dy, weight, dweight, dbias] = tasks[i];
    assert(dy.rows() == x.rows());
    inputs[i] = {{dy.data(), dy.stride()}, dy.rows(), dy.cols(), {{{weight, in}}, in, nullptr, dx, i > 0}};
    weights[i] = {dy, dweight};
    detail::add_sum_of_rows(exec, dy, dbias);
  }
  weight_gradients<Precision>(
      exec, arena, x, std::span<const WeightGradientTask>(weights, tasks.size()), [&](const Tasks& parts) {
        matrix_products<Precision>(exec, arena, std::span<const InputProduct>(inputs, tasks.size()), parts);
      });
}

}  // namespace xlstm::cpu
