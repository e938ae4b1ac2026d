// expect: xlstm: each head needs at least one value dimension; raise v_dim_factor or lower num_heads
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/model/architecture.hpp"

constexpr xlstm::ModelConfig config{
    .vocab_size = 16, .embedding_dim = 64, .num_blocks = 2, .num_heads = 4, .v_dim_factor = 0.01};
constexpr xlstm::Index size = xlstm::Network<config>::state_size;
