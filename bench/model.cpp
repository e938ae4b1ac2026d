// SPDX-License-Identifier: Apache-2.0
// Whole-model speed of the 160M preset with random weights: reading a prompt, one decode step, a step of eight sessions
// at once, decoding far into a text. Counters: tokens/s; GB/s of weights read (each once a pass, the embedding's rows
// apart); GFLOP/s by the compile-time count.
//     model --threads=2 --benchmark_filter=decode
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "xlstm/generate/session.hpp"
#include "xlstm/model/presets.hpp"

namespace {

using namespace xlstm;

int threads = 2;
constexpr ModelConfig config = presets::xlstm_160m;

template <class W>
using M = LanguageModel<config, cpu::Backend<W>>;

template <class W>
const M<W>& model() {
  static const M<W> instance = M<W>::initialized(1, {.threads = threads});
  return instance;
}

std::vector<Token> tokens(Index count) {
  Random random(2);
  std::vector<Token> all(static_cast<std::size_t>(count));
  for (Token& t : all) t = static_cast<Token>(random.below(static_cast<std::uint64_t>(config.vocab_size)));
  return all;
}

template <class W>
void count(benchmark::State& state, Index tokens_per_pass, double flops) {
  using benchmark::Counter;
  constexpr Index embedding_bytes = config.vocab_size * config.embedding_dim * static_cast<Index>(sizeof(W));
  const auto passes = static_cast<double>(state.iterations());
  state.counters["tokens/s"] = Counter(passes * static_cast<double>(tokens_per_pass), Counter::kIsRate);
  state.counters["weights B/s"] =
      Counter(passes * static_cast<double>(M<W>::weight_bytes() - embedding_bytes), Counter::kIsRate);
  state.counters["FLOP/s"] = Counter(passes * flops, Counter::kIsRate);
}

template <class W>
void prefill(benchmark::State& state) {
  const auto prompt = tokens(state.range(0));
  auto session = model<W>().session();
  for (auto _ : state) {
    session.reset();
    session.prefill(prompt);
    benchmark::DoNotOptimize(session.logits().data());
  }
  count<W>(state, state.range(0), M<W>::prefill_flops(state.range(0), config.chunk_size));
}

template <class W>
void decode(benchmark::State& state) {
  auto session = model<W>().session();
  session.prefill(tokens(state.range(0)));
  Token next = 1;
  for (auto _ : state) {
    benchmark::DoNotOptimize(session.step(next).data());
    next = (next * 7 + 11) % static_cast<Token>(config.vocab_size);
  }
  count<W>(state, 1, M<W>::decode_flops());
}

template <class W>
void decode_batch(benchmark::State& state) {
  std::vector<Session<M<W>>> sessions(static_cast<std::size_t>(state.range(0)), model<W>().session());
  std::vector<Session<M<W>>*> pointers;
  for (auto& s : sessions) pointers.push_back(&s);
  const auto next = tokens(state.range(0));
  for (auto _ : state) Session<M<W>>::step(pointers, next);
  count<W>(state, state.range(0), static_cast<double>(state.range(0)) * M<W>::decode_flops());
}

BENCHMARK_TEMPLATE(prefill, float)->Arg(512)->Arg(2048)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(prefill, bf16)->Arg(512)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(decode, float)->Arg(16)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(decode, bf16)->Arg(16)->Arg(100000)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(decode_batch, bf16)->Arg(8)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], "--threads=", 10) != 0) continue;
    threads = std::atoi(argv[i] + 10);
    for (int j = i; j + 1 < argc; ++j) argv[j] = argv[j + 1];
    --argc;
    --i;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
