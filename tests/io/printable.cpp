// SPDX-License-Identifier: Apache-2.0
#include "xlstm/io/printable.hpp"

#include "catch.hpp"

using xlstm::io::printable;
using xlstm::io::utf8_length;

TEST_CASE("printable keeps text and escapes what would break a line", "[io][printable]") {
  CHECK(printable("backbone.blocks.0") == "backbone.blocks.0");
  CHECK(printable("gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80") == "gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80");
  CHECK(printable("a\nb\tc\x7f") == "a\\x0ab\\x09c\\x7f");
  CHECK(printable(std::string_view("\0\x1b[31m", 6)) == "\\x00\\x1b[31m");
  CHECK(printable("\xff\xc3") == "\\xff\\xc3");
  CHECK(printable("") == "");
  CHECK(printable(std::string(1000, 'x')) == std::string(200, 'x') + "...");
}

TEST_CASE("utf8_length accepts exactly RFC 3629", "[io][printable]") {
  CHECK(utf8_length("a", 0) == 1);
  CHECK(utf8_length("\xc2\x80", 0) == 2);
  CHECK(utf8_length("\xe0\xa0\x80", 0) == 3);
  CHECK(utf8_length("\xed\x9f\xbf", 0) == 3);
  CHECK(utf8_length("\xf4\x8f\xbf\xbf", 0) == 4);
  CHECK(utf8_length("", 0) == 0);
  CHECK(utf8_length("\x80", 0) == 0);
  CHECK(utf8_length("\xc1\xbf", 0) == 0);          // overlong
  CHECK(utf8_length("\xe0\x9f\xbf", 0) == 0);      // overlong
  CHECK(utf8_length("\xed\xa0\x80", 0) == 0);      // a surrogate
  CHECK(utf8_length("\xf0\x8f\xbf\xbf", 0) == 0);  // overlong
  CHECK(utf8_length("\xf4\x90\x80\x80", 0) == 0);  // beyond U+10FFFF
  CHECK(utf8_length("\xf5\x80\x80\x80", 0) == 0);
  CHECK(utf8_length("\xe2\x82", 0) == 0);  // cut off
}
