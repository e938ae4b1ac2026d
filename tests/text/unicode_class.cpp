// SPDX-License-Identifier: Apache-2.0
#include "xlstm/text/unicode_class.hpp"

#include "catch.hpp"

TEST_CASE("white space is Unicode's White_Space, all 25 characters of it") {
  int count = 0;
  for (char32_t c = 0; c < 0x110000; ++c) count += xlstm::is_white_space(c) ? 1 : 0;
  CHECK(count == 25);
  CHECK(xlstm::is_white_space(0x3000));
  CHECK_FALSE(xlstm::is_white_space(0x180E));
  CHECK_FALSE(xlstm::is_white_space(0x200B));
}

TEST_CASE("word characters are letters, marks, decimal digits, connectors, joiners and circled letters") {
  for (const char32_t c : {U'a', U'é', U'東', U'7', U'४', U'_', U'\u203F', U'\u0301', U'\u200D', U'Ⅷ', U'ⓐ'}) {
    CHECK(xlstm::is_word_character(c));
  }
  for (const char32_t c : {U' ', U'-', U'²', U'½', U'$', U'😀', U'\u200B', U'<'})
    CHECK_FALSE(xlstm::is_word_character(c));
}
