// SPDX-License-Identifier: Apache-2.0
#include "xlstm/io/flat_yaml.hpp"

#include "catch.hpp"
#include "temporary_directory.hpp"

using namespace xlstm::io;

TEST_CASE("flat YAML reads as the object that it describes", "[io][yaml]") {
  const auto object = parse_flat_yaml(
      "---\n"
      "# written by hand\n"
      "vocab_size: 50304\r\n"
      "norm_eps: 1.0e-06   # small\n"
      "negative:   -2\n"
      "use_bias: false\n"
      "add_out_norm: True\n"
      "mode: train_with_padding\n"
      "chunkwise_kernel: chunkwise--triton_limit_chunk\n"
      "quoted: 'a # b'  # comment\n"
      "double: \"12\"\n"
      "nothing:\n"
      "tilde: ~\n"
      "null_too: null\n"
      "commented: # nothing\n"
      "\n"
      "...",
      "c.yaml");
  CHECK(object == nlohmann::json::parse(R"({"vocab_size": 50304, "norm_eps": 1e-6, "negative": -2, "use_bias": false,
      "add_out_norm": true, "mode": "train_with_padding", "chunkwise_kernel": "chunkwise--triton_limit_chunk",
      "quoted": "a # b", "double": "12", "nothing": null, "tilde": null, "null_too": null, "commented": null})"));
  CHECK(parse_flat_yaml("", "c.yaml") == nlohmann::json::object());
}

TEST_CASE("YAML beyond flat key: value is refused with its line", "[io][yaml]") {
  for (const char* line :
       {"  nested: 1", "- item",    "key",          "key:value", "a b: 1",        ": 1",           "\"quoted\": 1",
        "a: [1, 2]",   "a: {b: 1}", "a: &anchor 1", "a: *alias", "a: !!str 1",    "a: |",          "a: >",
        "a: - 1",      "a: b: c",   "a: b:",        "a: 'open",  "a: \"esc\\n\"", "a: 'x' y",      "a: 'x'y",
        "a: 0x10",     "a: 010",    "a: 1_000",     "a: .inf",   "a: +1",         "a: 2024-01-01", "a: 1e999",
        "a: @x",       "a: %x",     "? a",          "a: \x01",   "a: \xff"}) {
    INFO(line);
    CHECK_THAT(error_of([&] { parse_flat_yaml("ok: 1\n" + std::string(line) + "\nz: 1\n", "c.yaml"); }),
               StartsWith("c.yaml: line 2"));
  }
  CHECK(error_of([] { parse_flat_yaml("a: 1\na: 2\n", "c.yaml"); }) == "c.yaml: line 2: key \"a\" occurs twice");
}
