// SPDX-License-Identifier: Apache-2.0
// How fast the linear layer's products are, beside what the machine can do at all (machine.hpp): the bandwidth at which
// a large array is read, as one stream or several a thread, and the fp32 rate of independent multiply-adds.
// bench/matrix_torch.py measures the same in PyTorch.
//   matrix --benchmark_min_time=0.5 --benchmark_filter='decode|bandwidth'
// GB/s counts every weight once; weights rotate over copies of more than the last-level cache. GFLOP/s counts
// 2·rows·in·out.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "machine.hpp"
#include "xlstm/core/arena.hpp"
#include "xlstm/core/element.hpp"
#include "xlstm/cpu/int8_activations.hpp"
#include "xlstm/cpu/integer_product.hpp"
#include "xlstm/cpu/linear.hpp"
#include "xlstm/cpu/quantized_rows.hpp"
#include "xlstm/cpu/simd.hpp"
#include "xlstm/cpu/thread_pool.hpp"

namespace {

using namespace xlstm;
namespace simd = cpu::simd;
using benchmark::Counter;

constexpr Index rotation_bytes = Index{512} << 20;

cpu::ThreadPool& pool(Index threads) {
  static std::vector<std::unique_ptr<cpu::ThreadPool>> pools(257);
  auto& p = pools.at(static_cast<std::size_t>(threads));
  if (!p) p = std::make_unique<cpu::ThreadPool>(static_cast<int>(threads));
  return *p;
}

/// One large buffer for all weights, so that a run of every benchmark needs no more memory than one.
float* weights() {
  static std::vector<float> buffer = [] {
    std::vector<float> b(static_cast<std::size_t>(rotation_bytes / 4 + (Index{1} << 26)));
    for (std::size_t i = 0; i < b.size(); ++i) b[i] = 0.01F * static_cast<float>(static_cast<int>(i % 13) - 6);
    return b;
  }();
  return buffer.data();
}

void rates(benchmark::State& state, double bytes, double flops) {
  const double n = static_cast<double>(state.iterations());
  state.counters["GB/s"] = Counter(n * bytes * 1e-9, Counter::kIsRate);
  if (flops > 0) state.counters["GFLOP/s"] = Counter(n * flops * 1e-9, Counter::kIsRate);
}

/// The floor of decoding.
template <Index Streams>
void read_bandwidth(benchmark::State& state, Index threads) {
  static const bench::LargeArray array(Index{1} << 30);
  for (auto _ : state) bench::read_once<Streams>(pool(threads), array);
  rates(state, static_cast<double>(array.bytes()), 0);
}

/// The ceiling of everything else.
void fp32_peak(benchmark::State& state, Index threads) {
  double flops = 0;
  for (auto _ : state) flops = bench::multiply_add(pool(threads));
  rates(state, 0, flops);
}

struct Problem {
  Index rows, out, in;
  double flops() const { return 2.0 * static_cast<double>(rows * out * in); }
};

/// Aligned like the library's own activations: a vector's would straddle cache lines.
float* activations(Arena& arena, Index count) {
  float* a = arena.allocate<float>(count);
  for (Index i = 0; i < count; ++i) a[i] = 0.1F * static_cast<float>(i % 7 - 3);
  return a;
}

template <class W>
void forward(benchmark::State& state, Problem p, Index threads) {
  Arena memory;
  const float* x = activations(memory, p.rows * p.in);
  float* y = activations(memory, p.rows * p.out);
  const Index size = p.out * p.in;
  const Index copies = std::max<Index>(1, rotation_bytes / (size * static_cast<Index>(sizeof(W))));
  const W* all = reinterpret_cast<const W*>(weights());
  Arena arena;
  Index turn = 0;
  for (auto _ : state) {
    cpu::linear(pool(threads), arena, MatrixView<const float>(x, p.rows, p.in), all + turn * size, p.out, p.in, nullptr,
                MatrixView<float>(y, p.rows, p.out));
    turn = (turn + 1) % copies;
    benchmark::ClobberMemory();
  }
  rates(state, static_cast<double>(size) * sizeof(W), p.flops());
}

/// The same with quantised weights; what is read are codes and scales.
template <QuantizedFormat F, class Activations>
void quantized(benchmark::State& state, Problem p, Index threads) {
  Arena memory;
  const float* x = activations(memory, p.rows * p.in);
  float* y = activations(memory, p.rows * p.out);
  const Index code_bytes = p.out * F::row_bytes(p.in), scale_bytes = p.out * F::groups(p.in) * 2;
  const Index copies = std::max<Index>(1, rotation_bytes / (code_bytes + scale_bytes));
  const auto* codes = reinterpret_cast<const std::uint8_t*>(weights());
  const std::vector<bf16> scales(static_cast<std::size_t>(copies * scale_bytes / 2), bf16(0.01F));
  Arena arena;
  Index turn = 0;
  for (auto _ : state) {
    const auto rows = cpu::weight_rows<F>(codes + turn * code_bytes, scales.data() + turn * scale_bytes / 2, p.in);
    const MatrixView<const float> input(x, p.rows, p.in);
    const MatrixView<float> output(y, p.rows, p.out);
    if constexpr (cpu::has_integer_products && std::is_same_v<Activations, cpu::Int8Activations>) {
      if (p.rows >= cpu::IntegerProductTuning::least_rows) {
        const cpu::IntegerTask<F> task{rows, p.out, nullptr, output};
        cpu::integer_products<F>(pool(threads), arena, input, std::span<const cpu::IntegerTask<F>>(&task, 1));
        turn = (turn + 1) % copies;
        continue;
      }
      const ArenaScope scope(arena);
      const cpu::Int8Input<F> rounded(arena, input);
      cpu::linear(pool(threads), arena, input, cpu::IntegerRows<F>{rows, &rounded}, p.out, p.in, nullptr, output);
    } else {
      cpu::linear(pool(threads), arena, input, rows, p.out, p.in, nullptr, output);
    }
    turn = (turn + 1) % copies;
    benchmark::ClobberMemory();
  }
  rates(state, static_cast<double>(code_bytes + scale_bytes), p.flops());
}

/// One token's projections of an mLSTM layer (D 768: q, k, v, ogate, igate, fgate), as single calls or as a group.
template <class W>
void projections(benchmark::State& state, bool grouped, Index threads) {
  Arena memory;
  constexpr Index in = 768;
  constexpr Index outs[] = {384, 384, 768, 768, 6, 6};
  constexpr Index size = (384 + 384 + 768 + 768 + 6 + 6) * in;
  const float* x = activations(memory, in);
  float* y = activations(memory, 4096);
  const W* all = reinterpret_cast<const W*>(weights());
  constexpr Index copies = rotation_bytes / (size * static_cast<Index>(sizeof(W)));
  Arena arena;
  Index turn = 0;
  for (auto _ : state) {
    cpu::LinearTask<W> tasks[6];
    const W* w = all + turn * size;
    float* to = y;
    for (int t = 0; t < 6; ++t) {
      tasks[t] = {w, outs[t], nullptr, MatrixView<float>(to, 1, outs[t])};
      w += outs[t] * in;
      to += outs[t];
    }
    const MatrixView<const float> row(x, 1, in);
    if (grouped) {
      cpu::linear_group(pool(threads), arena, row, in, std::span<const cpu::LinearTask<W>>(tasks));
    } else {
      for (const auto& t : tasks) cpu::linear(pool(threads), arena, row, t.weight, t.out, in, nullptr, t.y);
    }
    turn = (turn + 1) % copies;
    benchmark::ClobberMemory();
  }
  rates(state, static_cast<double>(size) * sizeof(W), 0);
}

template <class W>
void backward_input(benchmark::State& state, Problem p, Index threads) {
  Arena memory;
  const float* dy = activations(memory, p.rows * p.out);
  float* dx = activations(memory, p.rows * p.in);
  const W* weight = reinterpret_cast<const W*>(weights());
  Arena arena;
  for (auto _ : state) {
    cpu::linear_backward_input(pool(threads), arena, MatrixView<const float>(dy, p.rows, p.out), weight, p.out, p.in,
                               MatrixView<float>(dx, p.rows, p.in), false);
    benchmark::ClobberMemory();
  }
  rates(state, 0, p.flops());
}

void backward_weight(benchmark::State& state, Problem p, Index threads) {
  Arena memory;
  const float* dy = activations(memory, p.rows * p.out);
  const float* x = activations(memory, p.rows * p.in);
  float* dw = activations(memory, p.out * p.in);
  Arena arena;
  for (auto _ : state) {
    cpu::linear_backward_weight(pool(threads), arena, MatrixView<const float>(dy, p.rows, p.out),
                                MatrixView<const float>(x, p.rows, p.in), dw, nullptr);
    benchmark::ClobberMemory();
  }
  rates(state, 0, p.flops());
}

void enlist() {
  const auto add = [](const std::string& name, auto&& body) {
    benchmark::RegisterBenchmark(name.c_str(), body)->UseRealTime()->Unit(benchmark::kMicrosecond);
  };
  const Problem shapes[] = {{0, 768, 768},   {0, 2048, 768},  {0, 768, 2048},
                            {0, 50304, 768}, {0, 4096, 4096}, {0, 10944, 4096}};
  const auto label = [](const Problem& p) {
    return std::to_string(p.rows) + "x" + std::to_string(p.out) + "x" + std::to_string(p.in);
  };
  for (const Index threads : {Index{1}, Index{2}}) {
    const std::string end = "/threads:" + std::to_string(threads);
    add("bandwidth/streams:1" + end, [=](benchmark::State& s) { read_bandwidth<1>(s, threads); });
    add("bandwidth/streams:4" + end, [=](benchmark::State& s) { read_bandwidth<4>(s, threads); });
    add("bandwidth/streams:8" + end, [=](benchmark::State& s) { read_bandwidth<8>(s, threads); });
    add("peak" + end, [=](benchmark::State& s) { fp32_peak(s, threads); });
    for (const bool grouped : {false, true}) {
      const std::string name = std::string("projections/") + (grouped ? "group" : "single");
      add(name + "/f32" + end, [=](benchmark::State& s) { projections<float>(s, grouped, threads); });
      add(name + "/bf16" + end, [=](benchmark::State& s) { projections<bf16>(s, grouped, threads); });
    }
    for (const Index rows : {1, 8, 64, 512}) {
      for (Problem p : shapes) {
        p.rows = rows;
        const std::string name = (rows == 1 ? "decode/" : "forward/") + label(p);
        add(name + "/f32" + end, [=](benchmark::State& s) { forward<float>(s, p, threads); });
        add(name + "/bf16" + end, [=](benchmark::State& s) { forward<bf16>(s, p, threads); });
        using Float = cpu::FloatActivations;
        add(name + "/int8" + end, [=](benchmark::State& s) { quantized<int8, Float>(s, p, threads); });
        add(name + "/int4" + end, [=](benchmark::State& s) { quantized<int4, Float>(s, p, threads); });
        if (cpu::has_integer_products) {
          using Int8 = cpu::Int8Activations;
          add(name + "/int8_a8" + end, [=](benchmark::State& s) { quantized<int8, Int8>(s, p, threads); });
          add(name + "/int4_a8" + end, [=](benchmark::State& s) { quantized<int4, Int8>(s, p, threads); });
        }
        if (rows == 1) add(name + "/f16" + end, [=](benchmark::State& s) { forward<f16>(s, p, threads); });
        if (rows == 64) continue;
        add("backward_input/" + label(p) + "/f32" + end,
            [=](benchmark::State& s) { backward_input<float>(s, p, threads); });
        if (rows < 512) continue;
        add("backward_weight/" + label(p) + end, [=](benchmark::State& s) { backward_weight(s, p, threads); });
      }
    }
    // Those of training_step's small model: weights that stay near the cores, and many rows.
    for (const Problem& p : {Problem{2048, 256, 256}, Problem{2048, 1408, 256}, Problem{2048, 256, 704}}) {
      add("forward/" + label(p) + "/f32" + end, [=](benchmark::State& s) { forward<float>(s, p, threads); });
      add("backward_input/" + label(p) + "/f32" + end,
          [=](benchmark::State& s) { backward_input<float>(s, p, threads); });
      add("backward_weight/" + label(p) + end, [=](benchmark::State& s) { backward_weight(s, p, threads); });
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  enlist();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
