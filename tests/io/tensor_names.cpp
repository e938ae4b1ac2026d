// SPDX-License-Identifier: Apache-2.0
#include "xlstm/io/tensor_names.hpp"

#include "catch.hpp"

using namespace xlstm;
using namespace xlstm::io;

namespace {

constexpr ModelConfig config = {
    .vocab_size = 100, .embedding_dim = 64, .num_blocks = 2, .num_heads = 4, .v_dim_factor = 2.0};

/// The places as text: name, or name[first row:of total rows].
std::vector<std::string> places(std::string_view canonical, const ModelConfig& c = config) {
  std::vector<std::string> texts;
  for (const auto& place : tensor_places(canonical, c)) {
    texts.push_back(place.total_rows == 0 ? place.name
                                          : place.name + "[" + std::to_string(place.first_row) + ":" +
                                                std::to_string(place.total_rows) + "]");
  }
  return texts;
}

}  // namespace

TEST_CASE("a parameter is looked for under its published name first", "[io][names]") {
  using Names = std::vector<std::string>;
  CHECK(places("lm_head.weight") == Names{"lm_head.weight"});
  CHECK(places("backbone.out_norm.weight") == Names{"backbone.out_norm.weight", "out_norm.weight"});
  CHECK(places("backbone.embeddings.weight") ==
        Names{"backbone.embeddings.weight", "embedding.weight", "embeddings.weight"});
}

TEST_CASE("parts of fused tensors are rows in the published order", "[io][names]") {
  REQUIRE(config.qk_dim() == 32);
  REQUIRE(config.v_dim() == 128);
  REQUIRE(config.ffn_dim() == 192);
  const auto fused = [](const std::string& part) { return places("backbone.blocks.1." + part).at(2); };
  CHECK(fused("mlstm_layer.q.weight") == "backbone.blocks.1.mlstm_layer.qkv_opreact.weight[0:320]");
  CHECK(fused("mlstm_layer.k.bias") == "backbone.blocks.1.mlstm_layer.qkv_opreact.bias[32:320]");
  CHECK(fused("mlstm_layer.v.weight") == "backbone.blocks.1.mlstm_layer.qkv_opreact.weight[64:320]");
  CHECK(fused("mlstm_layer.ogate_preact.weight") == "backbone.blocks.1.mlstm_layer.qkv_opreact.weight[192:320]");
  CHECK(fused("mlstm_layer.igate_preact.bias") == "backbone.blocks.1.mlstm_layer.ifgate_preact.bias[0:8]");
  CHECK(fused("mlstm_layer.fgate_preact.weight") == "backbone.blocks.1.mlstm_layer.ifgate_preact.weight[4:8]");
  CHECK(fused("ffn.proj_up_gate.weight") == "backbone.blocks.1.ffn.proj_up_gate_z.weight[0:384]");
  CHECK(fused("ffn.proj_up.weight") == "backbone.blocks.1.ffn.proj_up_gate_z.weight[192:384]");
  CHECK(places("backbone.blocks.1.mlstm_layer.out_proj.weight").size() == 2);
  CHECK(places("backbone.blocks.1.ffn.proj_down.weight").size() == 2);
}

TEST_CASE("tied embeddings stand in for the head", "[io][names]") {
  ModelConfig tied = config;
  tied.tie_word_embeddings = true;
  CHECK(places("lm_head.weight", tied) == std::vector<std::string>{"lm_head.weight", "backbone.embeddings.weight",
                                                                   "embedding.weight", "embeddings.weight"});
  CHECK(places("backbone.out_norm.weight", tied).size() == 2);
}
