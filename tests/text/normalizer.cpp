// SPDX-License-Identifier: Apache-2.0
#include "xlstm/text/normalizer.hpp"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "catch.hpp"
#include "xlstm/core/random.hpp"

using xlstm::NormalForm;
using xlstm::normalized;
using xlstm::TextNormalizer;

namespace {

TextNormalizer parse(const char* text) {
  const auto json = nlohmann::json::parse(text);
  return TextNormalizer::parse(xlstm::JsonField(json, "f.json", "normalizer"));
}

std::string apply(const char* json, std::string text) {
  parse(json).apply(text);
  return text;
}

}  // namespace

TEST_CASE("the four normal forms are Unicode's") {
  CHECK(normalized(NormalForm::nfc, "cafe\u0301 \u212B") == "caf\u00E9 \u00C5");
  CHECK(normalized(NormalForm::nfd, "caf\u00E9 \u212B") == "cafe\u0301 A\u030A");
  CHECK(normalized(NormalForm::nfc, "\uFB01 \u00B2") == "\uFB01 \u00B2");
  CHECK(normalized(NormalForm::nfkc, "\uFB01 \u00B2") == "fi 2");
  CHECK(normalized(NormalForm::nfkd, "\uFB01 \u00E9") == "fi e\u0301");
  CHECK(normalized(NormalForm::nfc, "\u1112\u1161\u11AB") == "\uD55C");
  CHECK(normalized(NormalForm::nfd, "\uD55C") == "\u1112\u1161\u11AB");
  CHECK(normalized(NormalForm::nfc, "\u0958") == "\u0915\u093C");  // excluded from composition
  CHECK(normalized(NormalForm::nfc, "").empty());
}

TEST_CASE("marks are put in canonical order, equals keep theirs") {
  CHECK(normalized(NormalForm::nfd, "q\u0307\u0323") == "q\u0323\u0307");
  CHECK(normalized(NormalForm::nfc, "a\u0301\u0323\u0302") == "\u1EA1\u0301\u0302");
  CHECK(normalized(NormalForm::nfc, "a\u0327\u0301") == "\u00E1\u0327");  // composes past a mark of another class
  CHECK(normalized(NormalForm::nfc, "\u0301a") == "\u0301a");
}

TEST_CASE("normal forms agree with utf8proc's own on random texts") {
  const std::vector<char32_t> alphabet = {U'a',   U'e',  U' ',   0xE9,    0x300,   0x301,  0x323,
                                          0x327,  0x344, 0x1100, 0x1161,  0x11A8,  0xAC00, 0x212B,
                                          0xFB01, 0x958, 0x4EAC, 0x1D15E, 0x1D165, 0x3099};
  xlstm::Random random(4);
  const auto form = GENERATE(NormalForm::nfc, NormalForm::nfd, NormalForm::nfkc, NormalForm::nfkd);
  for (int i = 0; i < 2000; ++i) {
    std::string text;
    for (auto length = random.below(12); length > 0; --length) {
      xlstm::append_utf8(text, alphabet[random.below(alphabet.size())]);
    }
    const auto options = UTF8PROC_STABLE |
                         (form == NormalForm::nfc || form == NormalForm::nfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
                         (form == NormalForm::nfkc || form == NormalForm::nfkd ? UTF8PROC_COMPAT : 0);
    utf8proc_uint8_t* expected = nullptr;
    const auto size =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                     &expected, static_cast<utf8proc_option_t>(options));
    REQUIRE(size >= 0);
    const std::string whole(reinterpret_cast<const char*>(expected), static_cast<std::size_t>(size));
    std::free(expected);
    REQUIRE(normalized(form, text) == whole);
  }
}

TEST_CASE("a million marks are normalised in linear time") {
  std::string marks, ordered;
  for (int i = 0; i < 500000; ++i) marks += "\u0301\u0323";
  for (int i = 0; i < 500000; ++i) ordered += "\u0323";
  for (int i = 0; i < 500000; ++i) ordered += "\u0301";
  CHECK(normalized(NormalForm::nfd, marks) == ordered);
}

TEST_CASE("lower case is taken character by character") {
  CHECK(xlstm::lowercased("ÀΣ ẞ Ǆ x") == "àσ ß ǆ x");
  CHECK(xlstm::lowercased("\u0130") == "i\u0307");
}

TEST_CASE("normalizers are read from JSON, alone and in sequence") {
  CHECK(apply(R"({"type": "NFC"})", "e\u0301") == "\u00E9");
  CHECK(apply(R"({"type": "Lowercase"})", "ABC") == "abc");
  CHECK(apply(R"({"type": "Prepend", "prepend": "_"})", "a") == "_a");
  CHECK(apply(R"({"type": "Prepend", "prepend": "_"})", "").empty());
  CHECK(apply(R"({"type": "Replace", "pattern": {"String": "aa"}, "content": "b"})", "aaaaa") == "bba");
  CHECK(apply(R"({"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}]})", "\u00C9") ==
        "e\u0301");
  CHECK(parse(R"({"type": "Sequence", "normalizers": []})").empty());
}

TEST_CASE("what is not supported is an error that names key, found and supported") {
  CHECK_THROWS_WITH(parse(R"({"type": "BertNormalizer"})"),
                    Contains("f.json: normalizer.type is the string \"BertNormalizer\"") && Contains("NFC, NFD"));
  CHECK_THROWS_WITH(parse(R"({"type": "Replace", "pattern": {"Regex": "a"}, "content": ""})"), Contains("pattern"));
  CHECK_THROWS_WITH(parse(R"({"type": "Replace", "pattern": {"String": ""}, "content": ""})"), Contains("not empty"));
  CHECK_THROWS_WITH(parse(R"({"type": "Sequence"})"), Contains("normalizers is missing"));
  CHECK_THROWS_WITH(parse(R"({})"), Contains("type is missing"));
  CHECK_THROWS_WITH(parse(R"("NFC")"), Contains("expected an object"));
}

TEST_CASE("replacements that grow out of all proportion are an error, not a matter of memory") {
  std::string json = R"({"type": "Sequence", "normalizers": [)";
  for (int i = 0; i < 40; ++i) {
    json += std::string(i > 0 ? "," : "") + R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaa"})";
  }
  CHECK_THROWS_WITH(apply((json + "]}").c_str(), "a"), Contains("normalizer"));
}
