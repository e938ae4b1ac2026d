// SPDX-License-Identifier: Apache-2.0
// The alphabet of byte-level BPE (Radford et al. 2019, GPT-2): each byte has a visible character, so that a
// vocabulary of byte strings can be written as text. Printable Latin-1 bytes stand for themselves, the other 68 are
// U+0100, U+0101, … in the order of their values: the blank is "Ġ", the line feed "Ċ".
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "xlstm/text/utf8.hpp"

namespace xlstm {

namespace byte_alphabet {

/// Whether a byte stands for itself.
constexpr bool printable(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

/// The character of each byte.
inline constexpr std::array<char32_t, 256> characters = [] {
  std::array<char32_t, 256> table{};
  char32_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) table[byte] = printable(byte) ? byte : next++;
  return table;
}();

/// The byte of each character below U+0144, −1 for those that stand for none.
inline constexpr std::array<std::int16_t, 0x144> bytes = [] {
  std::array<std::int16_t, 0x144> table{};
  table.fill(-1);
  for (unsigned byte = 0; byte < 256; ++byte) table[characters[byte]] = static_cast<std::int16_t>(byte);
  return table;
}();

/// The text that stands for a string of bytes.
inline std::string spell(std::string_view string) {
  std::string text;
  for (const char c : string) append_utf8(text, characters[static_cast<std::uint8_t>(c)]);
  return text;
}

/// The bytes that a text stands for; nothing if a character of it stands for no byte.
inline std::optional<std::string> read(std::string_view text) {
  std::string string;
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    if (step.kind != Utf8Step::Kind::character || step.code_point >= bytes.size()) return std::nullopt;
    const std::int16_t byte = bytes[step.code_point];
    if (byte < 0) return std::nullopt;
    string.push_back(static_cast<char>(byte));
    text.remove_prefix(step.length);
  }
  return string;
}

}  // namespace byte_alphabet

}  // namespace xlstm
