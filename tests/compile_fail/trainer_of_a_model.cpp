// expect: xlstm: a Trainer trains a network, such as xlstm::Network<config> or an xlstm::CausalLM, and has its weights;
// a model is for generation SPDX-License-Identifier: Apache-2.0
#include "xlstm/cpu/backend.hpp"
#include "xlstm/model/model.hpp"
#include "xlstm/train/trainer.hpp"

constexpr xlstm::ModelConfig config{.vocab_size = 8, .embedding_dim = 8, .num_blocks = 1, .num_heads = 1};
using Backend = xlstm::cpu::Backend<float>;
xlstm::Trainer<xlstm::LanguageModel<config, Backend>, Backend> trainer(1);
