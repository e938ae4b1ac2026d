// SPDX-License-Identifier: Apache-2.0
// Whole models on a GPU, in bf16 with random weights: reading prompts, decoding, steps of several sessions at once.
//     build/bench/cuda_model 7B|1.4B [--tokens N]
// One JSON object: seconds; for decoding also the floor: every weight but the embedding's table and every state, in and
// out, at the bandwidth of a copy, which is measured first. Memory is what the device has less than before the model.
#include <cstdlib>
#include <cstring>

#include "cuda_timing.hpp"
#include "xlstm/generate/session.hpp"
#include "xlstm/model/presets.hpp"

namespace {

using namespace xlstm;
namespace cuda = xlstm::cuda;  // not the toolkit's own cuda

/// Weights of random values of about the initial size. Repeated: to make 7 billion takes minutes.
template <class Model>
Model random_model() {
  using Network = typename Model::Network;
  using B = typename Model::BackendType;
  Weights<Network, B> weights = allocate_weights<Network, B>();
  Random random(1);
  std::vector<float> values(1 << 20);
  for (float& x : values) x = static_cast<float>(random.normal());
  for_each_parameter<Network>(weights.parameters, [&](std::string_view name, auto& handle, Initialization start) {
    using Element = typename std::remove_cvref_t<decltype(handle)>::Element;
    if (!handle.is_matrix) {
      Element* next = handle.data();
      const InitialValues initial(name, start, handle.count, Network::embedding_dim, Network::num_blocks, 1);
      for (Index i = 0; i < initial.pieces(); ++i) {
        initial.make_piece(i, [&](double value) { *next++ = static_cast<Element>(static_cast<float>(value)); });
      }
      return;
    }
    const float deviation = 1 / std::sqrt(static_cast<float>(handle.cols));
    std::vector<Element> piece;
    for (const float x : values) piece.push_back(Element(deviation * x));
    const auto size = static_cast<Index>(piece.size());
    for (Index i = 0; i < handle.count; i += size) {
      std::copy_n(piece.begin(), std::min(size, handle.count - i), handle.data() + i);
    }
  });
  return Model(std::move(weights));
}

std::vector<Token> tokens(Index count, Index vocabulary) {
  Random random(2);
  std::vector<Token> all(static_cast<std::size_t>(count));
  for (Token& t : all) t = static_cast<Token>(random.below(static_cast<std::uint64_t>(vocabulary)));
  return all;
}

template <class S>
void step_all(std::vector<S>& sessions, const std::vector<Token>& next) {
  std::vector<S*> pointers;
  for (S& session : sessions) pointers.push_back(&session);
  S::step(pointers, next);
}

template <ModelConfig config>
void measure(const char* name, Index prompt_length) {
  using B = cuda::Backend<bf16>;
  using M = LanguageModel<config, B>;
  using Table = typename M::Network::template EmbeddingWeight<B>;
  const bench::Ceilings ceilings = bench::measure_ceilings();
  const cuda::Runtime runtime;
  const Index free_before = runtime.free_bytes();
  Index least_free = free_before;
  const auto look = [&] { least_free = std::min(least_free, runtime.free_bytes()); };
  const auto model = random_model<M>();
  look();
  std::printf(
      "{\"device\": \"%s\", \"copy GB/s\": %.5g, \"bf16 TFLOP/s\": %.5g,\n \"model\": \"%s\", "
      "\"weights GB\": %.5g, \"state MB\": %.5g,\n \"runs\": [",
      ceilings.name.c_str(), 1e-9 * ceilings.bandwidth, 1e-12 * ceilings.products, name,
      1e-9 * static_cast<double>(M::weight_bytes()), 1e-6 * static_cast<double>(M::state_bytes()));

  bool first = true;
  const auto report = [&](const char* work, Index count, double seconds, double floor) {
    std::printf("%s\n  {\"work\": \"%s\", \"count\": %td, \"ms\": %.5g", first ? "" : ",", work, count, 1e3 * seconds);
    if (floor > 0) std::printf(", \"floor ms\": %.5g", 1e3 * floor);
    std::printf("}");
    std::fflush(stdout);
    first = false;
  };
  const auto decode_floor = [&](Index sessions) {
    const auto states = 2 * static_cast<double>(sessions) * static_cast<double>(M::state_bytes());
    return (static_cast<double>(M::weight_bytes() - Table::bytes) + states) / ceilings.bandwidth;
  };

  for (const Index length : {Index{512}, Index{2048}, prompt_length}) {
    auto session = model.session();
    const auto prompt = tokens(length, config.vocab_size);
    session.prefill(prompt);
    session.prefill(prompt);
    const double time = bench::seconds_on_the_host(1, [&] { session.prefill(prompt); });
    report("prefill", length, time,
           M::prefill_flops(length, cuda::MLSTMChunkwiseTuning::chunk_size) / ceilings.products);
    look();
  }
  for (const Index count : {1, 8, 64}) {
    std::vector sessions(static_cast<std::size_t>(count), model.session());
    const auto next = tokens(count, config.vocab_size);
    for (int i = 0; i < 3; ++i) step_all(sessions, next);
    report("decode", count, bench::seconds_on_the_host(10, [&] { step_all(sessions, next); }), decode_floor(count));
    look();
  }
  std::printf("],\n \"memory GB\": %.5g}\n", 1e-9 * static_cast<double>(free_before - least_free));
}

}  // namespace

int main(int argc, char** argv) {
  Index length = 16384;
  const char* model = "7B";
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--tokens") == 0 && i + 1 < argc) {
      length = std::atoi(argv[++i]);
    } else {
      model = argv[i];
    }
  }
  try {
    if (std::strcmp(model, "7B") == 0) {
      measure<presets::xlstm_7b>(model, length);
    } else if (std::strcmp(model, "1.4B") == 0) {
      measure<presets::xlstm_1_4b>(model, length);
    } else {
      std::fprintf(stderr, "usage: cuda_model 7B|1.4B [--tokens N]\n");
      return 2;
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cuda_model: %s\n", error.what());
    return 1;
  }
}
