// SPDX-License-Identifier: Apache-2.0
#include "xlstm/text/tokenizer.hpp"

#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/io/file.hpp"

using nlohmann::json;
using xlstm::Token;
using xlstm::Tokenizer;

namespace {

const std::string data = XLSTM_TEST_DATA;

const std::string& plain_text() {
  static const std::string text = xlstm::io::read_text_file(data + "/models/tiny-f32/tokenizer.json");
  return text;
}
json plain() { return json::parse(plain_text()); }

Tokenizer parse(const json& file) { return Tokenizer::parse(file.dump(), "t.json"); }

std::string repeat(std::string_view part, std::size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += part;
  return text;
}

}  // namespace

TEST_CASE("texts become the reference's tokens and these its texts") {
  const std::string model = GENERATE("tiny-f32", "sharded-bf16", "fused-bias-f16", "odd-sizes-f32");
  const auto tokenizer = Tokenizer::load(data + "/models/" + model + "/tokenizer.json");
  const auto cases = json::parse(xlstm::io::read_text_file(data + "/models/" + model + "/tokenizer_cases.json"));
  REQUIRE(cases.size() > 10);
  for (const auto& c : cases) {
    const auto ids = c["ids"].get<std::vector<Token>>();
    CHECK(tokenizer.encode(c["text"].get<std::string>()) == ids);
    CHECK(tokenizer.decode(ids) == c["decoded"].get<std::string>());
  }
}

// Files that differ from a plain one in a few keys, with the tokens that Hugging Face's tokenizers 0.23.3 gives.
TEST_CASE("variants of the format give the reference's tokens") {
  const auto variants = json::parse(xlstm::io::read_text_file(data + "/text/tokenizer_variants.json"));
  REQUIRE(variants.size() > 30);
  for (const auto& variant : variants) {
    json file = plain();
    for (const auto& [key, value] : variant["changes"].items()) {
      if (key != "model") {
        file[key] = value;
      } else if (value.contains("merges") && value["merges"].is_string()) {
        for (auto& merge : file["model"]["merges"]) {
          merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
        }
      } else {
        file["model"].update(value);
      }
    }
    const Tokenizer tokenizer = parse(file);
    for (const auto& c : variant["cases"]) {
      INFO(variant["name"] << ": " << c["text"]);
      CHECK(tokenizer.encode(c["text"].get<std::string>()) == c["ids"].get<std::vector<Token>>());
    }
  }
}

TEST_CASE("tokens have numbers, spellings and bytes") {
  const auto tokenizer = Tokenizer::parse(plain_text(), "t.json");
  CHECK(tokenizer.vocab_size() == 511);
  CHECK(tokenizer.token_of("<|endoftext|>") == 0);
  CHECK(tokenizer.token_of("a") == 66);
  CHECK(tokenizer.token_of("        ") == 504);
  CHECK_FALSE(tokenizer.token_of(" the"));
  const auto the = tokenizer.token_of("Ġst");
  REQUIRE(the);
  CHECK(tokenizer.bytes_of(*the) == " st");
  CHECK(tokenizer.contains(510));
  CHECK_FALSE(tokenizer.contains(511));
  CHECK_FALSE(tokenizer.contains(-1));
  CHECK_THROWS_WITH(tokenizer.bytes_of(511), Contains("token 511") && Contains("0 to 510"));
  CHECK_THROWS_AS(tokenizer.decode(std::vector<Token>{-1}), xlstm::Error);
  CHECK(tokenizer.decode(*the) == " st");
  CHECK_THROWS_WITH(tokenizer.decode(Token{511}), Contains("token 511"));
}

TEST_CASE("any bytes come back, as long as they are in normal form") {
  const auto tokenizer = Tokenizer::parse(plain_text(), "t.json");
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  CHECK(tokenizer.decode(tokenizer.encode(all)) == all);
  CHECK(tokenizer.decode(tokenizer.encode("caf\xC3\xA9\xFF<|endoftext|>\xE4\xBA")) ==
        "caf\xC3\xA9\xFF<|endoftext|>\xE4\xBA");
  CHECK(tokenizer.decode(tokenizer.encode("e\xCC\x81\xFF")) == "\xC3\xA9\xFF");  // the valid part is normalised
  xlstm::Random random(6);
  for (int i = 0; i < 300; ++i) {
    std::string text;  // bytes that no normal form changes: ASCII and what is not UTF-8
    for (auto length = random.below(60); length > 0; --length) {
      text.push_back(static_cast<char>(random.below(3) == 0 ? 0xF5 + random.below(11) : random.below(128)));
    }
    REQUIRE(tokenizer.decode(tokenizer.encode(text)) == text);
  }
}

TEST_CASE("long texts, long words and long runs are encoded in linear time") {
  const auto tokenizer = Tokenizer::parse(plain_text(), "t.json");
  const std::string text =
      GENERATE(repeat("It's a plain text, 123 words\n", 1 << 20), repeat("a", 1 << 20), repeat("return", 100000),
               repeat(" ", 1 << 20), repeat("\n", 1 << 20), repeat("\xFF", 1 << 20), repeat("東京", 1 << 18));
  CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
}

TEST_CASE("one tokenizer serves several threads") {
  const auto tokenizer = Tokenizer::parse(plain_text(), "t.json");
  const std::string text = repeat("def f(x):\n    return x ** 2  # na\u00EFve\n", 20000);
  const auto expected = tokenizer.encode(text);
  std::vector<std::vector<Token>> results(4);
  {
    std::vector<std::jthread> threads;
    for (auto& result : results) threads.emplace_back([&] { result = tokenizer.encode(text); });
  }
  for (const auto& result : results) CHECK(result == expected);
}

TEST_CASE("encode adds no token of the post_processor") {
  json file = plain();
  file["post_processor"] = {{"type", "TemplateProcessing"}, {"single", json::array()}};
  CHECK(parse(file).encode("a") == std::vector<Token>{66});
}

TEST_CASE("numbers may have holes") {
  json file = plain();
  file["added_tokens"][2]["id"] = 600;
  const auto tokenizer = parse(file);
  CHECK(tokenizer.vocab_size() == 601);
  CHECK_FALSE(tokenizer.contains(504));
  CHECK(tokenizer.encode("x        y")[1] == 600);
}

TEST_CASE("an added token outside the vocabulary is its content, not what its characters stand for") {
  json file = plain();
  file["normalizer"] = nullptr;
  file["added_tokens"].push_back({{"id", 511}, {"content", "naïve"}});
  const auto tokenizer = parse(file);
  CHECK(tokenizer.encode("naïve") == std::vector<Token>{511});
  CHECK(tokenizer.bytes_of(511) == "naïve");
}

TEST_CASE("what is wrong in a file is an error that names file, key, found and expected") {
  json file = plain();
  const auto fails = [&](auto... parts) {
    std::string message = "no error";
    try {
      parse(file);
    } catch (const xlstm::Error& error) {
      message = error.what();
    }
    CHECK_THAT(message, StartsWith("t.json: "));
    CHECK(message.find('\n') == message.npos);
    for (const std::string& part : {std::string(parts)...}) CHECK_THAT(message, Contains(part));
  };
  auto& model = file["model"];
  SECTION("missing keys") {
    for (const char* key : {"model", "pre_tokenizer", "decoder"}) {
      file = plain();
      file.erase(key);
      fails(key, "missing");
    }
    for (const char* key : {"vocab", "merges"}) {
      file = plain();
      file["model"].erase(key);
      fails(key, "missing");
    }
  }
  SECTION("wrong types, anywhere") {
    const json paths = {"/model",         "/model/vocab",      "/model/merges",          "/model/merges/3",
                        "/model/vocab/a", "/added_tokens",     "/added_tokens/0",        "/added_tokens/0/id",
                        "/normalizer",    "/normalizer/type",  "/pre_tokenizer",         "/pre_tokenizer/use_regex",
                        "/decoder",       "/post_processor",   "/added_tokens/1/rstrip", "/model/ignore_merges",
                        "/model/type",    "/model/merges/0/1", "/added_tokens/0/content"};
    for (const auto& path : paths) {
      file = plain();
      file[json::json_pointer(path.get<std::string>())] = -1.5;
      fails("expected");
    }
  }
  SECTION("another kind of model") {
    model["type"] = "Unigram";
    fails("model.type", "Unigram", "BPE");
  }
  SECTION("dropout") {
    model["dropout"] = 0.1;
    fails("model.dropout", "0.1", "null or 0");
  }
  SECTION("a prefix of subwords") {
    model["continuing_subword_prefix"] = "##";
    fails("continuing_subword_prefix", "##");
  }
  SECTION("another decoder") {
    file["decoder"] = {{"type", "WordPiece"}};
    fails("decoder.type", "WordPiece", "ByteLevel");
  }
  SECTION("another post_processor") {
    file["post_processor"] = {{"type", "Sequence"}, {"processors", {{{"type", "BertProcessing"}}}}};
    fails("post_processor.processors[0].type", "BertProcessing");
  }
  SECTION("a number that occurs twice") {
    model["vocab"]["b"] = 66;
    fails("model.vocab", "66", "no other token");
  }
  SECTION("numbers out of range") {
    model["vocab"]["b"] = GENERATE(json(-1), json(std::uint64_t{1} << 31), json(2147483647), json(1e10), json(1.5));
    fails("model.vocab[\"b\"]");
  }
  SECTION("an added token far beyond the others") {
    file["added_tokens"][2]["id"] = 2000000000;
    fails("added_tokens[2].id", "2000000000", "less than");
  }
  SECTION("an added token with another token's number") {
    file["added_tokens"][2]["id"] = 66;
    fails("added_tokens[2].id", "no other token");
  }
  SECTION("an added token with two numbers") {
    file["added_tokens"][0]["id"] = 700;
    fails("added_tokens[0].id", "700", "expected 0");
  }
  SECTION("an added token that occurs twice") {
    file["added_tokens"][3] = file["added_tokens"][2];
    fails("added_tokens[3].content");
  }
  SECTION("a byte without a token") {
    model["vocab"].erase("Ġ");
    fails("model.vocab", "256 bytes", "Ġ");
  }
  SECTION("merges of what is not in the vocabulary") {
    model["merges"][1] = GENERATE(json({"a", "東"}), json("a 東"), json("a b c"), json("ab"), json({"a"}),
                                  json({"a", 1}), json(""), json({"Q", "Q"}));
    fails("model.merges[1]");
  }
}

TEST_CASE("no part of a file is taken for a whole one") {
  const std::string& text = plain_text();
  for (std::size_t size = 0; size + 2 < text.size(); size += 61) {
    CHECK_THROWS_AS(Tokenizer::parse(std::string_view(text).substr(0, size), "t.json"), xlstm::Error);
  }
}

TEST_CASE("deep nesting and text that is not UTF-8 are errors") {
  CHECK_THROWS_AS(Tokenizer::parse(std::string(100000, '['), "t.json"), xlstm::Error);
  std::string sequences = R"({"type": "NFC"})";
  for (int i = 0; i < 1000; ++i) sequences = R"({"type": "Sequence", "normalizers": [)" + sequences + "]}";
  CHECK_THROWS_AS(Tokenizer::parse(R"({"normalizer": )" + sequences + "}", "t.json"), xlstm::Error);
  CHECK_THROWS_AS(Tokenizer::parse("{\"model\": \"\xFF\"}", "t.json"), xlstm::Error);
}

TEST_CASE("a file that cannot be read is an error that names it") {
  CHECK_THROWS_WITH(Tokenizer::load(data + "/no/tokenizer.json"), Contains("no/tokenizer.json"));
  CHECK_THROWS_WITH(Tokenizer::load(data), Contains("directory"));
}
