// SPDX-License-Identifier: Apache-2.0
#include "xlstm/text/added_tokens.hpp"

#include <nlohmann/json.hpp>
#include <string>

#include "catch.hpp"

using xlstm::AddedToken;
using xlstm::AddedTokenSearch;

namespace {

// What a text is split into: texts as they are, tokens as [id].
std::string split(const AddedTokenSearch& search, std::string_view text) {
  std::string result;
  search.split(
      text, [&](std::string_view piece) { result.append("(").append(piece).append(")"); },
      [&](xlstm::Token token) { result.append("[" + std::to_string(token) + "]"); });
  return result;
}

AddedTokenSearch search_for(std::initializer_list<AddedToken> tokens) {
  AddedTokenSearch search;
  for (const AddedToken& token : tokens) search.add(token.content, token);
  return search;
}

AddedToken parse(const char* text) {
  const auto json = nlohmann::json::parse(text);
  return AddedToken::parse(xlstm::JsonField(json, "f.json", "added_tokens[0]"));
}

}  // namespace

TEST_CASE("of the tokens that begin leftmost the longest is taken") {
  const auto search = search_for({{1, "ab"}, {2, "abcd"}, {3, "bc"}, {4, "cd"}});
  CHECK(split(search, "abcd") == "[2]");
  CHECK(split(search, "abce") == "[1](ce)");
  CHECK(split(search, "xbcd") == "(x)[3](d)");
  CHECK(split(search, "") == "");
  CHECK(split(AddedTokenSearch(), "abc") == "(abc)");
}

TEST_CASE("lstrip and rstrip take the white space beside a token") {
  CHECK(split(search_for({{.id = 1, .content = "<a>", .lstrip = true}}), "x \u3000\n<a> y") == "(x)[1]( y)");
  CHECK(split(search_for({{.id = 1, .content = "<a>", .rstrip = true}}), "x <a>\t\u2003y") == "(x )[1](y)");
  CHECK(split(search_for({{.id = 1, .content = "<a>", .lstrip = true, .rstrip = true}}), " <a>  <a> ") == "[1][1]");
}

TEST_CASE("a single word has no word character beside it") {
  const auto search = search_for({{.id = 1, .content = "the", .single_word = true}});
  CHECK(split(search, "the then (the) _the the\u0301 the") == "[1]( then ()[1]() _the the\u0301 )[1]");
}

TEST_CASE("of equal strings the first token counts, and the empty one never") {
  CHECK(split(search_for({{1, "a"}, {2, "a"}, {3, ""}}), "ab") == "[1](b)");
}

TEST_CASE("tokens that strip white space over and over take linear time") {
  const auto search =
      search_for({{.id = 1, .content = "  ", .rstrip = true}, {.id = 2, .content = "\t", .lstrip = true}});
  std::size_t count = 0;
  search.split(
      std::string(1 << 20, ' '), [](std::string_view) {}, [&](xlstm::Token) { ++count; });
  CHECK(count == std::size_t{1} << 19);
  count = 0;
  search.split(
      std::string(1 << 20, '\t'), [](std::string_view) {}, [&](xlstm::Token) { ++count; });
  CHECK(count == std::size_t{1} << 20);
}

TEST_CASE("entries are read from JSON") {
  const AddedToken token = parse(R"({"id": 7, "content": "<x>", "single_word": true, "lstrip": false, "rstrip": true,
                                     "normalized": false, "special": true})");
  CHECK((token.id == 7 && token.content == "<x>" && token.single_word && !token.lstrip && token.rstrip &&
         !token.normalized && token.special));
  CHECK(parse(R"({"id": 7, "content": "x"})").normalized);
  CHECK_THROWS_WITH(parse(R"({"id": -1, "content": "x"})"), Contains("added_tokens[0].id is the number -1"));
  CHECK_THROWS_WITH(parse(R"({"content": "x"})"), Contains("added_tokens[0].id is missing"));
  CHECK_THROWS_WITH(parse(R"({"id": 1, "content": ""})"), Contains("1 to 1024 bytes"));
  CHECK_THROWS_WITH(parse(R"({"id": 1, "content": "x", "special": "yes"})"), Contains("true or false"));
}
