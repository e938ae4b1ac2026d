// SPDX-License-Identifier: Apache-2.0
// Flags, exit statuses and streams, which all programs share (examples/command_line.hpp).
#include <string>
#include <vector>

#include "programs/process.hpp"

using programs::check_refused;
using programs::run;

TEST_CASE("--help says what a program does, on standard output", "[programs]") {
  for (const char* name : {"generate", "evaluate", "tokenize", "inspect", "initialize", "custom_variant"}) {
    const auto result = run(name, {"--model", "nowhere", "--help"});
    CHECK(result.status == 0);
    CHECK(result.err.empty());
    CHECK(result.out.starts_with("usage: " + std::string(name)));
    CHECK(result.out.find("--help") != std::string::npos);
  }
}

TEST_CASE("wrong usage is status 2 and one line with the usage", "[programs]") {
  const std::string model = programs::model_directory("tiny-f32");
  check_refused(run("generate", {}), 2, "--model is missing");
  check_refused(run("generate", {"--model", model, "--nonsense"}), 2, "unknown flag --nonsense");
  check_refused(run("generate", {"--model", model, "-n"}), 2, "unknown flag -n");
  check_refused(run("generate", {"--model"}), 2, "--model needs a value");
  check_refused(run("generate", {"--model", "--ids"}), 2, "--model needs a value");
  check_refused(run("generate", {"--model", model, "--model", model}), 2, "given twice");
  check_refused(run("generate", {"--model", model, "--ids=yes"}), 2, "takes no value");
  check_refused(run("generate", {"--model", model, "more"}), 2, "unexpected argument");
  check_refused(run("generate", {"--model", model, "--max-tokens", "ten"}), 2, "expected an integer from 0 on");
  check_refused(run("generate", {"--model", model, "--max-tokens", "9999999999999999999"}), 2, "--max-tokens");
  check_refused(run("generate", {"--model", model, "--temperature", "-1"}), 2, "--temperature");
  check_refused(run("generate", {"--model", model, "--temperature", "inf"}), 2, "--temperature");
  check_refused(run("generate", {"--model", model, "--top-p", "1.5"}), 2, "expected a number from 0 to 1");
  check_refused(run("generate", {"--model", model, "--top-p", "0"}), 2, "--top-p is 0, expected a number above 0");
  check_refused(run("generate", {"--model", model, "--repetition-penalty", "0"}), 2, "--repetition-penalty");
  check_refused(run("generate", {"--model", model, "--seed", "-1"}), 2, "expected an integer from 0 on");
  check_refused(run("generate", {"--model", model, "--threads", "0"}), 2, "--threads");
  check_refused(run("generate", {"--model", model, "--weights", "f8"}), 2, "expected one of");
  check_refused(run("generate", {"--model", model, "--device", "tpu"}), 2, "expected cpu, cuda or cuda:N");
  check_refused(run("generate", {"--model", model, "--device", "cuda:"}), 2, "expected cpu, cuda or cuda:N");
  check_refused(run("generate", {"--model", model, "--device", "cuda:-1"}), 2, "expected cpu, cuda or cuda:N");
  check_refused(run("train", {"--out", "nowhere", "--device", "tpu"}), 2, "expected cpu, cuda or cuda:N");
  check_refused(run("generate", {"--model", model, "--prompt", "a", "--prompt-file", "b"}), 2, "exclude each other");
  check_refused(run("generate", {"--model", model, "--ids", "--stop", "a"}), 2, "--stop");
  check_refused(run("evaluate", {"--model", model}), 2, "--text or --ids is missing");
  check_refused(run("evaluate", {"--model", model, "--text", "a", "--ids", "b"}), 2, "exclude each other");
  check_refused(run("evaluate", {"--model", model, "--ids", "b", "--path", "sideways"}), 2, "--path");
  check_refused(run("evaluate", {"--model", model, "--ids", "b", "--chunk-size", "0"}), 2, "--chunk-size");
  check_refused(run("inspect", {}), 2, "DIR is missing");
  check_refused(run("inspect", {"a", "b"}), 2, "unexpected argument");
  check_refused(run("initialize", {"a"}), 2, "--preset or --config is missing");
  check_refused(run("initialize", {"a", "--preset", "8B"}), 2, "expected one of 100M");
}

TEST_CASE("what is wrong outside is status 1 and one line", "[programs]") {
  for (const char* name : {"generate", "evaluate", "tokenize"}) {
    std::vector<std::string> arguments = {"--model", "no/such/place"};
    if (std::string(name) == "evaluate") arguments.insert(arguments.end(), {"--ids", "no/such/file"});
    check_refused(run(name, arguments), 1, "no/such/place");
  }
  check_refused(run("inspect", {"no/such/place"}), 1, "no/such/place");
  check_refused(run("initialize", {"x", "--config", "no/such/file"}), 1, "no/such/file");
}

TEST_CASE("standard output that cannot be written is an error", "[programs]") {
  const auto result = run("generate", {"--help"}, "", "/dev/full");
  CHECK(result.status == 1);
  CHECK(programs::one_line(result.err));
  CHECK(result.err.find("standard output") != std::string::npos);
}

TEST_CASE("a device that a program or machine has not is an error", "[programs]") {
  const std::string model = std::string(XLSTM_TEST_DATA) + "/models/tiny-f32";
  check_refused(run("generate", {"--model", model, "--prompt", "a", "--device", "cuda:999"}), 1, "cuda");
  check_refused(run("generate", {"--model", model, "--prompt", "a", "--device", "cuda:999", "--weights", "int8"}), 1,
                "cuda");
}
