// expect: xlstm: num_blocks must be at least 1; set .num_blocks
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/model/architecture.hpp"

constexpr xlstm::ModelConfig config{.vocab_size = 16, .embedding_dim = 64, .num_heads = 4};
constexpr xlstm::Index size = xlstm::Network<config>::state_size;
