// expect: xlstm: embedding_dim must be at least 1; set .embedding_dim
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/model/architecture.hpp"

constexpr xlstm::ModelConfig config{.vocab_size = 16, .num_blocks = 2, .num_heads = 4};
constexpr xlstm::Index size = xlstm::Network<config>::state_size;
