// SPDX-License-Identifier: Apache-2.0
#include "xlstm/text/stop_text.hpp"

#include <string>
#include <vector>

#include "catch.hpp"
#include "xlstm/core/random.hpp"

using xlstm::StopTexts;

TEST_CASE("text comes out as soon as it can no longer be part of a stop text") {
  StopTexts stops({"STOP"});
  CHECK(stops.push("hello S") == "hello ");
  CHECK(stops.push("T") == "");
  CHECK(stops.push("A") == "STA");
  CHECK(stops.push("R and STO") == "R and ");
  CHECK_FALSE(stops.stopped());
  CHECK(stops.push("P more") == "");
  CHECK(stops.stopped());
  CHECK(stops.push("even more") == "");
  CHECK(stops.finish() == "");
}

TEST_CASE("at the end of the text what was held back is text") {
  StopTexts stops({"\n\n", "END"});
  CHECK(stops.push("a\n") == "a");
  CHECK(stops.finish() == "\n");
  CHECK(stops.push("\nb") == "\nb");
  CHECK_FALSE(stops.stopped());
}

TEST_CASE("a stop text that begins within a failed one is found") {
  StopTexts one({"aab"});
  CHECK(one.push("aaab") == "a");
  CHECK(one.stopped());
  StopTexts two({"abcd", "bc"});
  CHECK(two.push("abcx") == "a");
  CHECK(two.stopped());
}

TEST_CASE("of stop texts that are complete at the same place the one that began first is cut off") {
  StopTexts stops({"b", "ab", "xab"});
  CHECK(stops.push("1ab") == "1");
}

TEST_CASE("without stop texts everything passes") {
  StopTexts stops({});
  CHECK(stops.push("text") == "text");
  CHECK(stops.finish().empty());
}

TEST_CASE("an empty stop text is an error") { CHECK_THROWS_WITH(StopTexts({"a", ""}), Contains("stop text is empty")); }

TEST_CASE("how a text is cut into pieces does not matter") {
  xlstm::Random random(2);
  const auto word = [&](std::uint64_t longest) {
    std::string text;
    for (auto length = 1 + random.below(longest); length > 0; --length) {
      text.push_back(static_cast<char>('a' + static_cast<int>(random.below(2))));
    }
    return text;
  };
  for (int i = 0; i < 3000; ++i) {
    const std::vector<std::string> texts{word(6), word(6), word(6)};
    const std::string text = word(40);
    // The plain way: the first end of a stop text, and the longest that ends there.
    std::string expected = text;
    bool stops_expected = false;
    for (std::size_t end = 1; end <= text.size() && !stops_expected; ++end) {
      std::size_t longest = 0;
      for (const auto& stop : texts) {
        if (std::string_view(text).substr(0, end).ends_with(stop)) longest = std::max(longest, stop.size());
      }
      if (longest == 0) continue;
      stops_expected = true;
      expected = text.substr(0, end - longest);
    }
    StopTexts stops(texts);
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t length = 1 + random.below(5);
      out += stops.push(std::string_view(text).substr(at, length));
      at += length;
    }
    REQUIRE(stops.stopped() == stops_expected);
    REQUIRE(out + stops.finish() == expected);
  }
}
