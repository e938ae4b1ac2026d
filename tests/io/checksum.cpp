// SPDX-License-Identifier: Apache-2.0
#include "xlstm/io/checksum.hpp"

#include <string_view>

#include "catch.hpp"

namespace {
std::span<const std::byte> bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
}  // namespace

TEST_CASE("CRC-64/XZ has its published check value") {
  xlstm::io::Checksum sum;
  sum.update(bytes("123456789"));
  CHECK(sum.value() == 0x995dc9bbdf1939faU);
}

TEST_CASE("pieces give the same checksum as the whole") {
  const std::string_view text = "constant memory, sessions that save and branch, no Python, clear errors";
  xlstm::io::Checksum whole;
  whole.update(bytes(text));
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    xlstm::io::Checksum pieces;
    pieces.update(bytes(text.substr(0, cut)));
    pieces.update(bytes(text.substr(cut)));
    CHECK(pieces.value() == whole.value());
  }
}
