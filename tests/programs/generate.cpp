// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "programs/process.hpp"
#include "xlstm/io/printable.hpp"

using programs::check_refused;
using programs::model_directory;
using programs::run;
using programs::words;

namespace {

nlohmann::json expected(const std::string& model) {
  return nlohmann::json::parse(programs::read_file(model_directory(model) + "/expected.json"));
}

bool valid_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = xlstm::io::utf8_length(text, at);
    if (length == 0) return false;
    at += length;
  }
  return true;
}

}  // namespace

TEST_CASE("greedy tokens are the published code's", "[programs]") {
  for (const std::string& model : programs::reference_models) {
    INFO(model);
    const auto reference = expected(model);
    const auto result = run("generate", {"--model", model_directory(model), "--ids", "--prompt",
                                         words(reference["prompt"]), "--max-tokens", "48", "--threads", "1"});
    CHECK(result.status == 0);
    CHECK(result.out == words(reference["greedy"]) + "\n");
    CHECK(programs::one_line(result.err));
    CHECK(result.err.find("tokens/s") != std::string::npos);
  }
}

TEST_CASE("weights in another type are still the same model", "[programs]") {
  const auto reference = expected("sharded-bf16");
  for (const char* type : {"stored", "bf16", "f32"}) {
    const auto result = run("generate", {"--model", model_directory("sharded-bf16"), "--ids", "--prompt",
                                         words(reference["prompt"]), "--max-tokens", "48", "--weights", type});
    CHECK(result.out == words(reference["greedy"]) + "\n");
  }
}

TEST_CASE("text comes as valid UTF-8 and the prompt from any of three places", "[programs]") {
  const std::string model = model_directory("tiny-f32");
  const TemporaryDirectory directory;
  const std::string file = directory / "prompt.txt";
  const std::string prompt = "東京 is the capital";
  programs::write_file(file, prompt);
  const auto given = run("generate", {"--model", model, "--prompt", prompt, "--max-tokens", "200"});
  CHECK(given.status == 0);
  CHECK(given.out.size() > 50);
  CHECK(valid_utf8(given.out));
  CHECK(run("generate", {"--model", model, "--prompt-file", file, "--max-tokens=200"}).out == given.out);
  CHECK(run("generate", {"--model", model, "--max-tokens=200"}, prompt).out == given.out);
}

TEST_CASE("an empty prompt is bos alone; as ids it is refused", "[programs]") {
  const std::string model = model_directory("tiny-f32");
  const auto result = run("generate", {"--model", model, "--prompt", "", "--max-tokens", "8"});
  CHECK(result.status == 0);
  CHECK(result.err.starts_with("prompt: 1 tokens"));
  check_refused(run("generate", {"--model", model, "--ids", "--prompt", ""}), 1, "prompt is empty");
}

TEST_CASE("the same seed writes the same text, another seed another", "[programs]") {
  const auto text = [](const char* seed) {
    return run("generate", {"--model", model_directory("tiny-f32"), "--prompt", "a", "--temperature", "1", "--top-p",
                            "0.9", "--seed", seed, "--max-tokens", "40"})
        .out;
  };
  CHECK(text("1") == text("1"));
  CHECK(text("1") != text("2"));
}

TEST_CASE("a stop text ends the text and is not written", "[programs]") {
  const std::string model = model_directory("tiny-f32");
  const std::string whole = run("generate", {"--model", model, "--prompt", "Hello", "--max-tokens", "40"}).out;
  const std::string stop = whole.substr(whole.find('B'), 3);  // in the middle, over a token's border
  const auto stopped = run(
      "generate", {"--model", model, "--prompt", "Hello", "--max-tokens", "40", "--stop", "absent", "--stop", stop});
  CHECK(stopped.out == whole.substr(0, whole.find(stop)));
  check_refused(run("generate", {"--model", model, "--prompt", "a", "--stop", ""}), 2, "--stop is empty");
}

TEST_CASE("a conversation saved by one process goes on in another", "[programs]") {
  const TemporaryDirectory directory;
  const std::string saved = directory / "session";
  for (const std::string& model : programs::reference_models) {
    const auto reference = expected(model);
    const std::vector<int> greedy = reference["greedy"];
    const std::string path = model_directory(model);
    const auto first = run("generate", {"--model", path, "--ids", "--prompt", words(reference["prompt"]),
                                        "--max-tokens", "20", "--save-session", saved});
    const auto second =
        run("generate", {"--model", path, "--ids", "--prompt", "", "--max-tokens", "28", "--load-session", saved});
    CHECK(first.out == words(std::vector(greedy.begin(), greedy.begin() + 20)) + "\n");
    CHECK(second.out == words(std::vector(greedy.begin() + 20, greedy.end())) + "\n");
  }
}

TEST_CASE("sessions of other models and damaged ones are refused", "[programs]") {
  const TemporaryDirectory directory;
  const std::string saved = directory / "session";
  run("generate",
      {"--model", model_directory("tiny-f32"), "--prompt", "a", "--max-tokens", "0", "--save-session", saved});
  check_refused(run("generate", {"--model", model_directory("sharded-bf16"), "--prompt", "a", "--load-session", saved}),
                1, "another size");
  std::string bytes = programs::read_file(saved);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  programs::write_file(saved, bytes);
  check_refused(run("generate", {"--model", model_directory("tiny-f32"), "--prompt", "a", "--load-session", saved}), 1,
                "damaged");
}

TEST_CASE("prompts and files that cannot be are refused", "[programs]") {
  const std::string model = model_directory("tiny-f32");
  check_refused(run("generate", {"--model", model, "--ids", "--prompt", "1 2 512"}), 1, "\"512\" is not a token");
  check_refused(run("generate", {"--model", model, "--ids", "--prompt", "1 -2"}), 1, "\"-2\" is not a token");
  check_refused(run("generate", {"--model", model, "--prompt-file", "no/such/file"}), 1, "no/such/file");
  check_refused(run("generate", {"--model", model, "--prompt", "a", "--save-session", "no/such/place/file"}), 1,
                "no/such/place/file: cannot be created");
}

TEST_CASE("a checkpoint whose size is not compiled in is told how to be", "[programs]") {
  const TemporaryDirectory directory;
  const std::string config = directory / "sizes.json", other = directory / "other";
  programs::write_file(config, R"({"vocab_size": 64, "embedding_dim": 48, "num_blocks": 1, "num_heads": 2})");
  REQUIRE(run("initialize", {other, "--config", config}).status == 0);
  check_refused(run("generate", {"--model", other, "--ids", "--prompt", "1"}), 1, "-DXLSTM_MODELS=\"" + other + '"');
}
