// SPDX-License-Identifier: Apache-2.0
// Any bytes as config.json and as config.yaml: either an Error, or sizes that a model can have and that to_json keeps.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "xlstm/core/error.hpp"
#include "xlstm/io/config.hpp"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

template <class Parse>
void check(Parse&& parse, std::string_view text) {
  try {
    const xlstm::CheckpointConfig config = parse(text, "fuzz");
    const xlstm::ModelConfig& model = config.model;
    require(model.vocab_size > 0 && model.embedding_dim > 0 && model.num_blocks > 0);
    require(model.qk_head_dim() > 0 && model.qk_head_dim() * model.num_heads == model.qk_dim());
    require(model.v_head_dim() > 0 && model.v_head_dim() * model.num_heads == model.v_dim());
    require(model.ffn_dim() > 0 && model.ffn_dim() % model.ffn_round_up_to_multiple_of == 0);
    require(model.gate_soft_cap >= 0 && model.output_logit_soft_cap >= 0 && model.norm_eps > 0 && model.eps > 0);
    require(differences(model, model).empty());
    const auto again = xlstm::parse_checkpoint_config(
        xlstm::to_json(model, xlstm::DType::bf16, config.tokens, config.weight_mode), "again");
    require(again.model == model && again.tokens == config.tokens && again.weight_mode == config.weight_mode);
  } catch (const xlstm::Error& error) {
    require(std::strlen(error.what()) > 0 && std::strchr(error.what(), '\n') == nullptr);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  check(xlstm::parse_checkpoint_config, text);
  check(xlstm::parse_checkpoint_config_yaml, text);
  return 0;
}
