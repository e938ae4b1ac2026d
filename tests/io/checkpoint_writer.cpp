// SPDX-License-Identifier: Apache-2.0
#include "xlstm/io/checkpoint_writer.hpp"

#include "catch.hpp"
#include "temporary_directory.hpp"
#include "xlstm/io/checkpoint.hpp"

using namespace xlstm;
using xlstm::io::SafetensorsType;

namespace {

constexpr ModelConfig config = {.vocab_size = 6, .embedding_dim = 4, .num_blocks = 1, .num_heads = 2};

const std::vector<io::TensorDeclaration> declarations = {{"backbone.embeddings.weight", SafetensorsType::bf16, {6, 4}},
                                                         {"backbone.out_norm.weight", SafetensorsType::bf16, {4}},
                                                         {"empty", SafetensorsType::bf16, {0}},
                                                         {"lm_head.weight", SafetensorsType::bf16, {6, 4}}};
constexpr std::size_t unlimited = default_shard_bytes;

void write_all(CheckpointWriter& writer) {
  float next = 0;
  for (const auto& tensor : declarations) {
    for (std::size_t left = io::element_count(tensor.shape, 2).value(); left > 0;) {
      const std::size_t count = std::min<std::size_t>(left, 5);
      std::vector<float> values(count);
      for (float& value : values) value = next++;
      writer.write_floats(tensor.name, values);
      left -= count;
    }
  }
}

void check_contents(const std::filesystem::path& directory) {
  const auto checkpoint = Checkpoint::open(directory);
  CHECK(checkpoint.config() == config);
  CHECK(checkpoint.tokens() == TokenIds{0, 2, std::nullopt});
  CHECK(checkpoint.tensors().size() == declarations.size());
  const auto embedding = checkpoint.tensor("backbone.embeddings.weight", {6, 4});
  const auto head = checkpoint.tensor("lm_head.weight", {6, 4});
  CHECK(embedding.dtype == DType::bf16);
  CHECK(load_element(embedding.dtype, embedding.data, 23) == 23.0F);
  CHECK(load_element(head.dtype, head.data, 0) == 28.0F);
  CHECK(load_element(head.dtype, head.data, 23) == 51.0F);
}

std::vector<std::string> sorted_names(const std::filesystem::path& directory) {
  auto names = io::list_directory(directory);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

TEST_CASE("a checkpoint of one file", "[io][checkpoint]") {
  const TemporaryDirectory directory;
  CheckpointWriter writer(directory / "new/model", config, DType::bf16, declarations, {0, 2, std::nullopt});
  write_all(writer);
  CHECK_FALSE(std::filesystem::exists(directory / "new/model/config.json"));
  writer.finish();
  CHECK(sorted_names(directory / "new/model") == std::vector<std::string>{"config.json", "model.safetensors"});
  check_contents(directory / "new/model");
}

TEST_CASE("a checkpoint over the limit is put into shards", "[io][checkpoint]") {
  const auto shards = [](std::size_t limit) {
    const TemporaryDirectory directory;
    {
      CheckpointWriter writer(directory.path(), config, DType::bf16, declarations, {0, 2, std::nullopt},
                              WeightMode::single, limit);
      write_all(writer);
      writer.finish();
    }
    check_contents(directory.path());
    return sorted_names(directory.path());
  };
  const std::vector<std::string> one = {"config.json", "model.safetensors"};
  CHECK(shards(104) == one);
  CHECK(shards(103) == std::vector<std::string>{"config.json", "model-00001-of-00002.safetensors",
                                                "model-00002-of-00002.safetensors", "model.safetensors.index.json"});
  CHECK(shards(56).size() == 4);
  CHECK(shards(55).size() == 5);
  CHECK(shards(1).size() == 5);  // three that are larger than the limit; the empty one fits anywhere
  CHECK(shards(0).size() == 5);
}

TEST_CASE("a directory that is not written to its end is no checkpoint and can be told", "[io][checkpoint]") {
  const TemporaryDirectory directory;
  CheckpointWriter writer(directory.path(), config, DType::bf16, declarations, {}, WeightMode::single, 60);
  write_all(writer);
  // As if the process had been killed here: both shards are in place.
  CHECK_THAT(error_of([&] { Checkpoint::open(directory.path()); }), EndsWith("was not written to its end"));
  // A second attempt must not mix its files with these.
  CHECK_THAT(error_of([&] { CheckpointWriter again(directory.path(), config, DType::bf16, declarations); }),
             Contains("already holds model-0000") && EndsWith("remove it or name another directory"));
}

TEST_CASE("without finish nothing is left", "[io][checkpoint]") {
  const TemporaryDirectory directory;
  {
    CheckpointWriter writer(directory / "a" / "b" / "model", config, DType::bf16, declarations, {}, WeightMode::single,
                            60);
    write_all(writer);
    write_plainly(directory / "a" / "somebody's", "");
  }
  CHECK(sorted_names(directory.path()) == std::vector<std::string>{"a"});
  CHECK(sorted_names(directory / "a") == std::vector<std::string>{"somebody's"});
  std::filesystem::remove_all(directory / "a");
  write_plainly(directory / "tokenizer.json", "{}");
  CHECK_THAT(error_of([&] {
               CheckpointWriter writer(directory.path(), config, DType::bf16, declarations);
               writer.write_floats("backbone.embeddings.weight", std::vector<float>(24));
               writer.finish();
             }),
             EndsWith("8 bytes of tensor \"backbone.out_norm.weight\" are missing"));
  CHECK(sorted_names(directory.path()) == std::vector<std::string>{"tokenizer.json"});
}

TEST_CASE("a full disk leaves nothing behind", "[io][checkpoint]") {
  const TemporaryDirectory directory;
  const Index rows = 1 << 16;
  const std::string message = error_of([&] {
    const FileSizeLimit limit(1 << 20);
    const std::vector<float> values(static_cast<std::size_t>(rows));
    CheckpointWriter writer(directory / "model", config, DType::f32,
                            {{"small", SafetensorsType::f32, {rows}}, {"large", SafetensorsType::f32, {8 * rows}}}, {},
                            WeightMode::single, 1 << 18);
    writer.write_floats("small", values);
    REQUIRE(std::filesystem::exists(directory / "model/model-00001-of-00002.safetensors"));
    for (int i = 0; i < 8; ++i) writer.write_floats("large", values);
  });
  CHECK(message ==
        (directory / "model/model-00002-of-00002.safetensors").native() + ": cannot be written: File too large");
  CHECK(count_files(directory.path()) == 0);
}

TEST_CASE("what a writer cannot take is refused before anything is written", "[io][checkpoint]") {
  const TemporaryDirectory directory;
  const auto attempt = [&](const std::filesystem::path& path, const ModelConfig& c,
                           std::vector<io::TensorDeclaration> tensors) {
    return error_of([&] { CheckpointWriter writer(path, c, DType::bf16, std::move(tensors)); });
  };
  const auto path = directory / "model";
  CHECK_THAT(attempt(path, config, {{"a", SafetensorsType::f32, {1}}, {"a", SafetensorsType::f32, {1}}}),
             EndsWith("tensor \"a\" is declared twice"));
  CHECK_THAT(attempt(path, config, {{"a", SafetensorsType::f32, {-1}}}), Contains("too large or negative"));
  CHECK_THAT(attempt(path, ModelConfig{}, declarations), Contains("vocab_size is the number 0"));
  CHECK_THAT(attempt(path, config, {{"a", SafetensorsType::u8, {1}}, {"b", SafetensorsType::f32, {1}}}),
             Contains("misaligned"));
  CHECK(count_files(directory.path()) == 0);

  write_plainly(directory / "file", "x");
  CHECK_THAT(attempt(directory / "file", config, declarations), EndsWith("file: is not a directory"));
  CHECK_FALSE(attempt(directory / "file/model", config, declarations).empty());
  for (const char* name : {"config.json", "config.yaml", "model.safetensors", "model_0.safetensors",
                           "model.safetensors.index.json", "model-00001-of-00002.safetensors"}) {
    const TemporaryDirectory used;
    write_plainly(used / name, "old");
    CHECK_THAT(attempt(used.path(), config, declarations), Contains("already holds " + std::string(name)));
    CHECK(read_plainly(used / name) == "old");
    CHECK(count_files(used.path()) == 1);
  }
}

TEST_CASE("data in the wrong order or too much of it is an error", "[io][checkpoint]") {
  const TemporaryDirectory directory;
  CheckpointWriter writer(directory / "model", config, DType::bf16, declarations);
  CHECK_THAT(error_of([&] { writer.write_floats("lm_head.weight", std::vector<float>(24)); }),
             Contains("data for tensor \"lm_head.weight\", expected 48 more bytes of tensor"));
  write_all(writer);
  CHECK_THAT(error_of([&] { writer.write_floats("lm_head.weight", std::vector<float>(1)); }),
             EndsWith("data for tensor \"lm_head.weight\" after the last tensor"));
  writer.finish();
  CHECK(std::filesystem::exists(directory / "model/config.json"));
}

TEST_CASE("a checkpoint without tensors is possible", "[io][checkpoint]") {
  const TemporaryDirectory directory;
  CheckpointWriter writer(directory / "model", config, DType::bf16, {}, {}, WeightMode::fused, unlimited);
  writer.finish();
  const auto checkpoint = Checkpoint::open(directory / "model");
  CHECK(checkpoint.tensors().empty());
  CHECK(checkpoint.weight_mode() == WeightMode::fused);
}
