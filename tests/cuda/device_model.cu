// SPDX-License-Identifier: Apache-2.0
// A small model for a GPU, compiled and linked by scripts/kernels.sh. Run with a checkpoint's directory (tiny-f32 of
// tests/data/models), it prints the greedy tokens after token 0; without a GPU it says so.
#include <cstdio>
#include <exception>

#include "xlstm/cuda/runtime.hpp"
#include "xlstm/generate/generation.hpp"
#include "xlstm/io/load.hpp"

namespace {

constexpr xlstm::ModelConfig config{.vocab_size = 512, .embedding_dim = 64, .num_blocks = 2, .num_heads = 4};

template <class T>
void continue_text(const char* directory) {
  using Model = xlstm::LanguageModel<config, xlstm::cuda::Backend<T>>;
  const auto model = Model::load(directory);
  auto session = model.session();
  for (const xlstm::Token token : session.generate(std::vector<xlstm::Token>(20, 0), {.max_tokens = 16})) {
    std::printf("%d ", token);
  }
  std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc != 2) xlstm::fail("usage: device_model DIR");
    continue_text<xlstm::bf16>(argv[1]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "device_model: %s\n", error.what());
    return 1;
  }
}
