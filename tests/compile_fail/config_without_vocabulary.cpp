// expect: xlstm: vocab_size must be at least 1; set .vocab_size
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/model/architecture.hpp"

constexpr xlstm::ModelConfig config{.embedding_dim = 64, .num_blocks = 2, .num_heads = 4};
constexpr xlstm::Index size = xlstm::Network<config>::state_size;
