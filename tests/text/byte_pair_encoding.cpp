// SPDX-License-Identifier: Apache-2.0
#include "xlstm/text/byte_pair_encoding.hpp"

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"

using xlstm::BytePairEncoding;
using xlstm::Token;

namespace {

std::array<Token, 256> bytes() {
  std::array<Token, 256> tokens{};
  for (int byte = 0; byte < 256; ++byte) tokens[static_cast<std::size_t>(byte)] = byte;
  return tokens;
}

std::vector<Token> encode(const BytePairEncoding& encoding, std::string_view piece) {
  BytePairEncoding::Workspace workspace;
  std::vector<Token> tokens;
  encoding.append(piece, tokens, workspace);
  return tokens;
}

}  // namespace

TEST_CASE("the earliest learned merge comes first, the leftmost of equals") {
  BytePairEncoding encoding(bytes());
  encoding.add_merge('b', 'c', 256);
  encoding.add_merge('a', 'b', 257);
  encoding.add_merge(257, 'c', 258);
  encoding.add_merge('a', 'a', 259);
  CHECK(encode(encoding, "abc") == std::vector<Token>{'a', 256});
  CHECK(encode(encoding, "ab") == std::vector<Token>{257});
  CHECK(encode(encoding, "aaa") == std::vector<Token>{259, 'a'});
  CHECK(encode(encoding, "x") == std::vector<Token>{'x'});
}

TEST_CASE("whole pieces may be tokens without merges") {
  BytePairEncoding encoding(bytes());
  encoding.use_whole_pieces([] {
    xlstm::StringMap<Token> whole;
    whole.emplace("abc", 300);
    return whole;
  }());
  CHECK(encode(encoding, "abc") == std::vector<Token>{300});
  CHECK(encode(encoding, "abcd") == std::vector<Token>{'a', 'b', 'c', 'd'});
}

TEST_CASE("the queue gives what plain repetition gives") {
  // Random merges over a small alphabet; the plain way merges the first pair of the lowest rank until there is none.
  xlstm::Random random(GENERATE(1U, 2U, 3U, 4U));
  BytePairEncoding encoding(bytes());
  std::map<std::pair<Token, Token>, std::pair<int, Token>> ranks;
  for (Token merged = 256; merged < 330; ++merged) {
    const auto any = [&] {
      const auto i = static_cast<Token>(random.below(3 + static_cast<std::uint64_t>(merged - 256)));
      return i < 3 ? 'a' + i : 253 + i;
    };
    const std::pair<Token, Token> pair{any(), any()};
    if (!ranks.emplace(pair, std::pair{static_cast<int>(ranks.size()), merged}).second) continue;
    encoding.add_merge(pair.first, pair.second, merged);
  }
  BytePairEncoding::Workspace workspace;
  for (int i = 0; i < 300; ++i) {
    std::string piece;
    for (auto length = 1 + random.below(120); length > 0; --length) {
      piece.push_back(static_cast<char>('a' + static_cast<int>(random.below(3))));
    }
    std::vector<Token> plain(piece.begin(), piece.end());
    while (true) {
      auto best = ranks.end();
      std::size_t place = 0;
      for (std::size_t k = 0; k + 1 < plain.size(); ++k) {
        const auto found = ranks.find({plain[k], plain[k + 1]});
        if (found == ranks.end() || (best != ranks.end() && found->second.first >= best->second.first)) continue;
        best = found;
        place = k;
      }
      if (best == ranks.end()) break;
      plain[place] = best->second.second;
      plain.erase(plain.begin() + static_cast<xlstm::Index>(place) + 1);
    }
    for (int twice = 0; twice < 2; ++twice) {  // the second time from the cache
      std::vector<Token> tokens;
      encoding.append(piece, tokens, workspace);
      REQUIRE(tokens == plain);
    }
  }
}

TEST_CASE("a piece of a million bytes is no trouble") {
  BytePairEncoding encoding(bytes());
  Token merged = 'a';
  for (Token next = 256; next < 266; ++next) {
    encoding.add_merge(merged, merged, next);
    merged = next;
  }
  CHECK(encode(encoding, std::string(1 << 20, 'a')) == std::vector<Token>(1 << 10, merged));
}
