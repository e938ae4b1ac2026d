// expect: xlstm: ffn_round_up_to_multiple_of must be at least 1
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/model/architecture.hpp"

constexpr xlstm::ModelConfig config{
    .vocab_size = 16, .embedding_dim = 64, .num_blocks = 2, .num_heads = 4, .ffn_round_up_to_multiple_of = 0};
constexpr xlstm::Index size = xlstm::Network<config>::state_size;
