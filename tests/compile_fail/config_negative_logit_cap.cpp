// expect: xlstm: output_logit_soft_cap must be positive, or 0 for none
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/model/architecture.hpp"

constexpr xlstm::ModelConfig config{
    .vocab_size = 16, .embedding_dim = 64, .num_blocks = 2, .num_heads = 4, .output_logit_soft_cap = -30.0};
constexpr xlstm::Index size = xlstm::Network<config>::state_size;
