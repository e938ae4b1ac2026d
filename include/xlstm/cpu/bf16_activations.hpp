// SPDX-License-Identifier: Apache-2.0
// The linear layer on bf16 weights with the input of each product rounded to bf16, as networks in bf16 do, and sums in
// fp32: y(r, o) = Σ_i W(o, i) · bf16(x(r, i)). A product of two bf16 is exact in fp32, so all machines add up the same
// terms, in orders of their own. AMX makes one product where fp32's precision takes three (amx_tiles.hpp); AVX512-BF16
// multiplies pairs of columns by one instruction; other machines round and go on as usual. What it costs in quality is
// in docs/quantization.md.
#pragma once

#include <algorithm>
#include <cstring>
#include <span>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/element.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/core/view.hpp"
#include "xlstm/cpu/amx_rounded_tiles.hpp"
#include "xlstm/cpu/linear.hpp"
#include "xlstm/cpu/simd.hpp"
#include "xlstm/cpu/storage.hpp"
#include "xlstm/cpu/tiled_products.hpp"

namespace xlstm::cpu {

/// Activations that meet weights are rounded to bf16; for bf16 weights.
struct Bf16Activations {};

namespace detail {

/// Calls f(first, last) for ranges that cover `rows` rows of x, in one parallel region.
template <Executor Exec, class F>
void for_rows(Exec& exec, Index rows, F&& f) {
  const Index piece = std::max<Index>(1, rows / (4 * exec.size()));
  exec.parallel_for(ceil_div(rows, piece), [&](Index p, int) { f(p * piece, std::min(rows, (p + 1) * piece)); });
}

/// The tasks with weights as rows of another type.
template <class Rows, class MakeRows>
std::span<const WeightTask> tasks_as(Arena& arena, std::span<const LinearTask<bf16>> tasks, MakeRows&& make_rows) {
  const auto count = static_cast<Index>(tasks.size());
  Rows* const rows = arena.allocate<Rows>(count);
  WeightTask* const list = arena.allocate<WeightTask>(count);
  for (Index t = 0; t < count; ++t) {
    const auto& task = tasks[static_cast<std::size_t>(t)];
    rows[t] = make_rows(task);
    list[t] = {AnyWeightRows(rows[t]), task.out, task.bias, task.y};
  }
  return {list, tasks.size()};
}

/// The tasks of a blocked product.
template <class Rows, class MakeRows>
auto product_tasks_as(Arena& arena, std::span<const LinearTask<bf16>> tasks, MakeRows&& make_rows) {
  using Task = ProductTask<TransposedB<Rows>>;
  Task* const list = arena.allocate<Task>(static_cast<Index>(tasks.size()));
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    list[t] = {{make_rows(tasks[t])}, tasks[t].out, tasks[t].bias, tasks[t].y, false};
  }
  return std::span<const Task>(list, tasks.size());
}

#if defined(XLSTM_SIMD_AVX512) && defined(__AVX512BF16__)

/// Pairs of neighbouring columns of bf16 weights in the place of one float: nothing computes with such a float, but
/// PairArithmetic.
struct Bf16PairRows {
  static constexpr bool paired = false;
  static constexpr Index block_columns = simd::width;
  static constexpr Index parts = 1;
  struct Row {
    const bf16* data;
    simd::Floats load(Index column) const {
      simd::Floats pairs;
      std::memcpy(&pairs, data + 2 * column, sizeof pairs);
      return pairs;
    }
    simd::Floats load_partial(Index column, Index count) const {
      return _mm512_maskz_loadu_ps(simd::first_lanes(count), data + 2 * column);
    }
    struct Block {
      simd::Floats pairs;
      simd::Floats vector(Index) const { return pairs; }
    };
    Block block(Index column) const { return {load(column)}; }
    const void* address(Index column) const { return data + 2 * column; }
  };

  const bf16* data = nullptr;
  Index stride = 0;  ///< bf16 from one row to the next

  Row row(Index r) const { return {data + r * stride}; }
  Index row_bytes() const { return stride * static_cast<Index>(sizeof(bf16)); }
  static simd::Floats multiply_add(simd::Floats a, simd::Floats b, simd::Floats c) {
    return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};

/// x rounded, as pairs: (rows, x.cols() / 2), where x.cols() is even. Memory is the arena's.
template <Executor Exec>
MatrixView<const float> rounded_pairs(Exec& exec, Arena& arena, MatrixView<const float> x) {
  const MatrixView<float> pairs(arena.allocate<float>(x.rows() * x.cols() / 2), x.rows(), x.cols() / 2);
  for_rows(exec, x.rows(), [&](Index first, Index last) {
    for (Index r = first; r < last; ++r) {
      for (Index c = 0; c < x.cols(); c += 2 * simd::width) {
        const auto load = [&](Index begin) {
          const Index left = x.cols() - begin;
          return left >= simd::width ? simd::load(x.row(r) + begin)
                 : left > 0          ? simd::load_partial(x.row(r) + begin, left)
                                     : simd::zero();
        };
        const auto both = _mm512_cvtne2ps_pbh(load(c + simd::width), load(c));
        const Index lanes = std::min<Index>(simd::width, (x.cols() - c) / 2);
        simd::Floats as_floats;
        std::memcpy(&as_floats, &both, sizeof as_floats);  // nvcc knows no cast for it
        simd::store_partial(pairs.row(r) + c / 2, as_floats, lanes);
      }
    }
  });
  return pairs;
}

#endif

}  // namespace detail

/// y_t = bf16(x) W_tᵀ + bias_t for every task: x is (rows, in), W_t (out_t, in), y_t (rows, out_t). Scratch comes from
/// the arena.
template <Executor Exec>
void rounded_linear_group(Exec& exec, Arena& arena, MatrixView<const float> x, Index in,
                          std::span<const LinearTask<bf16>> tasks) {
  if (x.rows() == 0) return;
  const ArenaScope scope(arena);
  const auto plain_rows = [in](const auto& task) { return PlainRows<bf16>{task.weight, in}; };
#if defined(XLSTM_SIMD_AMX) && defined(__AVX512BF16__)
  if (x.rows() >= AmxRowTuning::least_rounded_rows && amx::permitted()) {
    if (x.rows() <= few_rows) {
      const auto list = detail::tasks_as<PlainRows<bf16>>(arena, tasks, plain_rows);
      return detail::row_product_group(exec, arena, x, list, 1);
    }
    const auto list = detail::product_tasks_as<PlainRows<bf16>>(arena, tasks, plain_rows);
    return detail::tiled_products<AmxRoundedTiles>(exec, arena, RowsOfA{x.data(), x.stride()}, x.rows(), in, list);
  }
#endif
#if defined(XLSTM_SIMD_AVX512) && defined(__AVX512BF16__)
  if (in % 2 == 0) {
    using Rows = detail::Bf16PairRows;
    const auto pair_rows = [in](const auto& task) { return Rows{task.weight, in}; };
    const MatrixView<const float> pairs = detail::rounded_pairs(exec, arena, x);
    if (x.rows() <= few_rows) {
      return detail::row_product_group(exec, arena, pairs, detail::tasks_as<Rows>(arena, tasks, pair_rows));
    }
    const auto list = detail::product_tasks_as<Rows>(arena, tasks, pair_rows);
    return detail::tiled_products<VectorTilesOf<Rows>>(exec, arena, RowsOfA{pairs.data(), pairs.stride()}, x.rows(),
                                                       in / 2, list);
  }
#endif
  const MatrixView<float> rounded(arena.allocate<float>(x.rows() * in), x.rows(), in);
  detail::for_rows(exec, x.rows(), [&](Index first, Index last) {
    for (Index r = first; r < last; ++r) {
      for (Index c = 0; c < in; c += simd::width) {
        const Index left = in - c;
        if (left >= simd::width) {
          simd::store(rounded.row(r) + c, simd::round_to_bf16(simd::load(x.row(r) + c)));
        } else {
          simd::store_partial(rounded.row(r) + c, simd::round_to_bf16(simd::load_partial(x.row(r) + c, left)), left);
        }
      }
    }
  });
  linear_group(exec, arena, MatrixView<const float>(rounded), in,
               detail::tasks_as<PlainRows<bf16>>(arena, tasks, plain_rows));
}

}  // namespace xlstm::cpu
