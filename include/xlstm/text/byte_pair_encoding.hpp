// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding of one piece of text (Sennrich et al. 2016; Radford et al. 2019): starting from single bytes, the
// neighbours whose merge was learned first are merged, the leftmost of equals, until no neighbours can be merged.
// A linked list and a priority queue make that O(n log n) in the piece's length.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/core/random.hpp"

namespace xlstm {

/// Lets an unordered_map with std::string keys be asked for a string_view.
struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

/// A map from strings.
template <class Value>
using StringMap = std::unordered_map<std::string, Value, StringHash, std::equal_to<>>;

/// The learned merges. Immutable after it is built: any number of threads may encode with it.
class BytePairEncoding {
 public:
  /// `byte_tokens[b]` is the token of the single byte b.
  explicit BytePairEncoding(const std::array<Token, 256>& byte_tokens) : byte_tokens_(byte_tokens) {}

  /// Adds the next merge: `left` followed by `right` becomes `merged`. Of equal pairs the last one counts.
  void add_merge(Token left, Token right, Token merged) { merges_[key(left, right)] = {next_rank_++, merged}; }

  /// Tokens that whole pieces become without any merging ("ignore_merges"), by the bytes of the piece.
  void use_whole_pieces(StringMap<Token> tokens) { whole_pieces_ = std::move(tokens); }

  /// One thread's memory: the list, the queue, and the encodings of pieces that were seen before.
  class Workspace {
    friend class BytePairEncoding;
    struct Symbol {
      Token token;
      std::int32_t previous, next;  // −1: none
    };
    struct Candidate {
      std::uint32_t rank;
      std::int32_t position;
      Token left, right, merged;
    };
    struct Seen {
      std::size_t begin, count;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> queue;
    StringMap<Seen> cache;
    std::vector<Token> cached_tokens;
  };

  /// Appends the tokens of `piece`.
  void append(std::string_view piece, std::vector<Token>& tokens, Workspace& workspace) const {
    if (!whole_pieces_.empty()) {
      const auto whole = whole_pieces_.find(piece);
      if (whole != whole_pieces_.end()) {
        tokens.push_back(whole->second);
        return;
      }
    }
    if (piece.size() == 1) {
      tokens.push_back(byte_token(piece[0]));
      return;
    }
    if (piece.size() > longest_cached) {
      merge(piece, tokens, workspace);
      return;
    }
    const auto seen = workspace.cache.find(piece);
    if (seen != workspace.cache.end()) {
      const auto begin = workspace.cached_tokens.begin() + static_cast<Index>(seen->second.begin);
      tokens.insert(tokens.end(), begin, begin + static_cast<Index>(seen->second.count));
      return;
    }
    const std::size_t before = tokens.size();
    merge(piece, tokens, workspace);
    if (workspace.cache.size() == most_cached) {
      workspace.cache.clear();
      workspace.cached_tokens.clear();
    }
    workspace.cache.emplace(piece, Workspace::Seen{workspace.cached_tokens.size(), tokens.size() - before});
    workspace.cached_tokens.insert(workspace.cached_tokens.end(), tokens.begin() + static_cast<Index>(before),
                                   tokens.end());
  }

 private:
  using Candidate = Workspace::Candidate;
  using Symbol = Workspace::Symbol;
  struct Merge {
    std::uint32_t rank;
    Token merged;
  };
  struct KeyHash {
    std::size_t operator()(std::uint64_t key) const { return static_cast<std::size_t>(splitmix64(key)); }
  };

  static constexpr std::size_t longest_cached = 64, most_cached = 32768;

  static constexpr std::uint64_t key(Token left, Token right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
  }

  Token byte_token(char byte) const { return byte_tokens_[static_cast<std::uint8_t>(byte)]; }

  static bool later(const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  }

  // The merge of the symbol at `position` with its successor, if there is one.
  std::optional<Candidate> candidate(const std::vector<Symbol>& symbols, std::int32_t position) const {
    const Symbol& left = symbols[static_cast<std::size_t>(position)];
    if (left.next < 0) return std::nullopt;
    const Symbol& right = symbols[static_cast<std::size_t>(left.next)];
    const auto found = merges_.find(key(left.token, right.token));
    if (found == merges_.end()) return std::nullopt;
    return Candidate{found->second.rank, position, left.token, right.token, found->second.merged};
  }

  void merge(std::string_view piece, std::vector<Token>& tokens, Workspace& workspace) const {
    if (piece.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
      fail("a piece of text without a break has ", piece.size(), " bytes, expected fewer than 2147483648");
    }
    constexpr Token gone = -1;
    auto& symbols = workspace.symbols;
    auto& queue = workspace.queue;
    symbols.clear();
    queue.clear();
    const auto count = static_cast<std::int32_t>(piece.size());
    for (std::int32_t i = 0; i < count; ++i) {
      symbols.push_back({byte_token(piece[static_cast<std::size_t>(i)]), i - 1, i + 1 < count ? i + 1 : -1});
    }
    for (std::int32_t i = 0; i < count; ++i) {
      if (const auto found = candidate(symbols, i)) queue.push_back(*found);
    }
    std::make_heap(queue.begin(), queue.end(), later);
    const auto push = [&](std::int32_t position) {
      if (const auto found = candidate(symbols, position)) {
        queue.push_back(*found);
        std::push_heap(queue.begin(), queue.end(), later);
      }
    };
    while (!queue.empty()) {
      const Candidate best = queue.front();
      std::pop_heap(queue.begin(), queue.end(), later);
      queue.pop_back();
      Symbol& left = symbols[static_cast<std::size_t>(best.position)];
      if (left.token != best.left || left.next < 0) continue;  // merged with something else meanwhile
      Symbol& right = symbols[static_cast<std::size_t>(left.next)];
      if (right.token != best.right) continue;
      left.token = best.merged;
      left.next = right.next;
      right.token = gone;
      if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = best.position;
      if (left.previous >= 0) push(left.previous);
      push(best.position);
    }
    for (std::int32_t i = 0; i >= 0; i = symbols[static_cast<std::size_t>(i)].next) {
      tokens.push_back(symbols[static_cast<std::size_t>(i)].token);
    }
  }

  std::array<Token, 256> byte_tokens_;
  std::unordered_map<std::uint64_t, Merge, KeyHash> merges_;
  StringMap<Token> whole_pieces_;
  std::uint32_t next_rank_ = 0;
};

}  // namespace xlstm
