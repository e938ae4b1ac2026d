// SPDX-License-Identifier: Apache-2.0
#include "xlstm/train/text_data.hpp"

#include "../io/temporary_directory.hpp"
#include "catch.hpp"
#include "xlstm/core/random.hpp"

using namespace xlstm;

namespace {

const std::filesystem::path tokenizer_file = std::string(XLSTM_TEST_DATA) + "/models/tiny-f32/tokenizer.json";

struct Fixture {
  TemporaryDirectory directory;
  std::string json = io::read_text_file(tokenizer_file);
  Tokenizer tokenizer = Tokenizer::parse(json, "tokenizer.json");

  PreparedData prepare(const std::vector<std::filesystem::path>& files, const TextDataOptions& options = {}) {
    return prepare_text_data(files, tokenizer, json, 512, directory / "data", options);
  }
  /// The documents as text.
  std::vector<std::string> documents(const PreparedData& prepared) {
    const TokenData data(prepared.shards);
    std::vector<std::string> texts;
    for (const Segment& s : data.documents()) {
      std::vector<Token> tokens(static_cast<std::size_t>(s.size()));
      data.copy(s.begin, s.size(), tokens.data());
      texts.push_back(tokenizer.decode(tokens));
    }
    return texts;
  }
  std::filesystem::path file(const char* name, std::string_view content) {
    write_plainly(directory / name, content);
    return directory / name;
  }
};

using Texts = std::vector<std::string>;

}  // namespace

TEST_CASE("A file's documents end at <|endoftext|>, at blank lines, or with the file") {
  Fixture f;
  const auto a = f.file("a.txt", "\n\nOne.\nTwo.\n\nThree.\n<|endoftext|>\nFour.");
  const auto b = f.file("b.txt", "Five.");
  CHECK(f.documents(f.prepare({a, b})) == Texts{"One.\nTwo.\n\nThree.\n", "Four.", "Five."});
  CHECK(f.documents(f.prepare({a, b}, {.document_end = DocumentEnd::blank_line})).size() == 3);
  CHECK(f.documents(f.prepare({b, a}, {.document_end = DocumentEnd::file}))[0] == "Five.");
  CHECK(f.prepare({b, a}, {.document_end = DocumentEnd::file}).documents == 2);
}

TEST_CASE("Blank lines end documents whichever way lines end") {
  Fixture f;
  const TextDataOptions options{.document_end = DocumentEnd::blank_line};
  CHECK(f.documents(f.prepare({f.file("n.txt", "One.\nTwo.\n\n\n\nThree.\n")}, options)) ==
        Texts{"One.\nTwo.", "Three.\n"});
  CHECK(f.documents(f.prepare({f.file("rn.txt", "One.\r\nTwo.\r\n\r\n\r\nThree.\r\n")}, options)) ==
        Texts{"One.\r\nTwo.", "Three.\r\n"});
}

TEST_CASE("Text that is not what was asked for is refused, and the shards stay") {
  Fixture f;
  const auto a = f.file("a.txt", "One."), b = f.file("b.txt", "Two.");
  const PreparedData before = f.prepare({a});
  CHECK(error_of([&] { f.prepare({b}, {.fingerprint = before.fingerprint}); }).find("data is another one") !=
        std::string::npos);
  CHECK(f.documents(before) == Texts{"One."});
  CHECK_FALSE(f.prepare({a}, {.fingerprint = before.fingerprint}).made);
}

TEST_CASE("JSON lines have a text each") {
  Fixture f;
  const auto a = f.file("a.jsonl", "{\"text\": \"One.\\nTwo.\", \"id\": 3}\n\n{\"text\": \"Three.\"}");
  CHECK(f.documents(f.prepare({a})) == Texts{"One.\nTwo.", "Three."});
  const auto error = [&](const char* content) { return error_of([&] { f.prepare({f.file("bad.jsonl", content)}); }); };
  CHECK(error("{\"text\": \"x\"}\n{\"txt\": \"y\"}").find("bad.jsonl:2: ") != std::string::npos);
  CHECK(error("{\"text\": 3}").find("\"text\" is the number 3") != std::string::npos);
  CHECK(error("[]").find("expected an object") != std::string::npos);
  CHECK(error("{").find("bad.jsonl:1") != std::string::npos);
  CHECK(error("\n\n").find("no text") != std::string::npos);
}

TEST_CASE("Documents carry the tokens that begin and end them") {
  Fixture f;
  const auto prepared = f.prepare({f.file("a.txt", "x<|endoftext|>y")}, {.bos = 7, .eos = 9});
  const TokenData data(prepared.shards);
  std::vector<Token> tokens(6);
  REQUIRE(data.size() == 6);
  data.copy(0, 6, tokens.data());
  CHECK((tokens[0] == 7 && tokens[2] == 9 && tokens[3] == 7 && tokens[5] == 9));
  CHECK(data.documents() == std::vector<Segment>{{0, 3}, {3, 6}});
}

TEST_CASE("A long document's pieces give the tokens of the whole") {
  Fixture f;
  std::string text;
  Random random(4);
  while (text.size() < 2'500'000) {
    const std::uint64_t n = random.below(9);
    text += n == 0   ? "\n"
            : n == 1 ? "\n\n  "
            : n == 2 ? " d\xc3\xa9j\xc3\xa0"
            : n == 3 ? "  x"
            : n == 4 ? " 12"
            : n == 5 ? "Word."
                     : " word";
  }
  const auto prepared = f.prepare({f.file("a.txt", text)}, {.shard_tokens = 100000});
  CHECK(prepared.documents == 1);
  CHECK(prepared.shards.size() > 5);
  text.erase(0, text.find_first_not_of('\n'));
  const TokenData data(prepared.shards);
  std::vector<Token> tokens(static_cast<std::size_t>(data.size()));
  data.copy(0, data.size(), tokens.data());
  const bool same = tokens == f.tokenizer.encode(text);
  CHECK(same);
}

TEST_CASE("A text without line ends is cut between characters") {
  Fixture f;
  std::string text;
  while (text.size() < 2'200'000) text += "\xe2\x82\xac ";
  const bool same = f.documents(f.prepare({f.file("a.txt", text)})) == Texts{text};
  CHECK(same);
}

TEST_CASE("Shards are made again only if the texts, the tokenizer or the options have changed") {
  Fixture f;
  const auto a = f.file("a.txt", "One.");
  CHECK(f.prepare({a}).made);
  const PreparedData again = f.prepare({a});
  CHECK_FALSE(again.made);
  CHECK(again.tokens > 0);
  CHECK(f.documents(again) == Texts{"One."});
  CHECK(f.prepare({a}, {.eos = 0}).made);
  f.file("a.txt", "Two.");
  CHECK(f.prepare({a}, {.eos = 0}).made);
  CHECK_FALSE(f.prepare({a}, {.eos = 0}).made);
  CHECK(count_files(f.directory / "data") == 2);
  std::filesystem::remove(f.directory / "data/tokens-00000.shard");
  CHECK(f.prepare({a}, {.eos = 0}).made);
}

TEST_CASE("What cannot be read is an error that names it") {
  Fixture f;
  CHECK(error_of([&] { f.prepare({f.directory / "missing.txt"}); }).find("missing.txt") != std::string::npos);
  CHECK_FALSE(error_of([&] { f.prepare({}); }).empty());
  write_plainly(f.directory / "a.txt", "x");
  write_plainly(f.directory / "file", "x");
  CHECK_FALSE(error_of([&] {
                prepare_text_data({f.directory / "a.txt"}, f.tokenizer, f.json, 512, f.directory / "file/data", {});
              }).empty());
  CHECK(error_of([&] {
          prepare_text_data({f.directory / "a.txt"}, f.tokenizer, f.json, 3, f.directory / "data", {});
        }).find("expected 0 to 2") != std::string::npos);
}
