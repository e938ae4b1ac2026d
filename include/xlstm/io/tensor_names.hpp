// SPDX-License-Identifier: Apache-2.0
// Under which names a checkpoint may hold a parameter. The canonical name is that of the published checkpoints
// ("backbone.blocks.0.mlstm_layer.q.weight"); the original export and the base model alone differ in prefixes, and
// `weight_mode: "fused"` stacks several projections by rows in one tensor:
//     mlstm_layer.qkv_opreact = [q; k; v; ogate_preact]   mlstm_layer.ifgate_preact = [igate_preact; fgate_preact]
//     ffn.proj_up_gate_z = [proj_up_gate; proj_up]
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "xlstm/core/index.hpp"
#include "xlstm/model/config.hpp"

namespace xlstm::io {

/// A place where a parameter may be: rows [first_row, first_row + its own rows) of a tensor of `total_rows` rows.
/// total_rows 0: it is the whole tensor.
struct TensorPlace {
  std::string name;
  Index first_row = 0;
  Index total_rows = 0;
};

/// The name without a prefix that the base model alone lacks, and the original export's name of the embedding.
inline std::vector<std::string> tensor_aliases(std::string_view canonical) {
  constexpr std::string_view backbone = "backbone.";
  constexpr std::string_view embeddings = "backbone.embeddings.";
  std::vector<std::string> names = {std::string(canonical)};
  if (canonical.starts_with(embeddings))
    names.push_back("embedding." + std::string(canonical.substr(embeddings.size())));
  if (canonical.starts_with(backbone)) names.emplace_back(canonical.substr(backbone.size()));
  return names;
}

/// Every place where the parameter of that canonical name may be, in the order in which they are tried.
inline std::vector<TensorPlace> tensor_places(std::string_view canonical, const ModelConfig& config) {
  struct Part {
    std::string_view part;
    std::string_view fused;
    Index first_row;
    Index total_rows;
  };
  const Index qk = config.qk_dim();
  const Index v = config.v_dim();
  const Index heads = config.num_heads;
  const Index ffn = config.ffn_dim();
  const std::array<Part, 8> parts = {{
      {"mlstm_layer.q.", "mlstm_layer.qkv_opreact.", 0, 2 * (qk + v)},
      {"mlstm_layer.k.", "mlstm_layer.qkv_opreact.", qk, 2 * (qk + v)},
      {"mlstm_layer.v.", "mlstm_layer.qkv_opreact.", 2 * qk, 2 * (qk + v)},
      {"mlstm_layer.ogate_preact.", "mlstm_layer.qkv_opreact.", 2 * qk + v, 2 * (qk + v)},
      {"mlstm_layer.igate_preact.", "mlstm_layer.ifgate_preact.", 0, 2 * heads},
      {"mlstm_layer.fgate_preact.", "mlstm_layer.ifgate_preact.", heads, 2 * heads},
      {"ffn.proj_up_gate.", "ffn.proj_up_gate_z.", 0, 2 * ffn},
      {"ffn.proj_up.", "ffn.proj_up_gate_z.", ffn, 2 * ffn},
  }};
  std::vector<TensorPlace> places;
  const auto add_aliases = [&](std::string_view name, Index first_row, Index total_rows) {
    for (std::string& alias : tensor_aliases(name)) places.push_back({std::move(alias), first_row, total_rows});
  };
  add_aliases(canonical, 0, 0);
  for (const Part& part : parts) {
    const std::size_t at = canonical.find(part.part);
    if (at == std::string_view::npos || at == 0 || canonical[at - 1] != '.') continue;
    std::string fused(canonical);
    fused.replace(at, part.part.size(), part.fused);
    add_aliases(fused, part.first_row, part.total_rows);
  }
  if (config.tie_word_embeddings && canonical == "lm_head.weight") add_aliases("backbone.embeddings.weight", 0, 0);
  return places;
}

}  // namespace xlstm::io
