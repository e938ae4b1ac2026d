// SPDX-License-Identifier: Apache-2.0
// config.json of the published checkpoints (transformers' xLSTMConfig) and config.yaml of the original export, checked
// value by value and turned into a ModelConfig; and the way back.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "xlstm/core/element.hpp"
#include "xlstm/core/error.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/core/quantization.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/io/flat_yaml.hpp"
#include "xlstm/io/json.hpp"
#include "xlstm/io/printable.hpp"
#include "xlstm/model/config.hpp"

namespace xlstm {

/// Special tokens of a checkpoint; nothing where the configuration has none (missing, null or -1).
struct TokenIds {
  std::optional<Token> bos = {};
  std::optional<Token> eos = {};
  std::optional<Token> pad = {};
  std::vector<Token> more_eos = {};  ///< where eos_token_id is a list: those after the first

  /// A text's tokens as the model expects them: bos first, where there is one.
  std::vector<Token> with_bos(std::vector<Token> text) const {
    if (bos) text.insert(text.begin(), *bos);
    return text;
  }
  /// What ends a text: GenerationOptions::stop_tokens.
  std::vector<Token> stop_tokens() const {
    std::vector<Token> all = more_eos;
    if (eos) all.insert(all.begin(), *eos);
    return all;
  }

  friend bool operator==(const TokenIds&, const TokenIds&) = default;
};

/// single: one tensor a projection. fused: q, k, v and output gate stacked in one, both gates in one, up and gate in
/// one.
enum class WeightMode { single, fused };

/// All that a checkpoint's configuration says.
struct CheckpointConfig {
  ModelConfig model;
  TokenIds tokens;
  WeightMode weight_mode = WeightMode::single;
  std::optional<Quantization> quantization = {};  ///< where weights are quantised (docs/quantization.md)
};

namespace io {

/// Bytes that a configuration file may have.
inline constexpr std::size_t max_config_bytes = std::size_t{1} << 20;

/// Every size in a configuration is at most this.
inline constexpr Index max_config_size = std::numeric_limits<std::int32_t>::max();

/// Reads the keys of one configuration object and names file and key in every message.
class ConfigReader {
 public:
  ConfigReader(const nlohmann::json& object, std::string_view name) : object_(&object), name_(printable(name)) {
    if (!object.is_object()) fail(name_, " is ", json_kind(object), ", expected an object");
  }

  std::string where(std::string_view key) const { return name_ + ": " + std::string(key); }
  const nlohmann::json* find(const std::string& key) const { return find_key(*object_, key); }

  /// A size that must be there.
  Index required(const std::string& key) const {
    const nlohmann::json* value = find(key);
    if (value == nullptr) fail(name_, ": ", key, " is missing");
    return json_integer(*value, where(key), 1, max_config_size);
  }

  /// A size with two names, of which at least one must be there; null counts as missing.
  Index required(const std::string& key, const std::string& alias) const {
    const auto read = [&](const std::string& k) -> std::optional<Index> {
      const nlohmann::json* value = find(k);
      if (value == nullptr || value->is_null()) return std::nullopt;
      return json_integer(*value, where(k), 1, max_config_size);
    };
    const auto first = read(key);
    const auto second = read(alias);
    if (!first && !second) fail(name_, ": ", key, " (or ", alias, ") is missing");
    if (first && second && *first != *second) {
      fail(name_, ": ", key, " is ", *first, " and ", alias, " is ", *second, ", expected the same value");
    }
    return first ? *first : *second;
  }

  Index size(const std::string& key, Index otherwise) const {
    const nlohmann::json* value = find(key);
    return value == nullptr ? otherwise : json_integer(*value, where(key), 1, max_config_size);
  }
  bool boolean(const std::string& key, bool otherwise) const {
    const nlohmann::json* value = find(key);
    return value == nullptr ? otherwise : json_boolean(*value, where(key));
  }
  double positive(const std::string& key, double otherwise) const {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return otherwise;
    const double number = json_number(*value, where(key));
    if (!(number > 0)) fail(where(key), " is ", json_kind(*value), ", expected a positive number");
    return number;
  }
  /// A soft cap: null and 0 mean none.
  double soft_cap(const std::string& key, double otherwise) const {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return otherwise;
    if (value->is_null()) return 0;
    const double number = json_number(*value, where(key));
    if (!(number >= 0)) fail(where(key), " is ", json_kind(*value), ", expected a positive number, or null for none");
    return number;
  }
  /// 0 for the first name, 1 for the second.
  int choice(const std::string& key, std::string_view first, std::string_view second) const {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return 0;
    const std::string& found = json_string(*value, where(key));
    if (found != first && found != second) {
      fail(where(key), " is \"", printable(found), "\", expected \"", first, "\" or \"", second, '"');
    }
    return found == first ? 0 : 1;
  }
  std::optional<Token> token(const std::string& key, Index vocab_size) const {
    const nlohmann::json* value = find(key);
    if (value != nullptr && value->is_array() && value->size() == 1) value = &value->front();
    if (value == nullptr || value->is_null()) return std::nullopt;
    const Index id = json_integer(*value, where(key), -1, vocab_size - 1);
    if (id < 0) return std::nullopt;
    return static_cast<Token>(id);
  }
  /// The same for a key that may hold a list of tokens.
  std::vector<Token> token_list(const std::string& key, Index vocab_size) const {
    const nlohmann::json* value = find(key);
    std::vector<Token> tokens;
    if (value != nullptr && value->is_array() && value->size() > 1) {
      for (const nlohmann::json& id : *value) {
        tokens.push_back(static_cast<Token>(json_integer(id, where(key), 0, vocab_size - 1)));
      }
    } else if (const auto one = token(key, vocab_size)) {
      tokens.push_back(*one);
    }
    return tokens;
  }

 private:
  const nlohmann::json* object_;
  std::string name_;
};

/// An Error unless `factor`·embedding_dim is a width that memory could hold.
inline void check_width(const ConfigReader& reader, const std::string& key, double factor, Index embedding_dim) {
  const double width = factor * static_cast<double>(embedding_dim);
  if (!(width >= 1) || width > static_cast<double>(max_config_size)) {
    fail(reader.where(key), " is ", nlohmann::json(factor).dump(), ", expected ", key,
         " * embedding_dim to be from 1 to ", max_config_size);
  }
}

/// The key "quantization": {"format": "int8" or "int4", "group_size": 32, 64, 128 or 256}; nothing if it is missing.
inline std::optional<Quantization> read_quantization(const ConfigReader& reader) {
  const nlohmann::json* value = reader.find("quantization");
  if (value == nullptr || value->is_null()) return std::nullopt;
  const ConfigReader inner(*value, reader.where("quantization"));
  if (inner.find("format") == nullptr) fail(inner.where("format"), " is missing");
  const int bits = inner.choice("format", "int8", "int4") == 0 ? 8 : 4;
  const Index group_size = inner.required("group_size");
  if (group_size != 32 && group_size != 64 && group_size != 128 && group_size != 256) {
    fail(inner.where("group_size"), " is ", group_size, ", expected 32, 64, 128 or 256");
  }
  return Quantization{bits, group_size};
}

/// A configuration object (JSON, or YAML turned into it) as values that a model can be built from.
/// `ffn_proj_factor` is the default of the class that wrote it.
inline CheckpointConfig config_from_object(const nlohmann::json& object, std::string_view name,
                                           double ffn_proj_factor) {
  const ConfigReader reader(object, name);
  CheckpointConfig config;
  ModelConfig& model = config.model;
  model.vocab_size = reader.required("vocab_size");
  model.embedding_dim = reader.required("embedding_dim", "hidden_size");
  model.num_blocks = reader.required("num_blocks", "num_hidden_layers");
  model.num_heads = reader.required("num_heads");
  model.use_bias = reader.boolean("use_bias", model.use_bias);
  model.norm_eps = reader.positive("norm_eps", model.norm_eps);
  model.eps = reader.positive("eps", model.eps);
  model.add_out_norm = reader.boolean("add_out_norm", model.add_out_norm);
  model.qk_dim_factor = reader.positive("qk_dim_factor", model.qk_dim_factor);
  model.v_dim_factor = reader.positive("v_dim_factor", model.v_dim_factor);
  model.ffn_proj_factor = reader.positive("ffn_proj_factor", ffn_proj_factor);
  model.ffn_round_up_to_multiple_of = reader.size("ffn_round_up_to_multiple_of", model.ffn_round_up_to_multiple_of);
  model.gate_soft_cap = reader.soft_cap("gate_soft_cap", model.gate_soft_cap);
  model.output_logit_soft_cap = reader.soft_cap("output_logit_soft_cap", model.output_logit_soft_cap);
  model.tie_word_embeddings = reader.boolean("tie_word_embeddings", model.tie_word_embeddings);
  model.chunk_size = reader.size("chunk_size", model.chunk_size);
  model.input_gate = static_cast<InputGate>(reader.choice("input_gate", "exponential", "sigmoid"));
  model.normalizer = static_cast<Normalizer>(reader.choice("normalizer", "max_abs", "none"));
  config.weight_mode = static_cast<WeightMode>(reader.choice("weight_mode", "single", "fused"));
  config.quantization = read_quantization(reader);
  config.tokens.bos = reader.token("bos_token_id", model.vocab_size);
  const std::vector<Token> eos = reader.token_list("eos_token_id", model.vocab_size);
  if (!eos.empty()) {
    config.tokens.eos = eos.front();
    config.tokens.more_eos.assign(eos.begin() + 1, eos.end());
  }
  config.tokens.pad = reader.token("pad_token_id", model.vocab_size);

  check_width(reader, "qk_dim_factor", model.qk_dim_factor, model.embedding_dim);
  check_width(reader, "v_dim_factor", model.v_dim_factor, model.embedding_dim);
  check_width(reader, "ffn_proj_factor", model.ffn_proj_factor, model.embedding_dim);
  const auto check_heads = [&](std::string_view width_name, Index width) {
    if (width % model.num_heads != 0) {
      fail(reader.where("num_heads"), " is ", model.num_heads, ", expected a divisor of ", width_name, ", which is ",
           width);
    }
  };
  check_heads("qk_dim", model.qk_dim());
  check_heads("v_dim", model.v_dim());
  if (model.ffn_dim() < 1 || model.ffn_dim() > max_config_size) {
    fail(reader.where("ffn_round_up_to_multiple_of"), " is ", model.ffn_round_up_to_multiple_of,
         ", which makes the feed-forward width ", model.ffn_dim(), ", expected 1 to ", max_config_size);
  }
  const double widths = 2.0 * static_cast<double>(model.qk_dim()) + 3.0 * static_cast<double>(model.v_dim()) +
                        3.0 * static_cast<double>(model.ffn_dim()) + 2.0 * static_cast<double>(model.num_heads) + 8.0;
  const double rows = static_cast<double>(model.num_blocks) * widths + 2.0 * static_cast<double>(model.vocab_size);
  if (rows * static_cast<double>(model.embedding_dim) > 0x1p59) {
    fail(printable(name), ": a model of these sizes has more than 2^59 parameters");
  }
  return config;
}

}  // namespace io

/// The configuration in the text of a config.json; `name` (a file) begins every message. Missing keys have the defaults
/// of transformers' xLSTMConfig, but the sizes must be there: vocab_size, embedding_dim (or hidden_size), num_blocks
/// (or num_hidden_layers), num_heads. Keys that change no result are ignored. Own optional keys: "input_gate"
/// ("exponential", "sigmoid") and "normalizer" ("max_abs", "none"). Throws Error with key, found and expected.
inline CheckpointConfig parse_checkpoint_config(std::string_view json, std::string_view name) {
  return io::config_from_object(io::parse_json(json, name), name, ModelConfig{}.ffn_proj_factor);
}

/// Likewise from the config.yaml of the original export (xlstm_large), whose ffn_proj_factor is 2.6667 by default.
inline CheckpointConfig parse_checkpoint_config_yaml(std::string_view yaml, std::string_view name) {
  return io::config_from_object(io::parse_flat_yaml(yaml, name), name, 2.6667);
}

/// The model's part of parse_checkpoint_config.
inline ModelConfig parse_config(std::string_view json, std::string_view name) {
  return parse_checkpoint_config(json, name).model;
}

/// The configuration of a checkpoint directory: its config.json, or else its config.yaml.
inline CheckpointConfig load_checkpoint_config(const std::filesystem::path& directory) {
  std::error_code error;
  if (!io::path_exists(directory)) fail(io::printable(directory.native()), ": no such directory");
  if (!std::filesystem::is_directory(directory, error)) {
    fail(io::printable(directory.native()), ": is not a directory, expected that of a checkpoint");
  }
  const std::filesystem::path json = directory / "config.json";
  const std::filesystem::path yaml = directory / "config.yaml";
  if (io::path_exists(json)) {
    return parse_checkpoint_config(io::read_text_file(json, io::max_config_bytes), json.native());
  }
  if (io::path_exists(yaml)) {
    return parse_checkpoint_config_yaml(io::read_text_file(yaml, io::max_config_bytes), yaml.native());
  }
  fail(io::printable(directory.native()),
       ": holds neither config.json nor config.yaml; not a checkpoint, or one that "
       "was not written to its end");
}

/// The model's part of load_checkpoint_config.
inline ModelConfig load_config(const std::filesystem::path& directory) {
  return load_checkpoint_config(directory).model;
}

/// config.json for transformers' xLSTMConfig and for parse_config. A soft cap of 0 is written as null. The keys
/// "input_gate" and "normalizer" appear only where they differ from the published architecture, "quantization" only
/// with quantised weights.
inline std::string to_json(const ModelConfig& config, DType dtype, const TokenIds& tokens = {},
                           WeightMode weight_mode = WeightMode::single,
                           const std::optional<Quantization>& quantization = {}) {
  const char* dtype_name = dtype == DType::f32 ? "float32" : dtype == DType::bf16 ? "bfloat16" : "float16";
  const auto cap = [](double value) { return value > 0 ? nlohmann::json(value) : nlohmann::json(nullptr); };
  const auto id = [](const std::optional<Token>& token) {
    return token ? nlohmann::json(*token) : nlohmann::json(nullptr);
  };
  nlohmann::json json = {
      {"architectures", {"xLSTMForCausalLM"}},
      {"model_type", "xlstm"},
      {"dtype", dtype_name},
      {"vocab_size", config.vocab_size},
      {"embedding_dim", config.embedding_dim},
      {"hidden_size", config.embedding_dim},
      {"num_blocks", config.num_blocks},
      {"num_hidden_layers", config.num_blocks},
      {"num_heads", config.num_heads},
      {"use_bias", config.use_bias},
      {"norm_eps", config.norm_eps},
      {"eps", config.eps},
      {"norm_reduction_force_float32", true},
      {"add_out_norm", config.add_out_norm},
      {"qk_dim_factor", config.qk_dim_factor},
      {"v_dim_factor", config.v_dim_factor},
      {"ffn_proj_factor", config.ffn_proj_factor},
      {"ffn_round_up_to_multiple_of", config.ffn_round_up_to_multiple_of},
      {"gate_soft_cap", cap(config.gate_soft_cap)},
      {"output_logit_soft_cap", cap(config.output_logit_soft_cap)},
      {"tie_word_embeddings", config.tie_word_embeddings},
      {"weight_mode", weight_mode == WeightMode::single ? "single" : "fused"},
      {"chunk_size", config.chunk_size},
      {"chunkwise_kernel", "chunkwise--native_autograd"},
      {"sequence_kernel", "native_sequence__native"},
      {"step_kernel", "native"},
      {"mode", "inference"},
      {"return_last_states", true},
      {"autocast_kernel_dtype", dtype_name},
      {"inference_state_dtype", "float32"},
      {"use_cache", true},
      {"bos_token_id", id(tokens.bos)},
      {"eos_token_id", id(tokens.eos)},
      {"pad_token_id", id(tokens.pad)},
  };
  for (const Token more : tokens.more_eos) {
    if (!json["eos_token_id"].is_array()) json["eos_token_id"] = nlohmann::json::array({*tokens.eos});
    json["eos_token_id"].push_back(more);
  }
  if (config.input_gate == InputGate::sigmoid) json["input_gate"] = "sigmoid";
  if (config.normalizer == Normalizer::none) json["normalizer"] = "none";
  if (quantization) {
    json["quantization"] = {{"format", quantization->name()}, {"group_size", quantization->group_size}};
  }
  return json.dump(2) + "\n";
}

/// How a checkpoint's configuration differs from the one that a program was compiled for, a sentence a field; empty
/// where the program can run it. chunk_size is a hint and never a difference, and factors are compared by the widths
/// that they lead to.
inline std::vector<std::string> differences(const ModelConfig& found, const ModelConfig& compiled) {
  std::vector<std::string> sentences;
  const auto compare = [&](std::string_view field, const auto& a, const auto& b) {
    if (a == b) return;
    sentences.push_back(std::string(field) + " is " + nlohmann::json(a).dump() + ", the program was compiled for " +
                        nlohmann::json(b).dump());
  };
  compare("vocab_size", found.vocab_size, compiled.vocab_size);
  compare("embedding_dim", found.embedding_dim, compiled.embedding_dim);
  compare("num_blocks", found.num_blocks, compiled.num_blocks);
  compare("num_heads", found.num_heads, compiled.num_heads);
  compare("use_bias", found.use_bias, compiled.use_bias);
  compare("norm_eps", found.norm_eps, compiled.norm_eps);
  compare("eps", found.eps, compiled.eps);
  compare("add_out_norm", found.add_out_norm, compiled.add_out_norm);
  if (found.qk_dim() != compiled.qk_dim()) compare("qk_dim_factor", found.qk_dim_factor, compiled.qk_dim_factor);
  if (found.v_dim() != compiled.v_dim()) compare("v_dim_factor", found.v_dim_factor, compiled.v_dim_factor);
  if (found.ffn_dim() != compiled.ffn_dim()) {
    compare("ffn_proj_factor", found.ffn_proj_factor, compiled.ffn_proj_factor);
    compare("ffn_round_up_to_multiple_of", found.ffn_round_up_to_multiple_of, compiled.ffn_round_up_to_multiple_of);
  }
  compare("gate_soft_cap", found.gate_soft_cap, compiled.gate_soft_cap);
  compare("output_logit_soft_cap", found.output_logit_soft_cap, compiled.output_logit_soft_cap);
  compare("tie_word_embeddings", found.tie_word_embeddings, compiled.tie_word_embeddings);
  const auto gate = [](const ModelConfig& c) { return c.input_gate == InputGate::sigmoid ? "sigmoid" : "exponential"; };
  const auto normalizer = [](const ModelConfig& c) { return c.normalizer == Normalizer::none ? "none" : "max_abs"; };
  compare("input_gate", std::string_view(gate(found)), std::string_view(gate(compiled)));
  compare("normalizer", std::string_view(normalizer(found)), std::string_view(normalizer(compiled)));
  return sentences;
}

}  // namespace xlstm
