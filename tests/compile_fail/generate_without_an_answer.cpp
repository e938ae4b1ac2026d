// expect: xlstm: what generate calls with every token must return whether to go on, true or false
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/generate/generation.hpp"

constexpr xlstm::ModelConfig config{.vocab_size = 8, .embedding_dim = 8, .num_blocks = 1, .num_heads = 1};
using Model = xlstm::LanguageModel<config>;
void write(xlstm::Session<Model>& session) {
  xlstm::generate(session, {}, {}, [](xlstm::Token) {});
}
