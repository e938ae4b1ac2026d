// SPDX-License-Identifier: Apache-2.0
// quantize, and --weights int8 and int4 of the other programs.
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/reference_models.hpp"
#include "programs/process.hpp"

using programs::check_refused;
using programs::run;
namespace fs = std::filesystem;

namespace {

nlohmann::json evaluate(const std::string& model, const std::string& ids, const std::string& weights) {
  const auto result = run("evaluate", {"--model", model, "--ids", ids, "--weights", weights, "--json"});
  INFO(result.err);
  REQUIRE(result.status == 0);
  return nlohmann::json::parse(result.out)["mean_nll"];
}

std::string write_ids(const std::string& path, const reference_models::Expected& expected) {
  programs::write_file(path, programs::words(expected.ids));
  return path;
}

}  // namespace

TEST_CASE("a quantised checkpoint predicts as the original does with --weights", "[programs]") {
  const TemporaryDirectory directory;
  for (const std::string& model : programs::reference_models) {
    const reference_models::Expected expected(model);
    const std::string ids = write_ids(directory / "ids", expected);
    const double exact = evaluate(expected.directory, ids, "f32");
    for (const std::string& format : std::vector<std::string>{"int8", "int4"}) {
      const std::string out = directory / (model + format);
      const auto result = run("quantize", {"--model", expected.directory, "--out", out, "--weights", format});
      INFO(model << ' ' << format << ' ' << result.err);
      REQUIRE(result.status == 0);
      CHECK(result.out.empty());
      CHECK(programs::read_file(fs::path(out) / "tokenizer.json") ==
            programs::read_file(fs::path(expected.directory) / "tokenizer.json"));
      const double stored = evaluate(out, ids, "stored");
      CHECK(stored == evaluate(out, ids, format));
      CHECK(stored == evaluate(expected.directory, ids, format));
      // These models' weights are random, and so is what they predict: trained ones lose far less.
      CHECK(std::abs(stored - exact) <= (format == "int8" ? 0.05 : 0.5));
      CHECK(stored != exact);
    }
  }
}

TEST_CASE("generate writes the same from a quantised checkpoint as from weights quantised at load", "[programs]") {
  const TemporaryDirectory directory;
  const std::string model = programs::model_directory("tiny-f32"), out = directory / "out";
  REQUIRE(run("quantize", {"--model", model, "--out", out, "--weights", "int4", "--threads", "1"}).status == 0);
  const std::vector<std::string> more = {"--ids", "--prompt", "3 1 4 1 5", "--max-tokens", "20", "--weights"};
  const auto generate = [&](const std::string& from, const std::string& weights) {
    std::vector<std::string> arguments = {"--model", from};
    arguments.insert(arguments.end(), more.begin(), more.end());
    arguments.push_back(weights);
    const auto result = run("generate", arguments);
    INFO(result.err);
    REQUIRE(result.status == 0);
    return result.out;
  };
  CHECK(generate(out, "stored") == generate(model, "int4"));
}

TEST_CASE("inspect says what is quantised, and finds what is damaged", "[programs]") {
  const TemporaryDirectory directory;
  const std::string model = programs::model_directory("odd-sizes-f32"), out = directory / "out";
  REQUIRE(run("quantize", {"--model", model, "--out", out, "--weights", "int8"}).status == 0);
  const auto result = run("inspect", {out, "--json"});
  REQUIRE(result.status == 0);
  const auto json = nlohmann::json::parse(result.out),
             plain = nlohmann::json::parse(run("inspect", {model, "--json"}).out);
  CHECK(json["quantization"] == nlohmann::json{{"format", "int8"}, {"group_size", 128}});
  CHECK(plain["quantization"].is_null());
  CHECK(json["parameters"] == plain["parameters"]);
  CHECK(json["unknown_tensors"].empty());
  CHECK(json["tensors_by_type"]["int8"] == 2 * 8 + 1);
  CHECK(json["weight_bytes"].get<long>() < plain["weight_bytes"].get<long>() / 2);

  std::string config = programs::read_file(fs::path(out) / "config.json");
  config.replace(config.find("\"int8\""), 6, "\"int4\"");
  programs::write_file(fs::path(out) / "config.json", config);
  const auto damaged = run("inspect", {out, "--json"});
  CHECK(damaged.status == 1);
  CHECK(damaged.err.find("16 are missing or wrong") != std::string::npos);
}

TEST_CASE("quantize and --weights refuse what they cannot do and leave nothing behind", "[programs]") {
  const TemporaryDirectory directory;
  const std::string model = programs::model_directory("tiny-f32"), out = directory / "out";
  check_refused(run("quantize", {"--model", model, "--out", out}), 2, "--weights");
  check_refused(run("quantize", {"--model", model, "--weights", "int8"}), 2, "--out");
  check_refused(run("quantize", {"--model", model, "--out", out, "--weights", "int3"}), 2,
                "expected one of int8, int4");
  check_refused(run("quantize", {"--model", directory / "no", "--out", out, "--weights", "int8"}), 1,
                "no such directory");
  check_refused(run("quantize", {"--model", model, "--out", model, "--weights", "int8"}), 1, "already holds");
  CHECK(!fs::exists(out));
  REQUIRE(run("quantize", {"--model", model, "--out", out, "--weights", "int8"}).status == 0);
  check_refused(run("quantize", {"--model", out, "--out", directory / "again", "--weights", "int4"}), 1,
                "is quantised (int8 in groups of 128)");
  CHECK(!fs::exists(directory / "again"));
  for (const std::string& weights : std::vector<std::string>{"f32", "bf16", "int4"}) {
    check_refused(run("generate", {"--model", out, "--prompt", "a", "--weights", weights}), 1,
                  "quantised to int8, expected --weights stored or int8");
  }
}
