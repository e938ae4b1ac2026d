// SPDX-License-Identifier: Apache-2.0
// Names from files (tensors, keys, paths) end up in one-line error messages, whatever bytes they hold.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace xlstm::io {

/// Length of the valid UTF-8 sequence (RFC 3629) that starts at text[at], or 0 where there is none.
constexpr std::size_t utf8_length(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0U; };
  const auto tail = [&](std::size_t i) { return (byte(i) & 0xc0U) == 0x80U; };
  const unsigned first = byte(0);
  if (at >= text.size()) return 0;
  if (first < 0x80U) return 1;
  if (first >= 0xc2U && first <= 0xdfU) return tail(1) ? 2 : 0;
  if (first >= 0xe0U && first <= 0xefU) {
    const bool overlong = first == 0xe0U && byte(1) < 0xa0U;
    const bool surrogate = first == 0xedU && byte(1) >= 0xa0U;
    return tail(1) && tail(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (first >= 0xf0U && first <= 0xf4U) {
    const bool overlong = first == 0xf0U && byte(1) < 0x90U;
    const bool beyond = first == 0xf4U && byte(1) >= 0x90U;
    return tail(1) && tail(2) && tail(3) && !overlong && !beyond ? 4 : 0;
  }
  return 0;
}

/// `text` fit for one line of a message: control characters and what is not UTF-8 as \xNN, cut after `longest` bytes.
inline std::string printable(std::string_view text, std::size_t longest = 200) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string line;
  std::size_t at = 0;
  while (at < text.size()) {
    if (line.size() >= longest) return line + "...";
    const auto first = static_cast<unsigned char>(text[at]);
    const std::size_t length = first < 0x20U || first == 0x7fU ? 0 : utf8_length(text, at);
    if (length == 0) {
      line += "\\x";
      line += digits[first >> 4];
      line += digits[first & 15U];
    }
    line += text.substr(at, length);
    at += length == 0 ? 1 : length;
  }
  return line;
}

}  // namespace xlstm::io
