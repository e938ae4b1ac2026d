// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>
#include <string>

#include "programs/process.hpp"

using programs::check_refused;
using programs::run;

TEST_CASE("texts become the published ids and come back", "[programs]") {
  const std::string model = programs::model_directory("tiny-f32");
  const auto cases = nlohmann::json::parse(programs::read_file(model + "/tokenizer_cases.json"));
  REQUIRE(cases.size() > 5);
  for (const auto& item : cases) {
    const auto encoded = run("tokenize", {"--model", model}, item["text"].get<std::string>());
    CHECK(encoded.status == 0);
    CHECK(encoded.err.empty());
    CHECK(encoded.out == programs::words(item["ids"]) + "\n");
    CHECK(run("tokenize", {"--model", model, "--decode"}, encoded.out).out == item["decoded"].get<std::string>());
  }
}

TEST_CASE("bytes that are not UTF-8 come back as they were", "[programs]") {
  const std::string model = programs::model_directory("tiny-f32");
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes += static_cast<char>(i);
  const auto encoded = run("tokenize", {"--model", model}, bytes);
  CHECK(run("tokenize", {"--model", model, "--decode"}, encoded.out).out == bytes);
}

TEST_CASE("what is no token is refused", "[programs]") {
  const std::string model = programs::model_directory("tiny-f32");
  check_refused(run("tokenize", {"--model", model, "--decode"}, "1 two"), 1, "\"two\" is not a token");
  check_refused(run("tokenize", {"--model", model, "--decode"}, "1 100000"), 1, "\"100000\"");
  check_refused(run("tokenize", {"--model", model, "--decode"}, "1.5"), 1, "\"1.5\"");
}
