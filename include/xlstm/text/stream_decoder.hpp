// SPDX-License-Identifier: Apache-2.0
// Tokens to text while they arrive. A token of a byte-level encoding may end within a character, so what is shown must
// wait for the rest of it.
#pragma once

#include <string>
#include <string_view>

#include "xlstm/core/index.hpp"
#include "xlstm/text/tokenizer.hpp"
#include "xlstm/text/utf8.hpp"

namespace xlstm {

/// Decodes one sequence of tokens piece by piece. All that it returns, one after another, is valid UTF-8: the bytes of
/// the tokens, in which U+FFFD stands for each maximal invalid part, as Python's decode(errors="replace") has it.
class StreamDecoder {
 public:
  /// Keeps a reference to `tokenizer`.
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

  /// The text that is complete with this token; possibly none. A number that no token has stands for no text: models
  /// have more outputs than their tokenizer has tokens.
  std::string push(Token token) {
    if (tokenizer_->contains(token)) pending_.append(tokenizer_->bytes_of(token));
    return take(false);
  }

  /// The end of the text, a replacement character if it breaks off within a character. Ready for another text then.
  std::string finish() { return take(true); }

 private:
  std::string take(bool all) {
    std::string text;
    std::string_view rest = pending_;
    while (!rest.empty()) {
      const Utf8Step step = utf8_step(rest);
      if (step.kind == Utf8Step::Kind::incomplete && !all) break;
      if (step.kind == Utf8Step::Kind::character) {
        text.append(rest.substr(0, step.length));
      } else {
        append_utf8(text, step.code_point);
      }
      rest.remove_prefix(step.length);
    }
    pending_.erase(0, pending_.size() - rest.size());
    return text;
  }

  const Tokenizer* tokenizer_;
  std::string pending_;  // the beginning of a character
};

}  // namespace xlstm
