// SPDX-License-Identifier: Apache-2.0
// inspect and initialize.
#include <nlohmann/json.hpp>
#include <string>

#include "model/reference_models.hpp"
#include "programs/process.hpp"
#include "xlstm/io/checkpoint.hpp"
#include "xlstm/io/load.hpp"
#include "xlstm/model/published_tensors.hpp"

using programs::check_refused;
using programs::run;

using xlstm::Index;

namespace {

constexpr const char* sizes = R"({"vocab_size": 512, "embedding_dim": 64, "num_blocks": 2, "num_heads": 4})";

}  // namespace

TEST_CASE("inspect counts what the published code counts", "[programs]") {
  for (const std::string& model : programs::reference_models) {
    const reference_models::Expected expected(model);
    const auto result = run("inspect", {expected.directory, "--json"});
    REQUIRE(result.status == 0);
    const auto json = nlohmann::json::parse(result.out);
    CHECK(json["parameters"] == expected.json["parameters"]);
    CHECK(json["missing_or_wrong"].empty());
    CHECK(json["unknown_tensors"].empty());
    CHECK(json["weight_bytes"].get<long>() == json["parameters"].get<long>() * (model.ends_with("f32") ? 4 : 2));
    CHECK(run("inspect", {expected.directory}).out.find("parameters " + json["parameters"].dump()) !=
          std::string::npos);
  }
}

TEST_CASE("inspect finds what is missing, misshapen or unknown", "[programs]") {
  const TemporaryDirectory directory;
  const std::string config = directory / "sizes.json", model = directory / "model";
  programs::write_file(config, sizes);
  REQUIRE(run("initialize", {model, "--config", config}).status == 0);
  std::string text = programs::read_file(model + "/config.json");
  for (const char* key : {"\"num_blocks\": 2", "\"num_hidden_layers\": 2"}) {
    text.replace(text.find(key), std::string(key).size(),
                 std::string(key).replace(std::string(key).size() - 1, 1, "3"));
  }
  programs::write_file(model + "/config.json", text);
  const auto missing = run("inspect", {model, "--json"});
  CHECK(missing.status == 1);
  CHECK(programs::one_line(missing.err));
  const auto json = nlohmann::json::parse(missing.out);
  CHECK(json["missing_or_wrong"].size() == 15);  // the tensors of a block
  for (const char* key : {"\"num_blocks\": 3", "\"num_hidden_layers\": 3"}) {
    text.replace(text.find(key), std::string(key).size(),
                 std::string(key).replace(std::string(key).size() - 1, 1, "1"));
  }
  programs::write_file(model + "/config.json", text);
  const auto unknown = run("inspect", {model, "--json"});
  CHECK(unknown.status == 0);
  CHECK(nlohmann::json::parse(unknown.out)["unknown_tensors"].size() == 15);
}

TEST_CASE("initialize writes the weights with which training starts", "[programs]") {
  using Network = xlstm::Network<reference_models::tiny_f32>;
  const TemporaryDirectory directory;
  const std::string config = directory / "sizes.json";
  programs::write_file(config, sizes);
  const auto check = [&]<class W>(const std::string& dtype) {
    using B = xlstm::cpu::Backend<W>;
    const std::string model = directory / dtype;
    REQUIRE(run("initialize", {model, "--config", config, "--dtype", dtype, "--seed", "7", "--threads", "3"}).status ==
            0);
    auto written = xlstm::load_weights<Network, B>(xlstm::Checkpoint::open(model));
    auto made = xlstm::allocate_weights<Network, B>();
    xlstm::initialize(made, 7);
    std::vector<double> values;
    const auto collect = [&](std::string_view, auto& handle, xlstm::Initialization) {
      for (Index i = 0; i < handle.count; ++i) values.push_back(static_cast<double>(float{handle.data()[i]}));
    };
    xlstm::for_each_parameter<Network>(written.parameters, collect);
    const std::vector<double> found = std::exchange(values, {});
    xlstm::for_each_parameter<Network>(made.parameters, collect);
    REQUIRE(found.size() == values.size());
    // Vectors are made in fp32 and written in the checkpoint's type.
    const double rounding = dtype == "f32" ? 0 : dtype == "bf16" ? 0x1p-8 : 0x1p-11;
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (std::abs(found[i] - values[i]) > rounding * std::abs(values[i]))
        FAIL(i << ": " << found[i] << " " << values[i]);
    }
  };
  check.template operator()<float>("f32");
  check.template operator()<xlstm::bf16>("bf16");
  check.template operator()<xlstm::f16>("f16");
}

TEST_CASE("initialize leaves what is there alone", "[programs]") {
  const TemporaryDirectory directory;
  const std::string config = directory / "config.json";
  programs::write_file(config, sizes);
  check_refused(run("initialize", {directory.path().string(), "--config", config}), 1, "already holds config.json");
  CHECK(programs::read_file(config) == sizes);
  CHECK_FALSE(std::filesystem::exists(directory / "model.safetensors"));
  const std::string wrong = directory / "wrong.json", model = directory / "model";
  programs::write_file(wrong, R"({"vocab_size": 0, "embedding_dim": 64, "num_blocks": 2, "num_heads": 4})");
  check_refused(run("initialize", {model, "--config", wrong}), 1, "vocab_size");
  CHECK_FALSE(std::filesystem::exists(model));
}
