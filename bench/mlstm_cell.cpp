// SPDX-License-Identifier: Apache-2.0
// Speed of the CPU's mLSTM: forward, forward and backward, and the decode step, against what the machine can do: fp32
// operations a second in the nearest cache (peak), bytes a second over a state that fits no cache near the core
// (bandwidth). Counters: flops counts the products of the chunkwise form, the triangle of a chunk's scores as half a
// square; bytes of the step: the state read and written once.
//     mlstm_cell --benchmark_filter=forward --threads=2
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/cpu/mlstm.hpp"
#include "xlstm/cpu/mlstm_backward.hpp"
#include "xlstm/cpu/precision.hpp"
#include "xlstm/cpu/thread_pool.hpp"

namespace {

using namespace xlstm;

int threads = 2;

cpu::ThreadPool& pool() {
  static cpu::ThreadPool instance(threads);
  return instance;
}

/// Inputs, outputs and gradients of a run of a cell, in an arena, as a model has them.
template <class Cell, class Precision = cpu::HighestPrecision>
struct Problem {
  Run run;
  Arena memory;
  std::span<float> q, k, v, igate, fgate, h, dh, dq, dk, dv, digate, dfgate, states;
  std::vector<float*> slots;
  Arena arena;

  Problem(Index sequences, Index length) {
    run.sequences = sequences;
    run.length = length;
    Random random(1);
    const auto allocate = [&](Index count) {
      return std::span<float>(memory.allocate<float>(count), static_cast<std::size_t>(count));
    };
    const auto fill = [&](std::span<float>& x, Index width, double mean) {
      x = allocate(run.rows() * width);
      for (float& value : x) value = static_cast<float>(mean + random.normal());
    };
    for (auto* x : {&q, &k, &dq, &dk}) fill(*x, Cell::qk_width, 0);
    for (auto* x : {&v, &h, &dh, &dv}) fill(*x, Cell::v_width, 0);
    for (auto* x : {&igate, &digate, &dfgate}) fill(*x, Cell::heads, -1);
    fill(fgate, Cell::heads, 4);
    states = allocate(sequences * Cell::state_size);
    std::fill(states.begin(), states.end(), 0.0F);
    for (Index b = 0; b < sequences; ++b) slots.push_back(states.data() + b * Cell::state_size);
  }

  template <class T, class Vector>
  static MLSTMInput<T, Cell> views(Index rows, Vector& a, Vector& b, Vector& c, Vector& d, Vector& e) {
    return {MatrixView<T, Cell::qk_width>(a.data(), rows), MatrixView<T, Cell::qk_width>(b.data(), rows),
            MatrixView<T, Cell::v_width>(c.data(), rows), MatrixView<T, Cell::heads>(d.data(), rows),
            MatrixView<T, Cell::heads>(e.data(), rows)};
  }
  MLSTMInput<const float, Cell> input() { return views<const float>(run.rows(), q, k, v, igate, fgate); }
  MLSTMInput<float, Cell> gradient() { return views<float>(run.rows(), dq, dk, dv, digate, dfgate); }

  void forward(bool with_state) {
    const ArenaScope scope(arena);
    cpu::MLSTMSaved<Cell> saved;
    cpu::mlstm<Cell, Precision>(pool(), arena, run, input(),
                                with_state ? StateSlots<float>{slots.data()} : StateSlots<float>{},
                                MatrixView<float, Cell::v_width>(h.data(), run.rows()), saved);
  }
  void training() {
    const ArenaScope scope(arena);
    cpu::MLSTMSaved<Cell> saved;
    const MatrixView<float, Cell::v_width> out(h.data(), run.rows());
    run.training = true;
    cpu::mlstm<Cell, Precision>(pool(), arena, run, input(), StateSlots<float>{}, out, saved);
    cpu::mlstm_backward<Cell, Precision>(pool(), arena, run, input(), out, saved,
                                         MatrixView<const float, Cell::v_width>(dh.data(), run.rows()), gradient(),
                                         StateSlots<float>{});
  }
};

/// The first pass allocates, the second is the first in one block of memory.
template <class F>
void warm_up(F&& pass) {
  pass();
  pass();
}

constexpr double products(Index q, Index v, Index chunk, double of_state, double of_square) {
  return 2.0 * of_state * static_cast<double>(q * v) + of_square * static_cast<double>(chunk * (q + v));
}

/// Arguments: sequences, length, chunk size (0: the tuning's).
template <class Cell, class Precision = cpu::HighestPrecision>
void forward(benchmark::State& state) {
  Problem<Cell, Precision> problem(state.range(0), state.range(1));
  problem.run.chunk_size = state.range(2);
  warm_up([&] { problem.forward(true); });
  for (auto _ : state) problem.forward(true);
  const double flops = products(Cell::qk_dim, Cell::v_dim, cpu::mlstm_chunk_size<Cell>(problem.run), 2, 1) *
                       static_cast<double>(problem.run.rows() * Cell::heads);
  state.counters["flops"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

template <class Cell, class Precision = cpu::HighestPrecision>
void training(benchmark::State& state) {
  Problem<Cell, Precision> problem(state.range(0), state.range(1));
  problem.run.chunk_size = state.range(2);
  warm_up([&] { problem.training(); });
  for (auto _ : state) problem.training();
  const double of_state = cpu::saved_group<Cell> == 1 ? 6 : 7;  // the last: states that are computed again
  const double flops = products(Cell::qk_dim, Cell::v_dim, cpu::mlstm_chunk_size<Cell>(problem.run), of_state, 4) *
                       static_cast<double>(problem.run.rows() * Cell::heads);
  state.counters["flops"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

template <class Cell>
void step(benchmark::State& state) {
  Problem<Cell> problem(state.range(0), 1);
  problem.run.form = Form::recurrent;
  for (auto _ : state) problem.forward(true);
  state.counters["bytes"] =
      benchmark::Counter(static_cast<double>(8 * state.range(0) * Cell::state_size),
                         benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1024);
}

/// All threads: fused multiply-adds of a register tile from the nearest cache.
void peak(benchmark::State& state) {
  constexpr Index depth = 64;
  constexpr Index repeats = 20000;
  for (auto _ : state) {
    pool().parallel_for(threads, [&](Index, int) {
      alignas(64) float a[cpu::tile_rows * depth] = {};
      alignas(64) float b[cpu::panel_width * depth] = {};
      cpu::Tile<cpu::tile_rows> tile;
      tile.clear();
      for (Index i = 0; i < repeats; ++i) tile.add_product(a, 1, cpu::tile_rows, b, depth);
      tile.store(b, cpu::panel_width);
      benchmark::DoNotOptimize(b);
    });
  }
  state.counters["flops"] =
      benchmark::Counter(static_cast<double>(threads * repeats * depth * 2 * cpu::tile_rows * cpu::panel_width),
                         benchmark::Counter::kIsIterationInvariantRate);
}

/// All threads: y ← a y, `range` MiB in all.
void bandwidth(benchmark::State& state) {
  std::vector<float> x(static_cast<std::size_t>(state.range(0)) << 18, 1.0F);
  const Index part = static_cast<Index>(x.size()) / 64;
  for (auto _ : state) {
    pool().parallel_for(64, [&](Index task, int) {
      float* p = x.data() + task * part;
      for (Index i = 0; i < part; ++i) p[i] *= 0.999F;
    });
  }
  state.counters["bytes"] = benchmark::Counter(
      static_cast<double>(x.size() * 8), benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1024);
}

using Cell7B = MLSTMCell<8, 256, 512>;
using Cell400M = MLSTMCell<4, 128, 256>;
using CellSmall = MLSTMCell<4, 32, 64>;

#define XLSTM_TIMES ->Unit(benchmark::kMillisecond)->UseRealTime()->MeasureProcessCPUTime()
BENCHMARK(peak) XLSTM_TIMES;
BENCHMARK(bandwidth)->Arg(4)->Arg(256) XLSTM_TIMES;
BENCHMARK_TEMPLATE(forward, Cell7B)->ArgsProduct({{1}, {2048}, {0, 32, 64, 96, 128, 256}}) XLSTM_TIMES;
BENCHMARK_TEMPLATE(training, Cell7B)->ArgsProduct({{1}, {2048}, {0, 32, 64, 96, 128, 256}}) XLSTM_TIMES;
BENCHMARK_TEMPLATE(forward, Cell7B, cpu::HighPrecision)->Args({1, 2048, 0}) XLSTM_TIMES;
BENCHMARK_TEMPLATE(training, Cell7B, cpu::HighPrecision)->Args({1, 2048, 0}) XLSTM_TIMES;
BENCHMARK_TEMPLATE(step, Cell7B)->Arg(1)->Arg(8) XLSTM_TIMES;
BENCHMARK_TEMPLATE(forward, Cell400M)->ArgsProduct({{1}, {2048}, {0, 16, 32, 64, 128}}) XLSTM_TIMES;
BENCHMARK_TEMPLATE(training, Cell400M)->ArgsProduct({{1}, {2048}, {0, 16, 32, 64, 128}}) XLSTM_TIMES;
BENCHMARK_TEMPLATE(forward, CellSmall)->ArgsProduct({{1}, {2048}, {0, 16, 32, 64, 128}}) XLSTM_TIMES;
BENCHMARK_TEMPLATE(training, CellSmall)->ArgsProduct({{1}, {2048}, {0, 16, 32, 64, 128}}) XLSTM_TIMES;

}  // namespace

int main(int argc, char** argv) {
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], "--threads=", 10) == 0)
      threads = std::max(1, std::atoi(argv[i] + 10));
    else
      argv[kept++] = argv[i];
  }
  argc = kept;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
