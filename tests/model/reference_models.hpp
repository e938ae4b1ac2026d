// SPDX-License-Identifier: Apache-2.0
// The checkpoints of tests/data/models: their configurations, and what the published PyTorch code computed with them.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "reference_data.hpp"
#include "xlstm/model/config.hpp"

namespace reference_models {

inline constexpr xlstm::ModelConfig tiny_f32{.vocab_size = 512, .embedding_dim = 64, .num_blocks = 2, .num_heads = 4};
inline constexpr xlstm::ModelConfig sharded_bf16{
    .vocab_size = 512, .embedding_dim = 128, .num_blocks = 3, .num_heads = 2};
inline constexpr xlstm::ModelConfig fused_bias_f16{
    .vocab_size = 512, .embedding_dim = 64, .num_blocks = 2, .num_heads = 4, .use_bias = true};
inline constexpr xlstm::ModelConfig odd_sizes_f32{.vocab_size = 397,
                                                  .embedding_dim = 96,
                                                  .num_blocks = 2,
                                                  .num_heads = 3,
                                                  .norm_eps = 1e-5,
                                                  .qk_dim_factor = 0.25,
                                                  .v_dim_factor = 0.5,
                                                  .ffn_proj_factor = 1.7,
                                                  .ffn_round_up_to_multiple_of = 8,
                                                  .gate_soft_cap = 7.0,
                                                  .output_logit_soft_cap = 11.0};

/// A directory of tests/data/models with its expected.json and expected.safetensors.
struct Expected {
  explicit Expected(const std::string& name)
      : directory(std::string(XLSTM_TEST_DATA) + "/models/" + name),
        json(nlohmann::json::parse(std::ifstream(directory + "/expected.json"))),
        tensors("models/" + name + "/expected") {
    for (const double id : tensors["ids"]) ids.push_back(static_cast<xlstm::Token>(id));
    length = static_cast<xlstm::Index>(ids.size()) / 2;
  }
  /// How far the published code's own two paths lie apart, times 3, plus what fp32 sums in another order may add.
  double logit_tolerance() const { return 3 * json["chunkwise_vs_recurrent_max_abs_logit_gap"].get<double>() + 1e-3; }

  std::string directory;
  nlohmann::json json;
  xlstm::tests::ReferenceData tensors;
  std::vector<xlstm::Token> ids;  ///< (2, length)
  xlstm::Index length = 0;
};

}  // namespace reference_models
