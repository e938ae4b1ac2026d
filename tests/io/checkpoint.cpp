// SPDX-License-Identifier: Apache-2.0
#include "xlstm/io/checkpoint.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "catch.hpp"
#include "temporary_directory.hpp"
#include "xlstm/io/safetensors_writer.hpp"

using namespace xlstm;
using xlstm::io::SafetensorsType;

namespace {

struct Parameter {
  std::string name;
  std::vector<Index> shape;
};

/// Every parameter of a model under its published name (spec: xLSTM 7B's checkpoint).
std::vector<Parameter> published(const ModelConfig& c) {
  std::vector<Parameter> list;
  const Index d = c.embedding_dim;
  const auto linear = [&](const std::string& name, Index out, Index in, bool bias) {
    list.push_back({name + ".weight", {out, in}});
    if (bias) list.push_back({name + ".bias", {out}});
  };
  const auto norm = [&](const std::string& name, Index size, bool bias) {
    list.push_back({name + ".weight", {size}});
    if (bias) list.push_back({name + ".bias", {size}});
  };
  list.push_back({"backbone.embeddings.weight", {c.vocab_size, d}});
  for (Index n = 0; n < c.num_blocks; ++n) {
    const std::string block = "backbone.blocks." + std::to_string(n) + ".";
    norm(block + "norm_mlstm", d, c.use_bias);
    linear(block + "mlstm_layer.q", c.qk_dim(), d, c.use_bias);
    linear(block + "mlstm_layer.k", c.qk_dim(), d, c.use_bias);
    linear(block + "mlstm_layer.v", c.v_dim(), d, c.use_bias);
    linear(block + "mlstm_layer.ogate_preact", c.v_dim(), d, c.use_bias);
    linear(block + "mlstm_layer.igate_preact", c.num_heads, d, true);
    linear(block + "mlstm_layer.fgate_preact", c.num_heads, d, true);
    norm(block + "mlstm_layer.multihead_norm", c.v_dim(), c.use_bias);
    linear(block + "mlstm_layer.out_proj", d, c.v_dim(), c.use_bias);
    norm(block + "norm_ffn", d, c.use_bias);
    linear(block + "ffn.proj_up_gate", c.ffn_dim(), d, c.use_bias);
    linear(block + "ffn.proj_up", c.ffn_dim(), d, c.use_bias);
    linear(block + "ffn.proj_down", d, c.ffn_dim(), c.use_bias);
  }
  norm("backbone.out_norm", d, false);
  list.push_back({"lm_head.weight", {c.vocab_size, d}});
  return list;
}

constexpr const char* small_config =
    R"({"vocab_size": 6, "embedding_dim": 4, "num_blocks": 1, "num_heads": 2, "ffn_round_up_to_multiple_of": 2})";

/// A file of F32 tensors with the values 0, 1, 2, … running through all of them.
void write_tensors(const std::filesystem::path& path, const std::vector<Parameter>& parameters, float first = 0) {
  std::vector<io::TensorDeclaration> declarations;
  for (const auto& p : parameters) declarations.push_back({p.name, SafetensorsType::f32, p.shape});
  io::SafetensorsWriter writer(path, declarations);
  for (const auto& p : parameters) {
    std::vector<float> values(io::element_count(p.shape, 4).value());
    for (float& value : values) value = first++;
    writer.write_floats(p.name, values);
  }
  writer.finish();
}

std::vector<float> values_of(const TensorRef& ref) {
  std::vector<float> values(io::element_count(ref.shape, 4).value());
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = load_element(ref.dtype, ref.data, static_cast<Index>(i));
  }
  return values;
}

std::string open_error(const std::filesystem::path& directory) {
  return error_of([&] { Checkpoint::open(directory); });
}

}  // namespace

TEST_CASE("every published name of the reference models resolves", "[io][checkpoint]") {
  for (const std::string model : {"tiny-f32", "sharded-bf16", "fused-bias-f16", "odd-sizes-f32"}) {
    INFO(model);
    const auto checkpoint = Checkpoint::open(XLSTM_TEST_DATA "/models/" + model);
    const auto expected =
        nlohmann::json::parse(io::read_text_file(XLSTM_TEST_DATA "/models/" + model + "/expected.json"));
    Index parameters = 0;
    std::vector<std::string> names;
    for (const auto& p : published(checkpoint.config())) {
      const TensorRef ref = checkpoint.tensor(p.name, p.shape);
      CHECK(ref.shape == p.shape);
      CHECK(ref.aligned());
      CHECK(ref.dtype == (model.ends_with("f16") && !model.ends_with("bf16") ? DType::f16
                          : model.ends_with("bf16")                          ? DType::bf16
                                                                             : DType::f32));
      const auto values = values_of(ref);
      CHECK(std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }));
      parameters += static_cast<Index>(values.size());
      names.push_back(p.name);
    }
    CHECK(parameters == expected.at("parameters").get<Index>());
    CHECK(checkpoint.unused(names).empty());
    CHECK(checkpoint.tokens() == TokenIds{0, 2, 1});
  }
}

TEST_CASE("fused tensors are taken apart by rows", "[io][checkpoint]") {
  const TemporaryDirectory directory;
  write_plainly(directory / "config.json", small_config);  // qk_dim 2, v_dim 4, 2 heads, ffn_dim 10
  const std::string block = "backbone.blocks.0.";
  write_tensors(directory / "model.safetensors", {{block + "mlstm_layer.qkv_opreact.weight", {12, 4}},
                                                  {block + "mlstm_layer.ifgate_preact.bias", {4}},
                                                  {block + "ffn.proj_up_gate_z.weight", {20, 4}}});
  const auto checkpoint = Checkpoint::open(directory.path());
  REQUIRE(checkpoint.config().ffn_dim() == 10);
  const auto first = [&](const std::string& name, std::initializer_list<Index> shape) {
    const TensorRef ref = checkpoint.tensor(block + name, shape);
    return values_of(ref).front();
  };
  CHECK(first("mlstm_layer.q.weight", {2, 4}) == 0);
  CHECK(first("mlstm_layer.k.weight", {2, 4}) == 8);
  CHECK(first("mlstm_layer.v.weight", {4, 4}) == 16);
  CHECK(first("mlstm_layer.ogate_preact.weight", {4, 4}) == 32);
  CHECK(first("mlstm_layer.igate_preact.bias", {2}) == 48);
  CHECK(first("mlstm_layer.fgate_preact.bias", {2}) == 50);
  CHECK(first("ffn.proj_up_gate.weight", {10, 4}) == 52);
  CHECK(first("ffn.proj_up.weight", {10, 4}) == 92);
  const TensorRef k = checkpoint.tensor(block + "mlstm_layer.k.weight", {2, 4});
  CHECK(values_of(k) == std::vector<float>{8, 9, 10, 11, 12, 13, 14, 15});
  CHECK(k.name == block + "mlstm_layer.qkv_opreact.weight");

  CHECK_THAT(error_of([&] {
               checkpoint.tensor(block + "mlstm_layer.q.weight", {2, 5});
             }),
             EndsWith("qkv_opreact.weight\" has the shape (12, 4), expected (12, 5)"));
  CHECK_THAT(error_of([&] {
               checkpoint.tensor(block + "mlstm_layer.ogate_preact.weight", {5, 4});
             }),
             Contains("has no 5 rows from row 8 on"));
}

TEST_CASE("the original export: its names, its shards, its config.yaml", "[io][checkpoint]") {
  const TemporaryDirectory directory;
  write_plainly(directory / "config.yaml",
                "vocab_size: 6\nembedding_dim: 4\nnum_blocks: 1\nnum_heads: 2\nffn_round_up_to_multiple_of: 2\n");
  write_tensors(directory / "model_0.safetensors", {{"embedding.weight", {6, 4}}});
  write_tensors(directory / "model_1.safetensors", {{"backbone.out_norm.weight", {4}}});
  write_tensors(directory / "model_2.safetensors", {{"lm_head.weight", {6, 4}}}, 100);
  {
    const auto checkpoint = Checkpoint::open(directory.path());
    CHECK(checkpoint.tensor("backbone.embeddings.weight", {6, 4}).name == "embedding.weight");
    CHECK(values_of(checkpoint.tensor("lm_head.weight", {6, 4})).front() == 100);
    CHECK(checkpoint.tensors().size() == 3);
  }
  write_tensors(directory / "model_3.safetensors", {{"lm_head.weight", {6, 4}}});
  CHECK_THAT(open_error(directory.path()),
             Contains("model_3.safetensors: tensor \"lm_head.weight\" is also in") && EndsWith("model_2.safetensors"));
  std::filesystem::remove(directory / "model_1.safetensors");
  CHECK_THAT(open_error(directory.path()),
             EndsWith("model_1.safetensors is missing, but there is model_2.safetensors"));
}

TEST_CASE("tied embeddings", "[io][checkpoint]") {
  const TemporaryDirectory directory;
  nlohmann::json config = nlohmann::json::parse(small_config);
  write_tensors(directory / "model.safetensors", {{"backbone.embeddings.weight", {6, 4}}});
  write_plainly(directory / "config.json", config.dump());
  CHECK_THAT(error_of([&] {
               Checkpoint::open(directory.path()).tensor("lm_head.weight", {6, 4});
             }),
             EndsWith("tensor \"lm_head.weight\" is missing (looked for \"lm_head.weight\")"));
  config["tie_word_embeddings"] = true;
  write_plainly(directory / "config.json", config.dump());
  const auto checkpoint = Checkpoint::open(directory.path());
  CHECK(checkpoint.tensor("lm_head.weight", {6, 4}).data ==
        checkpoint.tensor("backbone.embeddings.weight", {6, 4}).data);
}

TEST_CASE("a tensor that is missing or of another shape or type is named with what was expected", "[io][checkpoint]") {
  const TemporaryDirectory directory;
  write_plainly(directory / "config.json", small_config);
  {
    io::SafetensorsWriter writer(
        directory / "model.safetensors",
        {{"a", SafetensorsType::f64, {2}}, {"b", SafetensorsType::f32, {2, 3}}, {"c", SafetensorsType::i32, {1}}});
    const std::vector<std::byte> zeros(24);
    writer.write("a", std::span(zeros).first(16));
    writer.write("b", std::span(zeros));
    writer.write("c", std::span(zeros).first(4));
    writer.finish();
  }
  const auto checkpoint = Checkpoint::open(directory.path());
  const std::string file = (directory / "model.safetensors").native();
  CHECK(error_of([&] {
          checkpoint.tensor("b", {3, 2});
        }) == file + ": tensor \"b\" has the shape (2, 3), expected (3, 2)");
  CHECK(error_of([&] { checkpoint.tensor("b", {6}); }) == file + ": tensor \"b\" has the shape (2, 3), expected (6)");
  CHECK(error_of([&] { checkpoint.tensor("a", {2}); }) == file + ": tensor \"a\" is F64, expected F32, F16 or BF16");
  CHECK(error_of([&] { checkpoint.tensor("c", {1}); }) == file + ": tensor \"c\" is I32, expected F32, F16 or BF16");
  CHECK(error_of([&] {
          checkpoint.tensor("backbone.blocks.0.mlstm_layer.q.weight", {2, 4});
        }) == directory.path().native() +
                  ": tensor \"backbone.blocks.0.mlstm_layer.q.weight\" is missing (looked for "
                  "\"backbone.blocks.0.mlstm_layer.q.weight\", \"blocks.0.mlstm_layer.q.weight\", "
                  "\"backbone.blocks.0.mlstm_layer.qkv_opreact.weight\", \"blocks.0.mlstm_layer.qkv_opreact.weight\")");
  const std::vector<std::string> asked = {"b", "nowhere"};
  CHECK(checkpoint.unused(asked) == std::vector<std::string>{"a", "c"});
}

TEST_CASE("the memory lives as long as the storage", "[io][checkpoint]") {
  std::shared_ptr<const io::CheckpointStorage> storage;
  TensorRef ref;
  {
    const auto checkpoint = Checkpoint::open(XLSTM_TEST_DATA "/models/tiny-f32");
    ref = checkpoint.tensor("backbone.out_norm.weight", {64});
    storage = checkpoint.storage();
  }
  CHECK(values_of(ref).size() == 64);
  // Private pages: whoever trains in place does not change the checkpoint.
  const float before = values_of(ref).front();
  const float changed = before + 1;
  std::memcpy(const_cast<std::byte*>(ref.data), &changed, sizeof changed);
  CHECK(values_of(ref).front() == changed);
  const auto again = Checkpoint::open(XLSTM_TEST_DATA "/models/tiny-f32");
  CHECK(values_of(again.tensor("backbone.out_norm.weight", {64})).front() == before);
}

TEST_CASE("an index and its shards must agree", "[io][checkpoint]") {
  const TemporaryDirectory directory;
  write_plainly(directory / "config.json", small_config);
  write_tensors(directory / "one.safetensors", {{"a", {1}}, {"b", {1}}});
  write_tensors(directory / "two.safetensors", {{"c", {1}}});
  const auto with_index = [&](const std::string& text) {
    write_plainly(directory / "model.safetensors.index.json", text);
    return open_error(directory.path());
  };
  const auto with_map = [&](const std::string& text) { return with_index("{\"weight_map\": {" + text + "}}"); };
  const std::string one = R"("a": "one.safetensors", "b": "one.safetensors")";

  CHECK(with_map(one + R"(, "c": "two.safetensors")").empty());
  CHECK(with_map(one).empty());  // other files of the directory are nobody's business
  CHECK_THAT(with_map(one + R"(, "d": "two.safetensors")"),
             Contains("tensor \"d\" is missing in") && Contains("two.safetensors, where the index has it"));
  CHECK_THAT(with_map(R"("a": "one.safetensors")"), Contains("tensor \"b\" of") && Contains("is not in the index"));
  CHECK_THAT(with_map(one + R"(, "e": "missing.safetensors")"), Contains("names \"missing.safetensors\""));
  write_tensors(directory / "three.safetensors", {{"c", {1}}, {"a", {1}}});
  CHECK_THAT(with_map(one + R"(, "c": "three.safetensors")"),
             Contains("tensor \"a\"") && Contains("is also in") || Contains("is not in the index for that file"));

  CHECK_THAT(with_index("{}"), Contains("weight_map is missing"));
  CHECK_THAT(with_index("[]"), Contains("weight_map is missing"));
  CHECK_THAT(with_index("{\"weight_map\": []}"), Contains("weight_map is missing"));
  CHECK_THAT(with_index("{\"weight_map\": {}}"), Contains("weight_map is empty"));
  CHECK_THAT(with_index("{\"weight_map\": {\"a\": 1}}"),
             EndsWith("weight_map \"a\" is the number 1, expected a string"));
  CHECK_THAT(with_index("nonsense"), Contains("not valid JSON"));
  CHECK_THAT(with_map(R"("a": "one.safetensors", "a": "two.safetensors")"), Contains("\"a\" occurs twice"));
}

TEST_CASE("an index cannot name files outside its directory", "[io][checkpoint]") {
  const TemporaryDirectory outside;
  write_tensors(outside / "a.safetensors", {{"a", {1}}});
  const TemporaryDirectory directory;
  write_plainly(directory / "config.json", small_config);
  const auto naming = [&](const std::string& file) {
    write_plainly(directory / "model.safetensors.index.json", nlohmann::json{{"weight_map", {{"a", file}}}}.dump());
    return open_error(directory.path());
  };
  for (const std::string& name :
       {(outside / "a.safetensors").native(), "../" + outside.path().filename().native() + "/a.safetensors",
        std::string("./a.safetensors"), std::string(".."), std::string("."), std::string(""),
        std::string("sub/a.safetensors"), std::string("..\\a.safetensors"), std::string("config.json"),
        std::string("a.safetensors\0.safetensors", 26)}) {
    INFO(name);
    CHECK_THAT(naming(name), EndsWith("expected a file NAME.safetensors of the same directory"));
  }
  std::filesystem::create_symlink(outside / "a.safetensors", directory / "link.safetensors");
  CHECK_THAT(naming("link.safetensors"), EndsWith("a symbolic link that leads out of the directory"));
  std::filesystem::create_directory(directory / "dir.safetensors");
  CHECK_THAT(naming("dir.safetensors"), EndsWith("is a directory, expected a file"));

  write_tensors(directory / "real.safetensors", {{"a", {1}}});
  std::filesystem::create_symlink("real.safetensors", directory / "inside.safetensors");
  CHECK(naming("inside.safetensors").empty());
}

TEST_CASE("the layout of the hub's cache is a checkpoint", "[io][checkpoint]") {
  const TemporaryDirectory cache;
  const auto snapshot = cache / "snapshots/0123abcd";
  std::filesystem::create_directories(snapshot);
  std::filesystem::create_directories(cache / "blobs");
  write_tensors(cache / "blobs/77", {{"a", {1}}});
  write_plainly(cache / "blobs/78", small_config);
  write_plainly(cache / "blobs/79", R"({"weight_map": {"a": "model-00001-of-00001.safetensors"}})");
  std::filesystem::create_symlink("../../blobs/77", snapshot / "model-00001-of-00001.safetensors");
  std::filesystem::create_symlink("../../blobs/78", snapshot / "config.json");
  std::filesystem::create_symlink("../../blobs/79", snapshot / "model.safetensors.index.json");
  CHECK(open_error(snapshot).empty());
}

TEST_CASE("what is no checkpoint says what is missing", "[io][checkpoint]") {
  const TemporaryDirectory directory;
  CHECK(open_error("") == "Checkpoint::open: the name is empty, expected a checkpoint's directory");
  CHECK_THAT(open_error(directory / "missing"), EndsWith("missing: no such directory"));
  CHECK_THAT(open_error(directory.path()), Contains("holds neither config.json nor config.yaml"));
  write_plainly(directory / "config.json", small_config);
  CHECK_THAT(open_error(directory.path()), Contains("holds neither model.safetensors nor"));
  std::filesystem::create_directory(directory / "model.safetensors");
  CHECK_THAT(open_error(directory.path()), EndsWith("model.safetensors: is a directory, expected a file"));
  std::filesystem::remove(directory / "model.safetensors");
  write_plainly(directory / "model.safetensors", "");
  CHECK_THAT(open_error(directory.path()), EndsWith("model.safetensors: is empty"));
  std::filesystem::remove(directory / "model.safetensors");
  REQUIRE(::mkfifo((directory / "model.safetensors").c_str(), 0600) == 0);
  CHECK_THAT(open_error(directory.path()), EndsWith("model.safetensors: is not a regular file"));
}
