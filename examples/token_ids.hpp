// SPDX-License-Identifier: Apache-2.0
// Token ids as text: decimal numbers with blanks between them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "command_line.hpp"
#include "xlstm/core/error.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/io/printable.hpp"

/// The ids in `text`, each in [0, vocab_size); blanks, tabs and line ends are between them. `where` begins the message
/// of an Error, which names the first word that is no such id.
inline std::vector<xlstm::Token> parse_ids(std::string_view text, xlstm::Index vocab_size, std::string_view where) {
  constexpr std::string_view blanks = " \t\r\n\v\f";
  std::vector<xlstm::Token> ids;
  while (true) {
    const std::size_t begin = text.find_first_not_of(blanks);
    if (begin == text.npos) return ids;
    text.remove_prefix(begin);
    const std::string_view word = text.substr(0, text.find_first_of(blanks));
    const auto id = command_line::parse_number<xlstm::Token>(word);
    if (!id || *id < 0 || *id >= vocab_size) {
      xlstm::fail(where, ": \"", xlstm::io::printable(word, 60), "\" is not a token, expected 0 to ", vocab_size - 1);
    }
    ids.push_back(*id);
    text.remove_prefix(word.size());
  }
}
