// SPDX-License-Identifier: Apache-2.0
// A training step on a GPU: forward, loss, backward, clipping and AdamW, with bf16 weights and fp32 masters.
//     build/bench/cuda_training 1.4B|160M [--length N] [--sequences N]
// One JSON object. The floor is three times the forward pass's operations at the peak of a large product, which is
// measured first. Memory is what the device has less than before the trainer.
#include <cstdlib>
#include <cstring>

#include "cuda_timing.hpp"
#include "xlstm/model/architecture.hpp"
#include "xlstm/model/counts.hpp"
#include "xlstm/model/presets.hpp"
#include "xlstm/train/trainer.hpp"

namespace {

using namespace xlstm;
namespace cuda = xlstm::cuda;  // not the toolkit's own cuda

template <ModelConfig config>
void measure(const char* name, Index sequences, Index length) {
  using B = cuda::Backend<bf16>;
  using N = Network<config>;
  const bench::Ceilings ceilings = bench::measure_ceilings();
  const cuda::Runtime runtime;
  const Index free_before = runtime.free_bytes();
  Trainer<N, B> trainer(1);
  BatchBuffer batch(sequences, length);
  Random random(2);
  for (Index b = 0; b < sequences; ++b) {
    for (Token& token : batch.tokens(b)) token = static_cast<Token>(random.below(config.vocab_size));
    for (Token& target : batch.targets(b)) target = static_cast<Token>(random.below(config.vocab_size));
  }
  for (int i = 0; i < 2; ++i) trainer.train_step(batch.view(), 1e-4);  // memory, and cuBLASLt's algorithms
  const double time = bench::seconds_on_the_host(3, [&] { trainer.train_step(batch.view(), 1e-4); });
  const double floor = 3 * static_cast<double>(sequences) *
                       prefill_flops<N, B>(length, cuda::MLSTMChunkwiseTuning::chunk_size) / ceilings.products;
  std::printf(
      "{\"device\": \"%s\", \"bf16 TFLOP/s\": %.5g, \"model\": \"%s\",\n \"runs\": [\n"
      "  {\"work\": \"training\", \"count\": \"%td × %td\", \"ms\": %.5g, \"floor ms\": %.5g}],\n"
      " \"memory GB\": %.5g}\n",
      ceilings.name.c_str(), 1e-12 * ceilings.products, name, sequences, length, 1e3 * time, 1e3 * floor,
      1e-9 * static_cast<double>(free_before - runtime.free_bytes()));
}

}  // namespace

int main(int argc, char** argv) {
  Index sequences = 1;
  Index length = 8192;
  const char* model = "1.4B";
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--length") == 0 && i + 1 < argc) {
      length = std::atoi(argv[++i]);
    } else if (std::strcmp(argv[i], "--sequences") == 0 && i + 1 < argc) {
      sequences = std::atoi(argv[++i]);
    } else {
      model = argv[i];
    }
  }
  try {
    if (std::strcmp(model, "1.4B") == 0) {
      measure<presets::xlstm_1_4b>(model, sequences, length);
    } else if (std::strcmp(model, "160M") == 0) {
      measure<presets::xlstm_160m>(model, sequences, length);
    } else {
      std::fprintf(stderr, "usage: cuda_training 1.4B|160M [--length N] [--sequences N]\n");
      return 2;
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cuda_training: %s\n", error.what());
    return 1;
  }
}
