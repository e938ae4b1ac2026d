// SPDX-License-Identifier: Apache-2.0
#include "xlstm/text/pre_tokenizer.hpp"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "catch.hpp"

using xlstm::PreTokenizer;

namespace {

using Strings = std::vector<std::string>;

Strings pieces(const PreTokenizer& pre_tokenizer, std::string_view text) {
  PreTokenizer::Workspace workspace(pre_tokenizer);
  Strings result;
  pre_tokenizer.split(text, workspace, [&](std::string_view piece) { result.emplace_back(piece); });
  return result;
}

PreTokenizer parse(const std::string& text) {
  const auto json = nlohmann::json::parse(text);
  return PreTokenizer::parse(xlstm::JsonField(json, "f.json", "pre_tokenizer"));
}

PreTokenizer split_at_dashes(const std::string& behavior, bool invert) {
  return parse(R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"String": "-"}, "behavior": ")" +
               behavior + R"(", "invert": )" + (invert ? "true" : "false") +
               R"(}, {"type": "ByteLevel", "use_regex": false, "add_prefix_space": false}]})");
}

}  // namespace

TEST_CASE("GPT-2's pattern cuts contractions, words, numbers, the rest, blanks") {
  CHECK(pieces(PreTokenizer::gpt2(), "I'll pay 30$,  or\n\n not!") ==
        Strings{"I", "'ll", " pay", " 30", "$,", " ", " or", "\n\n", " not", "!"});
  CHECK(pieces(PreTokenizer::gpt2(), "  ") == Strings{"  "});
  CHECK(pieces(PreTokenizer::gpt2(), "").empty());
}

TEST_CASE("splits keep, drop and join what they match") {
  const std::string text = "a--b-c-";
  CHECK(pieces(split_at_dashes("Removed", false), text) == Strings{"a", "b", "c"});
  CHECK(pieces(split_at_dashes("Isolated", false), text) == Strings{"a", "-", "-", "b", "-", "c", "-"});
  CHECK(pieces(split_at_dashes("MergedWithPrevious", false), text) == Strings{"a-", "-", "b-", "c-"});
  CHECK(pieces(split_at_dashes("MergedWithNext", false), text) == Strings{"a", "-", "-b", "-c", "-"});
  CHECK(pieces(split_at_dashes("Contiguous", false), text) == Strings{"a", "--", "b", "-", "c", "-"});
  CHECK(pieces(split_at_dashes("Removed", true), text) == Strings{"-", "-", "-", "-"});
}

TEST_CASE("a ByteLevel may put a blank before every piece") {
  const auto pre_tokenizer = parse(R"({"type": "ByteLevel", "add_prefix_space": true, "use_regex": true})");
  CHECK(pieces(pre_tokenizer, "a b") == Strings{" a", " b"});
  CHECK(pieces(pre_tokenizer, " a") == Strings{" a"});
  CHECK(pieces(parse(R"({"type": "ByteLevel", "use_regex": false})"), "a b") == Strings{" a b"});
}

TEST_CASE("digits are cut one by one or together") {
  const std::string tail = R"(}, {"type": "ByteLevel", "use_regex": false, "add_prefix_space": false}]})";
  const std::string head = R"({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": )";
  CHECK(pieces(parse(head + "true" + tail), "a12b") == Strings{"a", "1", "2", "b"});
  CHECK(pieces(parse(head + "false" + tail), "a12b") == Strings{"a", "12", "b"});
}

TEST_CASE("a pattern or behaviour that is not supported is an error that names key, found and supported") {
  CHECK_THROWS_WITH(parse(R"({"type": "Whitespace"})"),
                    Contains("pre_tokenizer.type is the string \"Whitespace\"") && Contains("ByteLevel, Split"));
  CHECK_THROWS_WITH(parse(R"({"type": "Sequence", "pretokenizers": []})"), Contains("ends in ByteLevel"));
  CHECK_THROWS_WITH(parse(R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "Digits"}]})"),
                    Contains("nothing after ByteLevel"));
  CHECK_THROWS_WITH(parse(R"({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"})"),
                    Contains("pattern.Regex is not a valid regular expression"));
  CHECK_THROWS_WITH(parse(R"({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Kept"})"),
                    Contains("MergedWithPrevious"));
  CHECK_THROWS_WITH(parse(R"({"type": "Split", "pattern": {}, "behavior": "Isolated"})"),
                    Contains("a Regex or a String"));
  CHECK_THROWS_WITH(parse(R"({"type": "ByteLevel", "use_regex": 1})"),
                    Contains("use_regex") && Contains("true or false"));
}
