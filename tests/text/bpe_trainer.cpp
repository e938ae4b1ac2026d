// SPDX-License-Identifier: Apache-2.0
#include "xlstm/text/bpe_trainer.hpp"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "catch.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/text/tokenizer.hpp"

using nlohmann::json;
using xlstm::BpeTrainer;
using xlstm::Tokenizer;

namespace {

std::string train(const std::vector<std::string>& texts, const xlstm::BpeTrainerOptions& options) {
  BpeTrainer trainer(options);
  for (const auto& text : texts) trainer.add(text);
  return trainer.train();
}

}  // namespace

// Merges that Hugging Face's BpeTrainer (tokenizers 0.23.3) learns from the same text.
TEST_CASE("the reference's trainer learns the same merges") {
  const auto expected = json::parse(xlstm::io::read_text_file(XLSTM_TEST_DATA "/text/trained.json"));
  const auto file = json::parse(train({expected["text"].get<std::string>()},
                                      {.vocab_size = expected["vocab_size"].get<xlstm::Index>(),
                                       .special_tokens = expected["special_tokens"].get<std::vector<std::string>>()}));
  CHECK(file["model"]["merges"] == expected["merges"]);
  const auto& vocab = file["model"]["vocab"];
  CHECK(vocab.size() == expected["vocab_size"].get<std::size_t>());
  const auto last = expected["last_tokens"].get<std::vector<std::string>>();
  for (std::size_t i = 0; i < last.size(); ++i) CHECK(vocab[last[i]] == 256 + i);
}

TEST_CASE("numbers go to special tokens, bytes, merges in this order") {
  const auto file = json::parse(train({"abab ab"}, {.vocab_size = 259, .special_tokens = {"<a>", "<b>"}}));
  CHECK(file["model"]["vocab"]["<a>"] == 0);
  CHECK(file["model"]["vocab"]["<b>"] == 1);
  CHECK(file["model"]["vocab"]["!"] == 2);
  CHECK(file["model"]["vocab"]["Ġ"] == 2 + 94 + 12 + 82 + 32);
  CHECK(file["model"]["vocab"]["ab"] == 258);
  CHECK(file["added_tokens"][1]["content"] == "<b>");
  CHECK(file["added_tokens"][1]["special"] == true);
}

TEST_CASE("the file loads, encodes what it was trained on into fewer tokens, and gives it back") {
  const std::string text = "the cat, the hat, the caf\xC3\xA9; the bat.\n\xFF\xFE\n";
  const auto tokenizer = Tokenizer::parse(train({text, text}, {.vocab_size = 270}), "t.json");
  CHECK(tokenizer.vocab_size() == 270);
  const auto tokens = tokenizer.encode(text);
  CHECK(tokens.size() < text.size() * 2 / 3);
  CHECK(tokenizer.decode(tokens) == text);
  CHECK(tokenizer.encode("<|endoftext|>") == std::vector<xlstm::Token>{0});
}

TEST_CASE("neither the order of the texts nor chance matters") {
  xlstm::Random random(3);
  std::vector<std::string> texts;
  for (int i = 0; i < 200; ++i) {
    std::string text;
    for (int k = 0; k < 50; ++k) text.push_back("abcde "[random.below(6)]);
    texts.push_back(text);
  }
  const auto file = train(texts, {.vocab_size = 400});
  CHECK(file == train(texts, {.vocab_size = 400}));
  std::reverse(texts.begin(), texts.end());
  CHECK(file == train(texts, {.vocab_size = 400}));
}

TEST_CASE("where the texts have no more pairs there are fewer tokens") {
  CHECK(Tokenizer::parse(train({"ab"}, {.vocab_size = 1000}), "t.json").vocab_size() == 258);
  CHECK(Tokenizer::parse(train({}, {.vocab_size = 1000}), "t.json").vocab_size() == 257);
  CHECK(Tokenizer::parse(train({"ab ab cd"}, {.vocab_size = 1000, .min_frequency = 2}), "t.json").vocab_size() == 258);
}

TEST_CASE("one long word is learned too") {
  const auto tokenizer = Tokenizer::parse(train({std::string(1 << 18, 'a')}, {.vocab_size = 270}), "t.json");
  CHECK(tokenizer.encode(std::string(1 << 13, 'a')).size() == 1);
}

TEST_CASE("the file is there whole or not at all") {
  const auto folder = std::filesystem::temp_directory_path() / ("xlstm-bpe-trainer-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  BpeTrainer trainer({.vocab_size = 300});
  trainer.add("some text, some more text");
  trainer.train_to(folder / "tokenizer.json");
  CHECK(Tokenizer::load(folder / "tokenizer.json").decode(std::vector<xlstm::Token>{0}) == "<|endoftext|>");
  BpeTrainer other({.vocab_size = 300});
  CHECK_THROWS_WITH(other.train_to(folder / "missing" / "tokenizer.json"), Contains("missing"));
  std::filesystem::remove_all(folder);
}

TEST_CASE("options that cannot be met are errors that name them") {
  CHECK_THROWS_WITH(BpeTrainer({.vocab_size = 256}), Contains("vocab_size is 256") && Contains("257"));
  CHECK_THROWS_WITH(BpeTrainer({.vocab_size = xlstm::Index{1} << 40}), Contains("vocab_size"));
  CHECK_THROWS_WITH(BpeTrainer({.min_frequency = 0}), Contains("min_frequency is 0"));
  CHECK_THROWS_WITH(BpeTrainer({.special_tokens = {"<a>", "<a>"}}), Contains("\"<a>\"") && Contains("only once"));
  CHECK_THROWS_WITH(BpeTrainer({.special_tokens = {""}}), Contains("1 to 1024 bytes"));
  CHECK_THROWS_WITH(BpeTrainer({.special_tokens = {"\xFF"}}), Contains("valid UTF-8"));
  CHECK_THROWS_WITH(BpeTrainer({.special_tokens = {"a"}}), Contains("special token \"a\""));
}
