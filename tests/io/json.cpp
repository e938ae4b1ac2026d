// SPDX-License-Identifier: Apache-2.0
#include "xlstm/io/json.hpp"

#include <string>

#include "catch.hpp"
#include "temporary_directory.hpp"

using namespace xlstm::io;

namespace {
std::string json_error(std::string_view text) {
  return error_of([&] { parse_json(text, "a.json"); });
}
}  // namespace

TEST_CASE("parse_json builds the document", "[io][json]") {
  const auto json = parse_json(R"( {"a": [1, -2, 2.5, true, null, "x", {"b": []}], "c": {}} )", "a.json");
  CHECK(json == nlohmann::json::parse(R"({"a":[1,-2,2.5,true,null,"x",{"b":[]}],"c":{}})"));
  CHECK(parse_json("3", "a.json") == 3);
  CHECK(parse_json("[[1],[2],[[3]]]", "a.json").dump() == "[[1],[2],[[3]]]");
  CHECK(parse_json(R"({"a":1,"b":{"a":1}})", "a.json")["b"]["a"] == 1);
}

TEST_CASE("parse_json says where a document is wrong", "[io][json]") {
  for (const char* text : {"", "{", "[1,", "{\"a\":}", "{\"a\" 1}", "[1] x", "nul", "1e999", "{a: 1}", "[1,]"}) {
    INFO(text);
    CHECK_THAT(json_error(text), StartsWith("a.json: not valid JSON (byte "));
  }
  CHECK_THAT(json_error("{\n  \"a\": x\n}"), Contains("line 2, column 8"));
  CHECK_THAT(json_error(std::string_view("[\0]", 3)), StartsWith("a.json: not valid JSON"));
}

TEST_CASE("parse_json refuses bytes that are not UTF-8", "[io][json]") {
  for (const char* text : {"\"\xff\"", "\"\xc3\"", "\"\xed\xa0\x80\"", "{\"\xc1\xbf\": 1}", "\xff"}) {
    CHECK_THAT(json_error(text), StartsWith("a.json: not valid JSON"));
  }
}

TEST_CASE("parse_json refuses a key that occurs twice in an object", "[io][json]") {
  CHECK(json_error(R"({"a": 1, "b": 2, "a": 1})") == "a.json: key \"a\" occurs twice in one object");
  CHECK_THAT(json_error(R"([{"x": {"b\n": [], "b\n": 2}}])"), Contains("\"b\\x0a\" occurs twice"));
}

TEST_CASE("parse_json bounds the nesting", "[io][json]") {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  CHECK(json_error(nested(max_json_depth)).empty());
  CHECK_THAT(json_error(nested(max_json_depth + 1)), Contains("nested deeper than 64"));
  CHECK_THAT(json_error(std::string(100000, '[')), Contains("nested deeper than 64"));
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  CHECK_THAT(json_error(objects), Contains("nested deeper than 64"));
}

TEST_CASE("parse_json bounds the number of values", "[io][json]") {
  std::string many = "[0";
  for (std::size_t i = 0; i < max_json_values; ++i) many += ",0";
  CHECK(json_error(many + "]") == "a.json: JSON of more than 8388608 values");
}

TEST_CASE("typed values name where they stand, what was found and what was expected", "[io][json]") {
  const auto json = parse_json(R"({"i": 3, "n": -1, "f": 2.5, "s": "x", "b": true, "big": 18446744073709551615})", "a");
  CHECK(json_integer(json["i"], "a: i", 0, 10) == 3);
  CHECK(json_number(json["f"], "a: f") == 2.5);
  CHECK(json_number(json["i"], "a: i") == 3.0);
  CHECK(json_boolean(json["b"], "a: b"));
  CHECK(json_string(json["s"], "a: s") == "x");
  CHECK(find_key(json, "i") == &json["i"]);
  CHECK(find_key(json, "missing") == nullptr);

  CHECK(error_of([&] { json_integer(json["n"], "a: n", 0, 10); }) ==
        "a: n is the number -1, expected an integer from 0 to 10");
  CHECK_THAT(error_of([&] { json_integer(json["f"], "a: f", 0, 10); }), Contains("the number 2.5"));
  CHECK_THAT(error_of([&] { json_integer(json["i"], "a: i", 0, 2); }), Contains("from 0 to 2"));
  CHECK_THAT(error_of([&] { json_integer(json["big"], "a: big", -5, PTRDIFF_MAX); }), Contains("18446744073709551615"));
  CHECK(error_of([&] { json_number(json["s"], "a: s"); }) == "a: s is the string \"x\", expected a number");
  CHECK(error_of([&] { json_boolean(json["i"], "a: i"); }) == "a: i is the number 3, expected true or false");
  CHECK(error_of([&] { json_string(json, "a"); }) == "a is an object, expected a string");
}
