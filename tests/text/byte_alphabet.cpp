// SPDX-License-Identifier: Apache-2.0
#include "xlstm/text/byte_alphabet.hpp"

#include <set>
#include <string>

#include "catch.hpp"

namespace byte_alphabet = xlstm::byte_alphabet;

TEST_CASE("printable bytes stand for themselves, the others for what follows U+00FF") {
  CHECK(byte_alphabet::characters['a'] == U'a');
  CHECK(byte_alphabet::characters[' '] == U'Ġ');
  CHECK(byte_alphabet::characters['\n'] == U'Ċ');
  CHECK(byte_alphabet::characters[0] == 0x100);
  CHECK(byte_alphabet::characters[0xAD] == 0x143);
  CHECK(std::set<char32_t>(byte_alphabet::characters.begin(), byte_alphabet::characters.end()).size() == 256);
}

TEST_CASE("every string of bytes is spelled and read back") {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  CHECK(byte_alphabet::read(byte_alphabet::spell(all)) == all);
  CHECK(byte_alphabet::spell(" the") == "Ġthe");
  CHECK(byte_alphabet::read("") == "");
}

TEST_CASE("a text with a character outside the alphabet stands for no bytes") {
  CHECK_FALSE(byte_alphabet::read("a b"));
  CHECK_FALSE(byte_alphabet::read("\u0144"));
  CHECK_FALSE(byte_alphabet::read("\u00AD"));
  CHECK_FALSE(byte_alphabet::read("東"));
  CHECK_FALSE(byte_alphabet::read("\xFF"));
}
