// SPDX-License-Identifier: Apache-2.0
// UTF-8 one step at a time (Unicode Standard, table 3-7): what is valid, what is not, and what may become valid with
// more bytes. What is not is cut into maximal subparts (Unicode Standard, section 3.9), as Python's decoder and
// WHATWG's do, so that a replacement character stands for the same bytes everywhere.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace xlstm {

/// The outcome of reading the front of a text.
struct Utf8Step {
  enum class Kind { character, invalid, incomplete };
  Kind kind;
  std::size_t length;   ///< bytes of the character, of the invalid subpart, or of what is there of an incomplete one
  char32_t code_point;  ///< of a character; U+FFFD otherwise
};

/// Reads the front of `text`, which is not empty.
constexpr Utf8Step utf8_step(std::string_view text) {
  constexpr char32_t replacement = 0xFFFD;
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t lead = byte(0);
  if (lead < 0x80) return {Utf8Step::Kind::character, 1, lead};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Step::Kind::invalid, 1, replacement};
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF.
  std::uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  std::uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  char32_t code_point = lead & (0xFFU >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {Utf8Step::Kind::incomplete, i, replacement};
    if (byte(i) < low || byte(i) > high) return {Utf8Step::Kind::invalid, i, replacement};
    code_point = code_point << 6 | (byte(i) & 0x3FU);
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Step::Kind::character, length, code_point};
}

/// The length of the longest prefix of `text` that is valid UTF-8.
constexpr std::size_t valid_utf8_prefix(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const Utf8Step step = utf8_step(text.substr(at));
    if (step.kind != Utf8Step::Kind::character) break;
    at += step.length;
  }
  return at;
}

/// Appends one code point, which is not a surrogate.
inline void append_utf8(std::string& text, char32_t c) {
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

/// Where the last character of a valid, non-empty text begins.
constexpr std::size_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<std::uint8_t>(text[at]) & 0xC0U) == 0x80U) --at;
  return at;
}

}  // namespace xlstm
