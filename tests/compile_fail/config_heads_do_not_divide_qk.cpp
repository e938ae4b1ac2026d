// expect: xlstm: int(qk_dim_factor * embedding_dim) must be a multiple of num_heads
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/model/architecture.hpp"

constexpr xlstm::ModelConfig config{
    .vocab_size = 16, .embedding_dim = 64, .num_blocks = 2, .num_heads = 5, .v_dim_factor = 1.25};
constexpr xlstm::Index size = xlstm::Network<config>::state_size;
