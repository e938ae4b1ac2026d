// SPDX-License-Identifier: Apache-2.0
// "added_tokens" of tokenizer.json: strings that become one token wherever they stand in a text, before it is cut and
// byte-pair encoded. The rules are those of Hugging Face's tokenizers: of the strings that begin leftmost the longest
// one is taken; those with "normalized" are searched in the normalised text, in what the others have left of it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/text/json_field.hpp"
#include "xlstm/text/unicode_class.hpp"
#include "xlstm/text/utf8.hpp"

namespace xlstm {

/// One entry of "added_tokens".
struct AddedToken {
  Token id = 0;
  std::string content;
  bool single_word = false;  ///< is taken only where no word character stands beside it
  bool lstrip = false;       ///< takes the white space before it too
  bool rstrip = false;       ///< takes the white space behind it too
  bool normalized = false;   ///< is searched, itself normalised, in the normalised text
  bool special = false;      ///< marks structure (end of text, padding) and is no text of its own

  /// Longer ones would make the search slow, and none is: the longest known are runs of some 80 blanks.
  static constexpr std::size_t longest = 1024;

  static AddedToken parse(const JsonField& field) {
    AddedToken token;
    token.id = field.at("id").token();
    const JsonField content = field.at("content");
    token.content = content.string();
    if (token.content.empty() || token.content.size() > longest) {
      content.fail_expected("a string of 1 to 1024 bytes");
    }
    token.special = field.boolean_or("special", false);
    token.single_word = field.boolean_or("single_word", false);
    token.lstrip = field.boolean_or("lstrip", false);
    token.rstrip = field.boolean_or("rstrip", false);
    token.normalized = field.boolean_or("normalized", !token.special);
    return token;
  }
};

/// Finds the leftmost, longest of several strings: a trie, walked from each place where one can begin.
class AddedTokenSearch {
 public:
  AddedTokenSearch() : nodes_(1) {}

  /// Adds a token under the string that it is searched by. Of equal strings the first one counts.
  void add(std::string_view pattern, AddedToken token) {
    if (pattern.empty()) return;
    std::size_t node = 0;
    for (const char c : pattern) {
      std::size_t next = child(node, c);
      if (next == none) {
        next = nodes_.size();
        auto& edges = nodes_[node].edges;
        edges.insert(std::lower_bound(edges.begin(), edges.end(), std::pair{byte(c), std::size_t{0}}), {byte(c), next});
        nodes_.emplace_back();
      }
      node = next;
    }
    if (nodes_[node].token >= 0) return;
    nodes_[node].token = static_cast<Index>(tokens_.size());
    tokens_.push_back(std::move(token));
  }

  /// Calls on_text(piece) and on_token(id) for what `text` (valid UTF-8) consists of, in order. As in the reference, a
  /// token without lstrip may begin within white space that the token before it has stripped.
  template <class OnText, class OnToken>
  void split(std::string_view text, OnText&& on_text, OnToken&& on_token) const {
    std::size_t done = 0;                        // where the text begins that has not been passed on
    std::size_t blank_begin = 0, blank_end = 0;  // the white space that the last rstrip ran over
    const auto pass_text = [&](std::size_t begin, std::size_t end) {
      if (begin < end) on_text(text.substr(begin, end - begin));
    };
    for (std::size_t at = 0; at < text.size();) {
      std::size_t end = at;
      const AddedToken* token = longest_at(text, at, end);
      if (token == nullptr) {
        ++at;
        continue;
      }
      std::size_t begin = at;
      at = end;
      if (token->single_word && (word_before(text, begin) || word_after(text, end))) continue;
      if (token->lstrip) {
        while (begin > done && space_before(text, begin))
          begin = done + last_character(text.substr(done, begin - done));
        begin = std::max(begin, done);
      }
      if (token->rstrip) {
        if (end < blank_begin || end > blank_end) {
          blank_begin = blank_end = end;
          while (blank_end < text.size()) {
            const Utf8Step step = utf8_step(text.substr(blank_end));
            if (!is_white_space(step.code_point)) break;
            blank_end += step.length;
          }
        }
        end = blank_end;
      }
      if (begin >= end) continue;  // all of it is white space that an rstrip before it has taken
      pass_text(done, begin);
      on_token(token->id);
      done = end;
    }
    pass_text(done, text.size());
  }

 private:
  struct Node {
    std::vector<std::pair<std::uint8_t, std::size_t>> edges;  // sorted
    Index token = -1;
  };
  static constexpr std::size_t none = 0;  // the root is nobody's child

  static std::uint8_t byte(char c) { return static_cast<std::uint8_t>(c); }

  std::size_t child(std::size_t node, char c) const {
    const auto& edges = nodes_[node].edges;
    const auto found = std::lower_bound(edges.begin(), edges.end(), std::pair{byte(c), std::size_t{0}});
    return found == edges.end() || found->first != byte(c) ? none : found->second;
  }

  const AddedToken* longest_at(std::string_view text, std::size_t at, std::size_t& end) const {
    const AddedToken* best = nullptr;
    std::size_t node = 0;
    for (std::size_t i = at; i < text.size(); ++i) {
      node = child(node, text[i]);
      if (node == none) break;
      if (nodes_[node].token >= 0) {
        best = &tokens_[static_cast<std::size_t>(nodes_[node].token)];
        end = i + 1;
      }
    }
    return best;
  }

  static char32_t character_before(std::string_view text, std::size_t at) {
    return utf8_step(text.substr(last_character(text.substr(0, at)))).code_point;
  }
  static bool word_before(std::string_view text, std::size_t at) {
    return at > 0 && is_word_character(character_before(text, at));
  }
  static bool word_after(std::string_view text, std::size_t at) {
    return at < text.size() && is_word_character(utf8_step(text.substr(at)).code_point);
  }
  static bool space_before(std::string_view text, std::size_t at) { return is_white_space(character_before(text, at)); }

  std::vector<Node> nodes_;
  std::vector<AddedToken> tokens_;
};

}  // namespace xlstm
