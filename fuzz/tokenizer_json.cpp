// SPDX-License-Identifier: Apache-2.0
// Arbitrary bytes as tokenizer.json. What loads must encode and decode: every token exists, and where the file neither
// normalises, strips nor prefixes, the text comes back.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "xlstm/text/stream_decoder.hpp"
#include "xlstm/text/tokenizer.hpp"

namespace {

void check(bool holds) {
  if (!holds) std::abort();
}

void use(const xlstm::Tokenizer& tokenizer, std::string_view text, bool lossless) {
  const auto tokens = tokenizer.encode(text);
  const std::string decoded = tokenizer.decode(tokens);
  if (lossless) check(decoded == text);
  xlstm::StreamDecoder decoder(tokenizer);
  std::string streamed;
  for (const xlstm::Token token : tokens) streamed += decoder.push(token);
  streamed += decoder.finish();
  check(xlstm::valid_utf8_prefix(streamed) == streamed.size());
  if (xlstm::valid_utf8_prefix(decoded) == decoded.size()) check(streamed == decoded);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  try {
    const auto tokenizer = xlstm::Tokenizer::parse(input, "tokenizer.json");
    const auto has = [&](std::string_view word) { return input.find(word) != input.npos; };
    const bool lossless = !has("true") && !has("\\u") && !has("NF") && !has("Lower") && !has("Prepend") &&
                          !has("Replace") && !has("Removed") && !has("add_prefix_space");
    use(tokenizer, input.substr(0, 300), false);
    use(tokenizer, input.substr(size - std::min<std::size_t>(size, 100)), false);
    use(tokenizer, "It's 3.14 <a>  \n caf\xC3\xA9 e\xCC\x81 \xE4\xBA\xAC\xF0\x9F\x98\x80\xFF\xE2\x82 end ", false);
    if (lossless) use(tokenizer, "plain text 123, \xFF\xFE and <a> more\n", !has("lstrip") && !has("rstrip"));
  } catch (const xlstm::Error&) {
  }
  return 0;
}
