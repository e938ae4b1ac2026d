// SPDX-License-Identifier: Apache-2.0
#include "xlstm/text/utf8.hpp"

#include <string>
#include <vector>

#include "catch.hpp"

using xlstm::utf8_step;
using xlstm::Utf8Step;

TEST_CASE("every code point is written and read back") {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    xlstm::append_utf8(text, c);
    const Utf8Step step = utf8_step(text);
    if (step.kind != Utf8Step::Kind::character || step.length != text.size() || step.code_point != c) {
      FAIL("U+" << std::hex << static_cast<unsigned>(c));
    }
  }
}

TEST_CASE("what is not UTF-8 is cut into maximal subparts") {
  struct Case {
    std::string text;
    Utf8Step::Kind kind;
    std::size_t length;
  };
  constexpr auto invalid = Utf8Step::Kind::invalid, incomplete = Utf8Step::Kind::incomplete;
  const std::vector<Case> cases = {
      {"\x80", invalid, 1},              // a continuation alone
      {"\xFF", invalid, 1},              // never a byte of UTF-8
      {"\xC0\x80", invalid, 1},          // overlong
      {"\xE0\x80\x80", invalid, 1},      // overlong
      {"\xED\xA0\x80", invalid, 1},      // a surrogate
      {"\xF4\x90\x80\x80", invalid, 1},  // beyond U+10FFFF
      {"\xE2\x82(", invalid, 2},         // breaks off after two bytes
      {"\xF0\x9F\x98(", invalid, 3},
      {"\xE2", incomplete, 1},
      {"\xE2\x82", incomplete, 2},
      {"\xF0\x9F\x98", incomplete, 3},
  };
  for (const Case& c : cases) {
    const Utf8Step step = utf8_step(c.text);
    CHECK(step.kind == c.kind);
    CHECK(step.length == c.length);
  }
}

TEST_CASE("the valid prefix ends where the first byte is wrong") {
  CHECK(xlstm::valid_utf8_prefix("") == 0);
  CHECK(xlstm::valid_utf8_prefix("caf\xC3\xA9") == 5);
  CHECK(xlstm::valid_utf8_prefix("caf\xC3") == 3);
  CHECK(xlstm::valid_utf8_prefix("a\xFF"
                                 "b") == 1);
}

TEST_CASE("the last character is found from behind") {
  CHECK(xlstm::last_character("a") == 0);
  CHECK(xlstm::last_character("ab") == 1);
  CHECK(xlstm::last_character("a\xF0\x9F\x98\x80") == 1);
}
