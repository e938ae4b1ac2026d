// SPDX-License-Identifier: Apache-2.0
// Quantised checkpoints: io/quantize_checkpoint.hpp, and what io/checkpoint.hpp and io/load.hpp make of them.
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "catch.hpp"
#include "io/temporary_directory.hpp"
#include "model/reference_models.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/io/load.hpp"
#include "xlstm/io/quantize_checkpoint.hpp"
#include "xlstm/io/safetensors_writer.hpp"
#include "xlstm/model/architecture.hpp"

using namespace xlstm;
namespace fs = std::filesystem;

namespace {

using Odd = Network<reference_models::odd_sizes_f32>;
using Biased = Network<reference_models::fused_bias_f16>;

std::string model(const std::string& name) { return std::string(XLSTM_TEST_DATA) + "/models/" + name; }

template <QuantizedFormat F>
void quantize(const std::string& from, const fs::path& to) {
  cpu::ThreadPool threads(2);
  quantize_checkpoint<F>(Checkpoint::open(from), to, threads);
}

template <class A, class B>
void check_same(const A& a, const B& b) {
  std::vector<std::string> bytes_of_a;
  const auto collect = [](auto& list) {
    return [&list](std::string_view, const auto& handle, Initialization) {
      for_each_array(handle, [&](const void* memory, Index size) {
        list.emplace_back(static_cast<const char*>(memory), static_cast<std::size_t>(size));
      });
    };
  };
  std::vector<std::string> in_a, in_b;
  for_each_parameter<typename A::NetworkType>(a.weights.parameters, collect(in_a));
  for_each_parameter<typename B::NetworkType>(b.weights.parameters, collect(in_b));
  CHECK(in_a.size() > 20);
  CHECK((in_a == in_b));  // not to be printed
}

template <class Network_, class F>
struct Loaded {
  using NetworkType = Network_;
  Weights<Network_, cpu::Backend<F>> weights;
  explicit Loaded(const fs::path& directory, int threads = 0)
      : weights(load_weights<Network_, cpu::Backend<F>>(Checkpoint::open(directory), threads)) {}
};

/// Rewrites a checkpoint's tensors after `change` has had them.
struct Tensor {
  io::SafetensorsType type;
  std::vector<Index> shape;
  std::string bytes;
};
void rewrite(const fs::path& directory, auto&& change) {
  std::map<std::string, Tensor> tensors;
  {
    const io::SafetensorsFile file(directory / "model.safetensors");
    for (const auto& [name, t] : file.tensors()) {
      tensors[name] = {t.type, t.shape, {reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size()}};
    }
  }
  change(tensors);
  std::vector<io::TensorDeclaration> declarations;
  std::vector<const Tensor*> order;
  for (const std::size_t size : {4U, 2U, 1U}) {
    for (const auto& [name, t] : tensors) {
      if (io::size_of(t.type) != size) continue;
      declarations.push_back({name, t.type, t.shape});
      order.push_back(&t);
    }
  }
  io::SafetensorsWriter writer(directory / "model.safetensors", declarations);
  for (std::size_t i = 0; i < order.size(); ++i) {
    writer.write(declarations[i].name, std::as_bytes(std::span(order[i]->bytes.data(), order[i]->bytes.size())));
  }
  writer.finish();
}

const std::string codes_name = "backbone.blocks.0.ffn.proj_up.weight";
const std::string scales_name = codes_name + ".scale";

}  // namespace

TEMPLATE_TEST_CASE("A quantised checkpoint holds what quantising at load makes, and is used where it lies",
                   "[quantized]", int8, int4, Int8<32>, Int4<64>) {
  const TemporaryDirectory directory;
  quantize<TestType>(model("odd-sizes-f32"), directory / "odd");
  quantize<TestType>(model("fused-bias-f16"), directory / "fused");
  quantize<TestType>(model("sharded-bf16"), directory / "sharded");
  const Loaded<Odd, TestType> stored(directory / "odd");
  CHECK(stored.weights.memory.bytes() == 0);
  check_same(stored, Loaded<Odd, TestType>(model("odd-sizes-f32"), 1));
  check_same(Loaded<Biased, TestType>(directory / "fused"), Loaded<Biased, TestType>(model("fused-bias-f16"), 3));
  const Checkpoint checkpoint = Checkpoint::open(directory / "odd");
  CHECK(checkpoint.quantization() == quantization_of<TestType>);
  CHECK(checkpoint.config() == Checkpoint::open(model("odd-sizes-f32")).config());
  CHECK(checkpoint.tokens() == Checkpoint::open(model("odd-sizes-f32")).tokens());
  std::vector<std::string> names;
  for (const PublishedTensor& tensor : published_tensors(checkpoint.config())) names.push_back(tensor.name);
  CHECK(checkpoint.unused(names).empty());
  CHECK(checkpoint.is_quantized("lm_head.weight"));
  CHECK(!checkpoint.is_quantized("backbone.embeddings.weight"));
  CHECK(!checkpoint.is_quantized("backbone.blocks.0.mlstm_layer.igate_preact.weight"));
}

TEST_CASE("The file's layout is the documented one", "[quantized]") {
  const TemporaryDirectory directory;
  quantize<int8>(model("odd-sizes-f32"), directory / "int8");
  quantize<int4>(model("odd-sizes-f32"), directory / "int4");
  const auto json = nlohmann::json::parse(std::ifstream(fs::path(directory / "int4") / "config.json"));
  CHECK(json["quantization"] == nlohmann::json{{"format", "int4"}, {"group_size", int4::group_size}});
  const io::SafetensorsFile eight(fs::path(directory / "int8") / "model.safetensors");
  const io::SafetensorsFile four(fs::path(directory / "int4") / "model.safetensors");
  const io::SafetensorsFile plain(model("odd-sizes-f32") + "/model.safetensors");
  const std::vector<float> w = plain.read<float>(codes_name);
  const Index in = reference_models::odd_sizes_f32.embedding_dim, out = reference_models::odd_sizes_f32.ffn_dim();
  REQUIRE(in == 96);
  CHECK(eight.at(codes_name).shape == std::vector<Index>{out, 96});
  CHECK(eight.at(codes_name).type == io::SafetensorsType::i8);
  CHECK(four.at(codes_name).shape == std::vector<Index>{out, 48});
  CHECK(four.at(codes_name).type == io::SafetensorsType::u8);
  CHECK(four.at("lm_head.weight").type == io::SafetensorsType::i8);
  CHECK(four.at("lm_head.weight.scale").shape ==
        std::vector<Index>{reference_models::odd_sizes_f32.vocab_size, int4::Head::groups(96)});
  CHECK(eight.at(scales_name).shape == std::vector<Index>{out, int8::groups(96)});
  const auto q8 = eight.read<int>(codes_name);
  const auto s8 = eight.read<float>(scales_name);
  const auto q4 = four.read<int>(codes_name);
  const auto s4 = four.read<float>(scales_name);
  for (Index o = 0; o < out; ++o) {
    for (Index i = 0; i < in; ++i) {
      const float scale8 = s8[static_cast<std::size_t>(o * int8::groups(in) + i / int8::group_size)];
      const float scale4 = s4[static_cast<std::size_t>(o * int4::groups(in) + i / int4::group_size)];
      const auto byte = static_cast<unsigned>(q4[static_cast<std::size_t>(o * 48 + i / 32 * 16 + i % 16)]);
      const int code4 = static_cast<int>(i % 32 < 16 ? byte % 16 : byte / 16) - 8;
      const float value = w[static_cast<std::size_t>(o * in + i)];
      const auto code8 = static_cast<float>(q8[static_cast<std::size_t>(o * in + i)]);
      CHECK(std::abs(code8 * scale8 - value) <= 0.501F * std::abs(scale8));
      CHECK(std::abs(static_cast<float>(code4) * scale4 - value) <= 2.3F * std::abs(scale4));
    }
  }
}

TEST_CASE("What a format cannot hold, and what is quantised already, is refused and leaves nothing", "[quantized]") {
  const TemporaryDirectory directory;
  fs::copy(model("tiny-f32"), directory / "plain");
  quantize<int8>(directory / "plain", directory / "int8");
  CHECK(error_of([&] { quantize<int8>(directory / "plain", directory / "int8"); }).find("already holds") !=
        std::string::npos);
  const std::string twice = error_of([&] { quantize<int4>(directory / "int8", directory / "twice"); });
  CHECK(twice.find("is quantised (int8 in groups of ") != std::string::npos);
  CHECK(!fs::exists(directory / "twice"));
  rewrite(directory / "plain", [](auto& tensors) {
    const float nan = std::nanf("");
    std::memcpy(tensors.at(codes_name).bytes.data() + 64 * 4 * 3 + 8, &nan, sizeof nan);
  });
  const std::string wrong = error_of([&] { quantize<int4>(directory / "plain", directory / "wrong"); });
  CHECK(wrong.find("\"" + codes_name + "\" cannot be quantised: row 3 ") != std::string::npos);
  CHECK(!fs::exists(directory / "wrong"));
  using Tiny = Network<reference_models::tiny_f32>;
  const std::string at_load = error_of([&] { Loaded<Tiny, int8>(directory / "plain"); });
  CHECK(at_load.find("\"" + codes_name + "\" cannot be quantised: row 3 ") != std::string::npos);
}

TEST_CASE("Damaged quantised checkpoints are refused with file and tensor", "[quantized]") {
  const TemporaryDirectory directory;
  quantize<int8>(model("tiny-f32"), directory / "good");
  using Tiny = Network<reference_models::tiny_f32>;
  int number = 0;
  const auto refusal = [&](auto&& change) {
    const fs::path copy = directory / ("copy" + std::to_string(++number));
    fs::copy(directory / "good", copy);
    rewrite(copy, change);
    return error_of([&] { Loaded<Tiny, int8>{copy}; });
  };
  const auto says = [](const std::string& message, const std::string& part) {
    INFO(message);
    CHECK(message.find(part) != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
  };
  CHECK(refusal([](auto&) {}).empty());
  says(refusal([](auto& t) { t.erase(scales_name); }), "\"" + scales_name + "\" is missing, expected for int8");
  says(refusal([](auto& t) { t.erase(codes_name); }), "\"" + codes_name + "\" is missing");
  says(refusal([](auto& t) { std::swap(t.at(codes_name).shape[0], t.at(codes_name).shape[1]); }),
       "\"" + codes_name + "\" is I8 (64, 192), expected I8 (192, 64)");
  says(refusal([](auto& t) {
         t.at(scales_name).shape = {1, 192};
       }),
       "\"" + scales_name + "\" is BF16 (1, 192), expected BF16 (192, 1)");
  says(refusal([](auto& t) { t.at(scales_name).type = io::SafetensorsType::f16; }),
       "\"" + scales_name + "\" is F16 (192, 1), expected BF16 (192, 1)");
  says(refusal([](auto& t) { t.at(codes_name).type = io::SafetensorsType::u8; }),
       "\"" + codes_name + "\" is U8 (192, 64), expected I8 (192, 64)");
  for (const std::uint16_t bits :
       {std::uint16_t{0x7fc0}, std::uint16_t{0x7f80}, std::uint16_t{0xff80}}) {  // NaN and both infinities
    says(refusal([&](auto& t) { std::memcpy(t.at(scales_name).bytes.data() + 2 * 7, &bits, 2); }),
         "model.safetensors: tensor \"" + scales_name + "\" holds ");
  }
  says(error_of([&] { Loaded<Tiny, int4>(directory / "good"); }), "expected int4 in groups of 32, F32, F16 or BF16");
  says(error_of([&] { Loaded<Tiny, Int8<256>>(directory / "good"); }), "expected int8 in groups of 256");
  says(error_of([&] { Loaded<Tiny, bf16>(directory / "good"); }), "is quantised (int8 in groups of 128)");
  says(error_of([&] { Loaded<Tiny, bf16>(directory / "good"); }), "load these weights as int8");
}

TEST_CASE("The key \"quantization\" is checked", "[quantized]") {
  const auto config = [](const std::string& value) {
    return R"({"vocab_size": 8, "embedding_dim": 8, "num_blocks": 1, "num_heads": 1, "quantization": )" + value + "}";
  };
  const auto read = [&](const std::string& value) {
    return parse_checkpoint_config(config(value), "config.json").quantization;
  };
  CHECK(read(R"({"format": "int4", "group_size": 64})") == Quantization{4, 64});
  CHECK(!read("null"));
  const auto refused = [&](const std::string& value) { return error_of([&] { read(value); }); };
  CHECK(refused("3").find("config.json: quantization is ") == 0);
  CHECK(refused(R"({"group_size": 64})") == "config.json: quantization: format is missing");
  CHECK(refused(R"({"format": "int3", "group_size": 64})").find("expected \"int8\" or \"int4\"") != std::string::npos);
  CHECK(refused(R"({"format": "int8"})") == "config.json: quantization: group_size is missing");
  CHECK(refused(R"({"format": "int8", "group_size": 33})").find("expected 32, 64, 128 or 256") != std::string::npos);
}
