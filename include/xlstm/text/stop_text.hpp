// SPDX-License-Identifier: Apache-2.0
// Ends a stream of text where one of several stop texts occurs, which may arrive in parts (Knuth, Morris, Pratt 1977).
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "xlstm/core/error.hpp"

namespace xlstm {

/// Passes on a text that arrives in pieces up to the first stop text in it. Where stop texts overlap, the one that is
/// complete first ends the stream, and of those complete at the same place the one that began first; so the outcome
/// does not depend on how the text was cut into pieces.
class StopTexts {
 public:
  /// Error for an empty stop text, which would end every stream before it begins.
  explicit StopTexts(std::vector<std::string> texts) {
    for (std::string& text : texts) {
      if (text.empty()) fail("a stop text is empty, expected at least one character");
      patterns_.push_back(Pattern(std::move(text)));
    }
  }

  /// Takes the next piece; returns what can no longer be part of a stop text. After a stop it returns nothing.
  std::string push(std::string_view piece) {
    if (stopped_) return {};
    for (std::size_t i = 0; i < piece.size(); ++i) {
      held_.push_back(piece[i]);
      std::size_t longest = 0;
      for (Pattern& pattern : patterns_) {
        if (pattern.advance(piece[i])) longest = std::max(longest, pattern.text.size());
      }
      if (longest > 0) {
        held_.resize(held_.size() - longest);
        stopped_ = true;
        return std::exchange(held_, {});
      }
    }
    std::size_t possible = 0;
    for (const Pattern& pattern : patterns_) possible = std::max(possible, pattern.matched);
    std::string out = held_.substr(0, held_.size() - possible);
    held_.erase(0, out.size());
    return out;
  }

  /// The end of the text: what was held back, since no stop text came of it. Ready for another text then.
  std::string finish() {
    for (Pattern& pattern : patterns_) pattern.matched = 0;
    stopped_ = false;
    return std::exchange(held_, {});
  }

  /// Whether a stop text has ended the stream.
  bool stopped() const { return stopped_; }

 private:
  struct Pattern {
    explicit Pattern(std::string stop) : text(std::move(stop)), border(text.size() + 1, 0) {
      for (std::size_t i = 1, length = 0; i < text.size(); ++i) {
        while (length > 0 && text[i] != text[length]) length = border[length];
        if (text[i] == text[length]) ++length;
        border[i + 1] = length;
      }
    }

    // Whether the text is complete with this byte.
    bool advance(char c) {
      while (matched > 0 && c != text[matched]) matched = border[matched];
      if (c == text[matched]) ++matched;
      return matched == text.size();
    }

    std::string text;
    std::vector<std::size_t> border;  // of each prefix, the longest proper prefix that is also its suffix
    std::size_t matched = 0;          // how much of the text the stream ends with
  };

  std::vector<Pattern> patterns_;
  std::string held_;  // what may still become a stop text
  bool stopped_ = false;
};

}  // namespace xlstm
