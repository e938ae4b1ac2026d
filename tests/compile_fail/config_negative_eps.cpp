// expect: xlstm: eps must not be negative
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/model/architecture.hpp"

constexpr xlstm::ModelConfig config{
    .vocab_size = 16, .embedding_dim = 64, .num_blocks = 2, .num_heads = 4, .eps = -1e-6};
constexpr xlstm::Index size = xlstm::Network<config>::state_size;
