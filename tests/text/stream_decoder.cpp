// SPDX-License-Identifier: Apache-2.0
#include "xlstm/text/stream_decoder.hpp"

#include <string>
#include <vector>

#include "catch.hpp"
#include "xlstm/core/random.hpp"

namespace {

const xlstm::Tokenizer& tokenizer() {
  static const auto loaded = xlstm::Tokenizer::load(XLSTM_TEST_DATA "/models/tiny-f32/tokenizer.json");
  return loaded;
}

// The text of these bytes, one token each.
std::string decode(const std::string& bytes) {
  xlstm::StreamDecoder decoder(tokenizer());
  std::string text;
  for (const char byte : bytes) {
    text += decoder.push(*tokenizer().token_of(xlstm::byte_alphabet::spell({&byte, 1})));
    REQUIRE(xlstm::valid_utf8_prefix(text) == text.size());
  }
  return text + decoder.finish();
}

}  // namespace

TEST_CASE("a character comes out when its last byte is there") {
  xlstm::StreamDecoder decoder(tokenizer());
  std::vector<std::string> pieces;
  for (const char byte : std::string("a\xF0\x9F\x98\x80")) {
    pieces.push_back(decoder.push(*tokenizer().token_of(xlstm::byte_alphabet::spell({&byte, 1}))));
  }
  CHECK(pieces == std::vector<std::string>{"a", "", "", "", "\xF0\x9F\x98\x80"});
  CHECK(decoder.finish().empty());
}

TEST_CASE("what is not UTF-8 is replaced as Python replaces it") {
  const std::string r = "\uFFFD";
  CHECK(decode("\xE4\xBA") == r);
  CHECK(decode("\xE4\xBA"
               "a") == r + "a");
  CHECK(decode("\xFF\xFE") == r + r);
  CHECK(decode("\xC0\x80") == r + r);
  CHECK(decode("\xED\xA0\x80") == r + r + r);
  CHECK(decode("\xF0\x9F\x98\xF0\x9F\x98\x80") == r + "\xF0\x9F\x98\x80");
  CHECK(decode("\xF4\x90\x80\x80") == r + r + r + r);
}

TEST_CASE("finish() leaves the decoder ready for another text") {
  xlstm::StreamDecoder decoder(tokenizer());
  CHECK(decoder.push(*tokenizer().token_of("Ã")).empty());
  CHECK(decoder.finish() == "\uFFFD");
  CHECK(decoder.push(*tokenizer().token_of("a")) == "a");
}

TEST_CASE("special tokens are text, numbers without a token are none") {
  xlstm::StreamDecoder decoder(tokenizer());
  CHECK(decoder.push(0) == "<|endoftext|>");
  CHECK(decoder.push(static_cast<xlstm::Token>(tokenizer().vocab_size())).empty());
  CHECK(decoder.push(-1).empty());
}

TEST_CASE("any tokens give valid text, and valid bytes come through unchanged") {
  xlstm::Random random(9);
  for (int i = 0; i < 500; ++i) {
    xlstm::StreamDecoder decoder(tokenizer());
    std::vector<xlstm::Token> tokens;
    std::string text;
    for (int k = 0; k < 40; ++k) {
      tokens.push_back(static_cast<xlstm::Token>(random.below(static_cast<std::uint64_t>(tokenizer().vocab_size()))));
      text += decoder.push(tokens.back());
    }
    text += decoder.finish();
    REQUIRE(xlstm::valid_utf8_prefix(text) == text.size());
    const std::string bytes = tokenizer().decode(tokens);
    if (xlstm::valid_utf8_prefix(bytes) == bytes.size()) REQUIRE(text == bytes);
  }
}
