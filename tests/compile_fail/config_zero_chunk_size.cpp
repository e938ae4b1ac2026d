// expect: xlstm: chunk_size must be at least 1
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/model/architecture.hpp"

constexpr xlstm::ModelConfig config{
    .vocab_size = 16, .embedding_dim = 64, .num_blocks = 2, .num_heads = 4, .chunk_size = 0};
constexpr xlstm::Index size = xlstm::Network<config>::state_size;
