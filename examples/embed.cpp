// SPDX-License-Identifier: Apache-2.0
// A model in a program of one's own: embed DIR TEXT
#include <iostream>

#include "xlstm/compiled_models.hpp"  // from CMake: the sizes in -DXLSTM_MODELS; or write a ModelConfig by hand
#include "xlstm/xlstm.hpp"

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::cerr << "usage: embed DIR TEXT\n";
    return 2;
  }
  using Model = xlstm::LanguageModel<xlstm::compiled::Models::configs[0], xlstm::cpu::Backend<float>>;

  const auto checkpoint = xlstm::Checkpoint::open(argv[1]);
  const auto model = Model::load(checkpoint);
  const auto tokenizer = xlstm::Tokenizer::load(std::string(argv[1]) + "/tokenizer.json");
  auto session = model.session();
  auto text = xlstm::StreamDecoder(tokenizer);
  const auto prompt = checkpoint.tokens().with_bos(tokenizer.encode(argv[2]));
  for (const auto token : session.generate(prompt, {.max_tokens = 50})) {
    std::cout << text.push(token) << std::flush;
  }
  std::cout << text.finish() << '\n';
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
