// expect to compile
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/core/arena.hpp"
#include "xlstm/model/model_list.hpp"

using Models = xlstm::ModelList<xlstm::NamedConfig<"one", xlstm::ModelConfig{.vocab_size = 1}>>;

float* floats(xlstm::Arena& arena) { return arena.allocate<float>(3); }

bool visit(const xlstm::ModelConfig& wanted) {
  return xlstm::dispatch<Models>(wanted, []<xlstm::ModelConfig Config>() { static_assert(Config.vocab_size == 1); });
}
