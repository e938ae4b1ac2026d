// SPDX-License-Identifier: Apache-2.0
#include "xlstm/text/regex.hpp"

#include <string>
#include <vector>

#include "catch.hpp"

using xlstm::Regex;

namespace {

std::vector<std::string> matches(const char* pattern, std::string_view text) {
  const Regex regex(pattern, "f.json: pattern");
  Regex::Matcher matcher(regex);
  Regex::Match match{};
  std::vector<std::string> found;
  for (std::size_t from = 0; from < text.size() && matcher.find(text, from, match);
       from = std::max(match.end, from + 1)) {
    found.emplace_back(text.substr(match.begin, match.end - match.begin));
  }
  return found;
}

using Strings = std::vector<std::string>;

}  // namespace

TEST_CASE("patterns know Unicode's properties") {
  CHECK(matches(R"(\p{L}+)", "éa 東京 1") == Strings{"éa", "東京"});
  CHECK(matches(R"(\d+)", "12 ४५ ²") == Strings{"12", "४५"});
  CHECK(matches("(?i:É)", "é") == Strings{"é"});
}

TEST_CASE("white space does not include U+180E, inside of brackets or out") {
  CHECK(matches(R"(\s+)", "a \u3000\u0085b\u180Ec") == Strings{" \u3000\u0085"});
  CHECK(matches(R"(\S+)", "a\u180Eb c") == Strings{"a\u180Eb", "c"});
  CHECK(matches(R"([\s,]+)", "a ,\u180E") == Strings{" ,"});
  CHECK(matches(R"([^\s]+)", "\u180E x") == Strings{"\u180E", "x"});
  CHECK(matches(R"([\S ]+)", "\u180E x\n") == Strings{"\u180E x"});
}

TEST_CASE("word characters are Oniguruma's") {
  CHECK(matches(R"(\w+)", "e\u0301_ⓐ Ⅷ ²½ ৴ -") == Strings{"e\u0301_ⓐ", "Ⅷ", "²½"});
  CHECK(matches(R"(\W+)", "a-²৴") == Strings{"-", "৴"});
  CHECK(matches(R"([\w]+)", "a²") == Strings{"a"});
}

TEST_CASE("brackets and escapes within patterns stay what they are") {
  CHECK(xlstm::oniguruma_classes(R"(\\s\p{L}\[\]x)") == R"(\\s\p{L}\[\]x)");
  CHECK(matches(R"([]\]]+)", "a]]") == Strings{"]]"});
  CHECK(matches(R"([^]\s]+)", "]a b") == Strings{"a", "b"});
  CHECK(matches(R"([[:digit:]\s]+)", "a1 2b") == Strings{"1 2"});
}

TEST_CASE("invalid patterns are errors that say where they stand") {
  for (const char* pattern :
       {"(", "[a", "a{2,1}", "\\", "(?<x>a)(?<x>b)", "\\p{Nothing}", "(?R", "\\C", "*a", "\xFF"}) {
    CHECK_THROWS_WITH(Regex(pattern, "f.json: the pattern"),
                      Contains("f.json: the pattern is not a valid regular expression"));
  }
  CHECK_THROWS_WITH(Regex(std::string(100000, 'a'), "f.json: p"), Contains("at most 65536"));
  CHECK_THROWS_AS(Regex(std::string(200, '(') + std::string(200, ')'), "f.json: p"), xlstm::Error);
}

TEST_CASE("catastrophic backtracking ends in an error") {
  CHECK_THROWS_WITH(matches("(?:a|aa)+$", std::string(2000, 'a') + "!"), Contains("cannot be matched"));
  CHECK_THROWS_WITH(matches("(?R)?a(?R)?", std::string(2000, 'a')), Contains("cannot be matched"));
}
