// SPDX-License-Identifier: Apache-2.0
#include "xlstm/io/config.hpp"

#include "catch.hpp"
#include "temporary_directory.hpp"
#include "xlstm/model/model_list.hpp"
#include "xlstm/model/presets.hpp"

using namespace xlstm;

namespace {

const nlohmann::json smallest = {{"vocab_size", 100}, {"embedding_dim", 64}, {"num_blocks", 2}, {"num_heads", 4}};

nlohmann::json with(const char* key, const nlohmann::json& value) {
  nlohmann::json json = smallest;
  json[key] = value;
  return json;
}
ModelConfig parse(const nlohmann::json& json) { return parse_config(json.dump(), "c"); }
std::string config_error(const nlohmann::json& json) {
  return error_of([&] { parse(json); });
}

}  // namespace

TEST_CASE("the configurations of the reference models", "[io][config]") {
  const auto tiny = load_checkpoint_config(XLSTM_TEST_DATA "/models/tiny-f32");
  CHECK(tiny.model == ModelConfig{.vocab_size = 512, .embedding_dim = 64, .num_blocks = 2, .num_heads = 4});
  CHECK(tiny.tokens == TokenIds{0, 2, 1});
  CHECK(tiny.weight_mode == WeightMode::single);

  const auto fused = load_checkpoint_config(XLSTM_TEST_DATA "/models/fused-bias-f16");
  CHECK(fused.weight_mode == WeightMode::fused);
  CHECK(fused.model.use_bias);

  const auto odd = load_config(XLSTM_TEST_DATA "/models/odd-sizes-f32");
  CHECK(odd.num_heads == 3);
  CHECK(odd.qk_dim() == 24);
  CHECK(odd.v_dim() == 48);
  CHECK(odd.ffn_dim() == 168);
  CHECK(odd.gate_soft_cap == 7.0);
  CHECK(odd.output_logit_soft_cap == 11.0);
  CHECK(odd.norm_eps == 1e-5);
}

TEST_CASE("missing keys have the published defaults, but the sizes must be there", "[io][config]") {
  CHECK(parse(smallest) == ModelConfig{.vocab_size = 100, .embedding_dim = 64, .num_blocks = 2, .num_heads = 4});
  for (const char* key : {"vocab_size", "embedding_dim", "num_blocks", "num_heads"}) {
    nlohmann::json json = smallest;
    json.erase(key);
    CHECK_THAT(config_error(json), StartsWith("c: " + std::string(key)) && EndsWith("is missing"));
  }
}

TEST_CASE("both names of a size are read and must agree", "[io][config]") {
  CHECK(parse({{"vocab_size", 100}, {"hidden_size", 64}, {"num_hidden_layers", 3}, {"num_heads", 4}}).num_blocks == 3);
  CHECK(parse(with("hidden_size", 64)).embedding_dim == 64);
  CHECK(parse(with("hidden_size", nullptr)).embedding_dim == 64);
  CHECK(config_error(with("hidden_size", 128)) ==
        "c: embedding_dim is 64 and hidden_size is 128, expected the same value");
  CHECK(config_error(with("num_hidden_layers", 3)) ==
        "c: num_blocks is 2 and num_hidden_layers is 3, expected the same value");
}

TEST_CASE("soft caps of null or 0 are none", "[io][config]") {
  CHECK(parse(with("gate_soft_cap", nullptr)).gate_soft_cap == 0);
  CHECK(parse(with("output_logit_soft_cap", 0)).output_logit_soft_cap == 0);
  CHECK(parse(with("output_logit_soft_cap", 12.5)).output_logit_soft_cap == 12.5);
}

TEST_CASE("the own keys choose the cell", "[io][config]") {
  CHECK(parse(with("input_gate", "sigmoid")).input_gate == InputGate::sigmoid);
  CHECK(parse(with("normalizer", "none")).normalizer == Normalizer::none);
  CHECK(parse(with("input_gate", "exponential")).input_gate == InputGate::exponential);
  CHECK(config_error(with("input_gate", "tanh")) ==
        "c: input_gate is \"tanh\", expected \"exponential\" or \"sigmoid\"");
  CHECK_THAT(config_error(with("weight_mode", "shared")), EndsWith("expected \"single\" or \"fused\""));
}

TEST_CASE("there may be several eos tokens, and they are written as they were read", "[io][config]") {
  const TokenIds tokens = parse_checkpoint_config(with("eos_token_id", {7, 9, 8}).dump(), "c").tokens;
  CHECK(tokens.eos == Token{7});
  CHECK(tokens.more_eos == std::vector<Token>{9, 8});
  CHECK(parse_checkpoint_config(to_json(presets::xlstm_100m, DType::f32, tokens), "c").tokens == tokens);
  CHECK(config_error(with("eos_token_id", {7, 100})) ==
        "c: eos_token_id is the number 100, expected an integer from 0 to 99");
}

TEST_CASE("special tokens around a text", "[io][config]") {
  CHECK(TokenIds{}.with_bos({5, 6}) == std::vector<Token>{5, 6});
  CHECK(TokenIds{.bos = 1}.with_bos({5, 6}) == std::vector<Token>{1, 5, 6});
  CHECK(TokenIds{.bos = 1}.with_bos({}) == std::vector<Token>{1});
  CHECK(TokenIds{}.stop_tokens().empty());
  CHECK(TokenIds{.eos = 7, .more_eos = {9, 8}}.stop_tokens() == std::vector<Token>{7, 9, 8});
}

TEST_CASE("special tokens may be missing, null, -1 or a list of one, and lie in the vocabulary", "[io][config]") {
  const auto tokens = [](const nlohmann::json& json) { return parse_checkpoint_config(json.dump(), "c").tokens; };
  CHECK(tokens(smallest) == TokenIds{});
  CHECK(tokens(with("bos_token_id", 0)).bos == Token{0});
  CHECK(tokens(with("eos_token_id", {7})).eos == Token{7});
  CHECK_FALSE(tokens(with("eos_token_id", nullptr)).eos.has_value());
  CHECK_FALSE(tokens(with("pad_token_id", -1)).pad.has_value());
  CHECK(config_error(with("bos_token_id", 100)) ==
        "c: bos_token_id is the number 100, expected an integer from -1 to 99");
  CHECK_THAT(config_error(with("bos_token_id", {1, 2})), Contains("bos_token_id is an array"));
  CHECK_THAT(config_error(with("eos_token_id", nlohmann::json::array())), Contains("eos_token_id is an array"));
}

TEST_CASE("values that make no model are errors that name key, found and expected", "[io][config]") {
  CHECK(config_error(with("vocab_size", 0)) ==
        "c: vocab_size is the number 0, expected an integer from 1 to 2147483647");
  for (const char* key :
       {"vocab_size", "embedding_dim", "num_blocks", "num_heads", "chunk_size", "ffn_round_up_to_multiple_of"}) {
    for (const nlohmann::json& value :
         {nlohmann::json(-1), nlohmann::json(2.5), nlohmann::json("64"), nlohmann::json(true),
          nlohmann::json(std::uint64_t{1} << 31), nlohmann::json(~std::uint64_t{0}), nlohmann::json::array()}) {
      INFO(key << " = " << value);
      CHECK_THAT(config_error(with(key, value)),
                 StartsWith("c: " + std::string(key) + " is ") && EndsWith("expected an integer from 1 to 2147483647"));
    }
  }
  for (const char* key : {"norm_eps", "eps", "qk_dim_factor", "v_dim_factor", "ffn_proj_factor"}) {
    CHECK_THAT(config_error(with(key, 0)), EndsWith("expected a positive number"));
    CHECK_THAT(config_error(with(key, -1.5)), EndsWith("is the number -1.5, expected a positive number"));
    CHECK_THAT(config_error(with(key, "1")), EndsWith("expected a number"));
    CHECK_THAT(config_error(with(key, nullptr)), EndsWith("is null, expected a number"));
  }
  for (const char* key : {"qk_dim_factor", "v_dim_factor", "ffn_proj_factor"}) {
    CHECK_THAT(config_error(with(key, 1e300)), Contains("* embedding_dim to be from 1 to"));
    CHECK_THAT(config_error(with(key, 1e-9)), Contains("* embedding_dim to be from 1 to"));
  }
  for (const char* key : {"use_bias", "add_out_norm", "tie_word_embeddings"}) {
    CHECK(config_error(with(key, 1)) == "c: " + std::string(key) + " is the number 1, expected true or false");
  }
  CHECK_THAT(config_error(with("gate_soft_cap", -1)), EndsWith("expected a positive number, or null for none"));
  CHECK(config_error(with("num_heads", 5)) == "c: num_heads is 5, expected a divisor of qk_dim, which is 32");
  CHECK(config_error(
            {{"vocab_size", 9}, {"embedding_dim", 64}, {"num_blocks", 1}, {"num_heads", 8}, {"v_dim_factor", 0.2}}) ==
        "c: num_heads is 8, expected a divisor of v_dim, which is 12");
  CHECK_THAT(config_error({{"vocab_size", 2147483647},
                           {"embedding_dim", 536870912},
                           {"num_blocks", 2147483647},
                           {"num_heads", 1},
                           {"qk_dim_factor", 1}}),
             EndsWith("more than 2^59 parameters"));
  CHECK(config_error(nlohmann::json::array()) == "c is an array, expected an object");
}

TEST_CASE("the original export's config.yaml is read, with its own defaults", "[io][config]") {
  const std::string yaml =
      "embedding_dim: 64\nnum_heads: 4\nnum_blocks: 2\nvocab_size: 100\nuse_bias: true\nnorm_eps: 1.0e-06\n"
      "gate_soft_cap: 15.0\nmode: train\nweight_mode: single\n";
  const auto config = parse_checkpoint_config_yaml(yaml, "c");
  CHECK(config.model.embedding_dim == 64);
  CHECK(config.model.use_bias);
  CHECK(config.model.ffn_proj_factor == 2.6667);
  CHECK(config.tokens == TokenIds{});
  CHECK(error_of([] { parse_checkpoint_config_yaml("embedding_dim: big\n", "c"); }) == "c: vocab_size is missing");

  const TemporaryDirectory directory;
  write_plainly(directory / "config.yaml", yaml);
  CHECK(load_config(directory.path()) == config.model);
  write_plainly(directory / "config.json", smallest.dump());  // preferred where both are there
  CHECK_FALSE(load_config(directory.path()).use_bias);
}

TEST_CASE("a directory without a configuration is no checkpoint", "[io][config]") {
  const TemporaryDirectory directory;
  CHECK_THAT(error_of([&] { load_config(directory.path()); }), Contains("holds neither config.json nor config.yaml"));
  CHECK_THAT(error_of([&] { load_config(directory / "missing"); }), EndsWith("missing: no such directory"));
  write_plainly(directory / "file", "x");
  CHECK_THAT(error_of([&] { load_config(directory / "file"); }), Contains("is not a directory"));
  write_plainly(directory / "config.json", std::string(io::max_config_bytes + 1, ' '));
  CHECK_THAT(error_of([&] { load_config(directory.path()); }), Contains("expected at most 1048576"));
}

TEST_CASE("what to_json writes, parse_config reads", "[io][config]") {
  for (const auto& preset : presets::all)
    CHECK(parse_config(to_json(preset.config, DType::bf16), "c") == preset.config);
  const ModelConfig unusual = {.vocab_size = 397,
                               .embedding_dim = 96,
                               .num_blocks = 3,
                               .num_heads = 3,
                               .use_bias = true,
                               .norm_eps = 1e-5,
                               .eps = 1e-4,
                               .add_out_norm = false,
                               .qk_dim_factor = 0.25,
                               .v_dim_factor = 0.5,
                               .ffn_proj_factor = 1.7,
                               .ffn_round_up_to_multiple_of = 8,
                               .gate_soft_cap = 0,
                               .output_logit_soft_cap = 11,
                               .tie_word_embeddings = true,
                               .chunk_size = 32,
                               .input_gate = InputGate::sigmoid,
                               .normalizer = Normalizer::none};
  const auto read = parse_checkpoint_config(to_json(unusual, DType::f16, {1, std::nullopt, 3}, WeightMode::fused), "c");
  CHECK(read.model == unusual);
  CHECK(read.tokens == TokenIds{1, std::nullopt, 3});
  CHECK(read.weight_mode == WeightMode::fused);
  CHECK_FALSE(nlohmann::json::parse(to_json(presets::xlstm_7b, DType::f32)).contains("input_gate"));
}

TEST_CASE("differences name each field, and only what changes results", "[io][config]") {
  const ModelConfig compiled = presets::xlstm_100m;
  CHECK(differences(compiled, compiled).empty());
  ModelConfig found = compiled;
  found.chunk_size = 128;
  found.ffn_proj_factor = 2.6667;  // the same width at this size
  REQUIRE(found.ffn_dim() == compiled.ffn_dim());
  CHECK(differences(found, compiled).empty());

  found.embedding_dim = 768;
  found.use_bias = true;
  found.norm_eps = 1e-5;
  found.qk_dim_factor = 0.25;
  found.input_gate = InputGate::sigmoid;
  CHECK(differences(found, compiled) ==
        std::vector<std::string>{"embedding_dim is 768, the program was compiled for 640",
                                 "use_bias is true, the program was compiled for false",
                                 "norm_eps is 1e-05, the program was compiled for 1e-06",
                                 "qk_dim_factor is 0.25, the program was compiled for 0.5",
                                 "ffn_proj_factor is 2.6667, the program was compiled for 2.667",
                                 "input_gate is \"sigmoid\", the program was compiled for \"exponential\""});
}

TEST_CASE("a checkpoint without differences is the same model to dispatch", "[io][config]") {
  const ModelConfig compiled = presets::xlstm_7b;
  std::vector<ModelConfig> found(16, compiled);
  found[1].vocab_size = 50257;
  found[2].embedding_dim = 2048;
  found[3].num_blocks = 31;
  found[4].num_heads = 4;
  found[5].use_bias = true;
  found[6].norm_eps = 1e-5;
  found[7].eps = 1e-5;
  found[8].add_out_norm = false;
  found[9].qk_dim_factor = 0.25;
  found[10].v_dim_factor = 0.5;
  found[11].ffn_proj_factor = 2.6667;
  found[12].ffn_round_up_to_multiple_of = 1;
  found[13].gate_soft_cap = 0;
  found[14].output_logit_soft_cap = 0;
  found[15].tie_word_embeddings = true;
  for (std::size_t i = 0; i < found.size(); ++i) {
    INFO(i);
    CHECK(differences(found[i], compiled).empty() == same_model(found[i], compiled));
    CHECK(differences(found[i], compiled).empty() == (i == 0 || i == 11));
  }
}
