// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/reference_models.hpp"
#include "programs/process.hpp"
#include "xlstm/io/safetensors.hpp"

using programs::check_refused;
using programs::run;
using reference_models::Expected;
using xlstm::Index;

namespace {

// The reference's two sequences, a line each.
std::string ids_of(const Expected& expected) {
  const auto middle = expected.ids.begin() + expected.length;
  return programs::words(std::vector(expected.ids.begin(), middle)) + "\r\n" +
         programs::words(std::vector(middle, expected.ids.end()));
}

}  // namespace

TEST_CASE("every path gives the published code's likelihoods and logits", "[programs]") {
  const TemporaryDirectory directory;
  const std::string ids = directory / "ids", logits = directory / "logits.safetensors";
  const std::vector<std::vector<std::string>> paths = {
      {}, {"--chunk-size", "1"}, {"--chunk-size", "100"}, {"--path", "recurrent"}, {"--path", "parallel"}};
  for (const std::string& model : programs::reference_models) {
    const Expected expected(model);
    programs::write_file(ids, ids_of(expected));
    for (const auto& path : paths) {
      std::vector<std::string> arguments = {"--model", expected.directory, "--ids", ids, "--logits", logits, "--json"};
      arguments.insert(arguments.end(), path.begin(), path.end());
      const auto result = run("evaluate", arguments);
      INFO(model << ' ' << programs::words(path) << ' ' << result.err);
      REQUIRE(result.status == 0);
      const auto json = nlohmann::json::parse(result.out);
      REQUIRE(json["sequences"].size() == 2);
      const auto& reference = expected.tensors["logits"];
      const xlstm::io::SafetensorsFile file{std::filesystem::path(logits)};
      double gap = 0, sum = 0;
      for (std::size_t k = 0; k < 2; ++k) {
        CHECK(json["sequences"][k]["tokens"] == expected.length);
        CHECK(json["sequences"][k]["mean_nll"].get<double>() ==
              Approx(expected.json["mean_nll"][k].get<double>()).margin(1e-4));
        sum += expected.json["mean_nll"][k].get<double>();
        const auto found = file.read<float>("logits." + std::to_string(k));
        REQUIRE(found.size() * 2 == reference.size());
        for (std::size_t i = 0; i < found.size(); ++i) {
          REQUIRE(std::isfinite(found[i]));  // std::max would pass over a NaN
          gap = std::max(gap, std::abs(static_cast<double>(found[i]) - reference[k * found.size() + i]));
        }
      }
      CHECK(gap < expected.logit_tolerance());
      CHECK(json["mean_nll"].get<double>() == Approx(sum / 2).margin(1e-4));
      CHECK(json["perplexity"].get<double>() == Approx(std::exp(json["mean_nll"].get<double>())));
      CHECK(json["tokens_per_second"].get<double>() > 0);
    }
  }
}

TEST_CASE("rounded activations predict nearly the same; weights that are not bf16 refuse them", "[programs]") {
  const TemporaryDirectory directory;
  const std::string ids = directory / "ids";
  const Expected expected("sharded-bf16");
  programs::write_file(ids, ids_of(expected));
  const auto evaluate = [&](const std::string& weights, const std::string& activations) {
    return run("evaluate", {"--model", expected.directory, "--ids", ids, "--weights", weights, "--activations",
                            activations, "--json"});
  };
  const auto mean_nll = [&](const std::string& activations) {
    const auto result = evaluate("stored", activations);
    REQUIRE(result.status == 0);
    return nlohmann::json::parse(result.out)["mean_nll"].get<double>();
  };
  const double exact = mean_nll("float"), rounded = mean_nll("bf16");
  CHECK(rounded != exact);
  CHECK(std::abs(rounded - exact) < 0.05);  // of about 18, with random weights; a trained model lost 0.00001 of 2.1
  check_refused(evaluate("f32", "bf16"), 1, "expected weights in bf16 on the CPU");
  check_refused(evaluate("stored", "int8"), 2, "expected one of float, bf16");
}

TEST_CASE("a text is scored after bos", "[programs]") {
  const TemporaryDirectory directory;
  const std::string text = directory / "text";
  for (const std::string& model : programs::reference_models) {
    const Expected expected(model);
    programs::write_file(text, expected.json["text"].get<std::string>());
    const auto result = run("evaluate", {"--model", expected.directory, "--text", text, "--json"});
    REQUIRE(result.status == 0);
    CHECK(nlohmann::json::parse(result.out)["mean_nll"].get<double>() ==
          Approx(expected.json["text_mean_nll_after_bos"].get<double>()).margin(1e-4));
  }
}

TEST_CASE("a text longer than a slice gives the same however it is cut", "[programs]") {
  const TemporaryDirectory directory;
  const std::string ids = directory / "ids";
  std::string line;
  for (int i = 0; i < 5000; ++i) line += std::to_string(i * 7919 % 512) + ' ';
  programs::write_file(ids, line);
  const auto mean = [&](std::vector<std::string> path) {
    path.insert(path.end(), {"--model", programs::model_directory("tiny-f32"), "--ids", ids, "--json"});
    return nlohmann::json::parse(run("evaluate", path).out)["mean_nll"].get<double>();
  };
  const double recurrent = mean({"--path", "recurrent"});
  CHECK(mean({}) == Approx(recurrent).margin(1e-4));
  CHECK(mean({"--chunk-size", "1000"}) == Approx(recurrent).margin(1e-4));
  CHECK(mean({"--path", "parallel"}) == Approx(recurrent).margin(1e-4));
}

TEST_CASE("lines that predict nothing are sequences without a mean", "[programs]") {
  const TemporaryDirectory directory;
  const std::string ids = directory / "ids", logits = directory / "logits";
  programs::write_file(ids, "5\n\n1 2 3\n");
  const auto result =
      run("evaluate", {"--model", programs::model_directory("tiny-f32"), "--ids", ids, "--json", "--logits", logits});
  REQUIRE(result.status == 0);
  const auto json = nlohmann::json::parse(result.out);
  REQUIRE(json["sequences"].size() == 3);
  CHECK(json["sequences"][0] == nlohmann::json({{"tokens", 1}, {"mean_nll", nullptr}}));
  CHECK(json["sequences"][1] == nlohmann::json({{"tokens", 0}, {"mean_nll", nullptr}}));
  CHECK(json["mean_nll"] == json["sequences"][2]["mean_nll"]);
  const xlstm::io::SafetensorsFile file{std::filesystem::path(logits)};
  CHECK(file.at("logits.0").shape == std::vector<Index>{1, 512});
  CHECK(file.at("logits.1").shape == std::vector<Index>{0, 512});
  CHECK(file.at("logits.2").shape == std::vector<Index>{3, 512});
}

TEST_CASE("ids that cannot be are named with their line, and no file is left", "[programs]") {
  const TemporaryDirectory directory;
  const std::string ids = directory / "ids", logits = directory / "logits";
  const auto refused = [&](const std::string& text, const std::string& reason) {
    programs::write_file(ids, text);
    check_refused(run("evaluate", {"--model", programs::model_directory("tiny-f32"), "--ids", ids, "--logits", logits}),
                  1, reason);
    CHECK_FALSE(std::filesystem::exists(logits));
  };
  refused("1 2\n3 512 4\n", "line 2: \"512\" is not a token, expected 0 to 511");
  refused("1 2\n3\n\n4 -1\n", "line 4: \"-1\"");
  refused("1 2x\n", "line 1: \"2x\"");
  refused("1 99999999999999999999\n", "line 1: \"99999999999999999999\"");
}
