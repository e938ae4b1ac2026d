// expect: xlstm: the visitor of dispatch takes the configuration as its template argument
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/model/model_list.hpp"

using Models = xlstm::ModelList<xlstm::NamedConfig<"one", xlstm::ModelConfig{.vocab_size = 1}>>;

bool visit(const xlstm::ModelConfig& wanted) {
  return xlstm::dispatch<Models>(wanted, [] {});
}
