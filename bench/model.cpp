// SPDX-License-Identifier: Apache-2.0
// Whole-model speed of the 160M preset with random weights, for every format of weights: reading a prompt, one decode
// step, a step of several sessions at once (far into a text: long_text.cpp). Counters: tokens/s; GB/s of weights read
// (each once a pass, the embedding's rows apart) and what part of the machine's bandwidth that is, as machine.hpp
// measures it first; GFLOP/s by the compile-time count. Quantised weights meet rounded activations, as in the programs;
// bf16_a16 are bf16 weights that meet activations rounded to bf16.
//     model --threads=2 --benchmark_filter='decode/bf16'
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "machine.hpp"
#include "random_model.hpp"
#include "xlstm/generate/session.hpp"
#include "xlstm/model/presets.hpp"

namespace {

using namespace xlstm;

int threads = 2;
constexpr ModelConfig config = presets::xlstm_160m;

template <class Backend>
using M = LanguageModel<config, Backend>;

template <class Backend>
const M<Backend>& model() {
  static const M<Backend> instance = bench::random_model<M<Backend>>(threads);
  return instance;
}

double bandwidth() {
  static const double measured = bench::Machine(threads).bandwidth;
  return measured;
}

std::vector<Token> tokens(Index count) {
  Random random(2);
  std::vector<Token> all(static_cast<std::size_t>(count));
  for (Token& t : all) t = static_cast<Token>(random.below(static_cast<std::uint64_t>(config.vocab_size)));
  return all;
}

template <class Backend>
void count(benchmark::State& state, Index tokens_per_pass, double flops) {
  using benchmark::Counter;
  using Embedding = typename M<Backend>::Network::template EmbeddingWeight<Backend>;
  const auto passes = static_cast<double>(state.iterations());
  const double bytes = passes * static_cast<double>(M<Backend>::weight_bytes() - Embedding::bytes);
  state.counters["tokens/s"] = Counter(passes * static_cast<double>(tokens_per_pass), Counter::kIsRate);
  state.counters["weights GB/s"] = Counter(bytes * 1e-9, Counter::kIsRate);
  state.counters["of bandwidth"] = Counter(bytes / bandwidth(), Counter::kIsRate);
  state.counters["GFLOP/s"] = Counter(passes * flops * 1e-9, Counter::kIsRate);
}

template <class Backend>
void prefill(benchmark::State& state) {
  const auto prompt = tokens(state.range(0));
  auto session = model<Backend>().session();
  session.prefill(prompt);  // a first pass allocates
  bandwidth();
  for (auto _ : state) {
    session.reset();
    session.prefill(prompt);
    benchmark::DoNotOptimize(session.logits().data());
  }
  count<Backend>(state, state.range(0), M<Backend>::prefill_flops(state.range(0), config.chunk_size));
}

template <class Backend>
void decode(benchmark::State& state) {
  auto session = model<Backend>().session();
  session.prefill(tokens(state.range(0)));
  bandwidth();
  Token next = 1;
  for (auto _ : state) {
    benchmark::DoNotOptimize(session.step(next).data());
    next = (next * 7 + 11) % static_cast<Token>(config.vocab_size);
  }
  count<Backend>(state, 1, M<Backend>::decode_flops());
}

template <class Backend>
void batch(benchmark::State& state) {
  std::vector<Session<M<Backend>>> sessions(static_cast<std::size_t>(state.range(0)), model<Backend>().session());
  std::vector<Session<M<Backend>>*> pointers;
  for (auto& s : sessions) pointers.push_back(&s);
  const auto next = tokens(state.range(0));
  bandwidth();
  for (auto _ : state) Session<M<Backend>>::step(pointers, next);
  count<Backend>(state, state.range(0), static_cast<double>(state.range(0)) * M<Backend>::decode_flops());
}

template <class Backend>
void enlist(const std::string& format) {
  const auto add = [&](const std::string& name, auto* body) {
    return benchmark::RegisterBenchmark((name + "/" + format).c_str(), body)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  };
  add("prefill", prefill<Backend>)->Arg(512)->Arg(2048);
  add("decode", decode<Backend>)->Arg(16);
  add("batch", batch<Backend>)->Arg(1)->Arg(2)->Arg(4)->Arg(8)->Arg(16);
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], "--threads=", 10) != 0) continue;
    threads = std::atoi(argv[i] + 10);
    for (int j = i; j + 1 < argc; ++j) argv[j] = argv[j + 1];
    --argc;
    --i;
  }
  enlist<cpu::Backend<float>>("f32");
  enlist<cpu::Backend<bf16>>("bf16");
  enlist<cpu::Backend<bf16, cpu::Bf16Activations>>("bf16_a16");
  enlist<cpu::Backend<int8, cpu::Int8Activations>>("int8");
  enlist<cpu::Backend<int4, cpu::Int8Activations>>("int4");
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
