// SPDX-License-Identifier: Apache-2.0
// Learns a byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019) and writes it as tokenizer.json:
// starting from the 256 bytes, the most frequent pair of neighbours becomes a token, again and again. Counts of pairs
// are kept up to date merge by merge, and a priority queue knows the most frequent one.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/io/printable.hpp"
#include "xlstm/text/added_tokens.hpp"
#include "xlstm/text/byte_alphabet.hpp"
#include "xlstm/text/byte_pair_encoding.hpp"
#include "xlstm/text/normalizer.hpp"
#include "xlstm/text/pre_tokenizer.hpp"
#include "xlstm/text/utf8.hpp"

namespace xlstm {

struct BpeTrainerOptions {
  Index vocab_size = 4096;                                      ///< tokens in all, special ones and bytes included
  std::vector<std::string> special_tokens = {"<|endoftext|>"};  ///< get the first numbers
  Index min_frequency = 1;                                      ///< rarer pairs are not merged
};

/// Trains a tokenizer with NFC and GPT-2's pattern, as GPT-NeoX-20B's has them. Numbers: special tokens, then the bytes
/// in the order of their characters, then the merges. The same texts give the same file, in whatever order they come,
/// and the tokens and merges are those of Hugging Face's BpeTrainer (of equally frequent pairs the one with the lower
/// numbers is merged first), unless a pair occurs more than 2^31 times.
class BpeTrainer {
 public:
  /// Error for options that cannot be met.
  explicit BpeTrainer(BpeTrainerOptions options) : options_(std::move(options)) {
    const auto fixed = static_cast<Index>(options_.special_tokens.size()) + 256;
    if (options_.vocab_size < fixed || options_.vocab_size > largest_vocabulary) {
      fail("tokenizer training: vocab_size is ", options_.vocab_size, ", expected ", fixed,
           " (special tokens and bytes) to ", largest_vocabulary);
    }
    if (options_.min_frequency < 1) {
      fail("tokenizer training: min_frequency is ", options_.min_frequency, ", expected at least 1");
    }
    for (const std::string& token : options_.special_tokens) add_special_token(token);
    std::vector<char32_t> characters(byte_alphabet::characters.begin(), byte_alphabet::characters.end());
    std::sort(characters.begin(), characters.end());
    for (const char32_t character : characters) {
      std::string spelling;
      append_utf8(spelling, character);
      byte_tokens_[static_cast<std::size_t>(byte_alphabet::bytes[character])] = add_token(spelling);
    }
  }

  /// Counts the pieces of a text. Bytes that are not UTF-8 are pieces of their own, as Tokenizer::encode takes them.
  void add(std::string_view text) {
    PreTokenizer::Workspace workspace(pre_tokenizer_);
    while (!text.empty()) {
      const std::size_t valid = valid_utf8_prefix(text);
      std::string normal(text.substr(0, valid));
      normalizer_.apply(normal);
      pre_tokenizer_.split(normal, workspace, [&](std::string_view piece) { count(piece); });
      text.remove_prefix(valid);
      std::size_t invalid = 0;
      while (invalid < text.size() && utf8_step(text.substr(invalid)).kind != Utf8Step::Kind::character) {
        invalid += utf8_step(text.substr(invalid)).length;
      }
      if (invalid > 0) count(text.substr(0, invalid));
      text.remove_prefix(invalid);
    }
  }

  /// Learns the merges from the texts added so far and returns the tokenizer.json. There are fewer tokens than
  /// vocab_size where the texts have no more pairs. Call it once.
  std::string train() {
    split_words();
    count_pairs();
    while (static_cast<Index>(spellings_.size()) < options_.vocab_size && merge_most_frequent()) {
    }
    return json();
  }

  /// train(), into a file that is there completely or not at all.
  void train_to(const std::filesystem::path& file) {
    io::AtomicFile out(file);
    out.write(train());
    out.commit();
  }

 private:
  using Pair = std::pair<Token, Token>;
  struct PairHash {
    std::size_t operator()(const Pair& pair) const {
      std::uint64_t key =
          std::uint64_t{static_cast<std::uint32_t>(pair.first)} << 32 | static_cast<std::uint32_t>(pair.second);
      return static_cast<std::size_t>(splitmix64(key));
    }
  };
  using Places = std::vector<std::uint32_t>;  // the words where a pair occurs
  struct Candidate {
    Index count;
    Pair pair;
    Places words;
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };
  struct Word {
    std::vector<Token> tokens;
    Index count;
  };

  static constexpr Index largest_vocabulary = Index{1} << 24;

  Token add_token(const std::string& spelling) {
    const auto [place, is_new] = tokens_.emplace(spelling, static_cast<Token>(spellings_.size()));
    if (is_new) spellings_.push_back(spelling);
    return place->second;
  }

  void add_special_token(const std::string& token) {
    const auto wrong = [&](std::string_view expected) {
      fail("tokenizer training: special token \"", io::printable(token), "\", expected ", expected);
    };
    if (token.empty() || token.size() > AddedToken::longest) wrong("1 to 1024 bytes");
    if (valid_utf8_prefix(token) != token.size()) wrong("valid UTF-8");
    const auto bytes = byte_alphabet::read(token);
    if (bytes && bytes->size() == 1) wrong("more than one character of the alphabet of bytes");
    if (tokens_.contains(token)) wrong("each only once");
    add_token(token);
  }

  void count(std::string_view piece) {
    const auto found = counts_.find(piece);
    if (found != counts_.end()) {
      ++found->second;
    } else {
      counts_.emplace(piece, 1);
    }
  }

  void split_words() {
    for (const auto& [piece, count] : counts_) {
      Word word{{}, count};
      for (const char byte : piece) word.tokens.push_back(byte_tokens_[static_cast<std::uint8_t>(byte)]);
      words_.push_back(std::move(word));
    }
    counts_.clear();
  }

  void count_pairs() {
    std::unordered_map<Pair, Places, PairHash> places;
    for (std::size_t w = 0; w < words_.size(); ++w) {
      const auto& tokens = words_[w].tokens;
      for (std::size_t i = 0; i + 1 < tokens.size(); ++i) change(places, {tokens[i], tokens[i + 1]}, 1, w);
    }
    enqueue(std::move(places));
  }

  // A pair occurs once more or once less in word w; where it is new there, the word is noted in `places`.
  void change(std::unordered_map<Pair, Places, PairHash>& places, const Pair& pair, Index by, std::size_t w) {
    pair_counts_[pair] += by * words_[w].count;
    if (by < 0) return;
    Places& words = places[pair];
    if (words.empty() || words.back() != w) words.push_back(static_cast<std::uint32_t>(w));
  }

  void enqueue(std::unordered_map<Pair, Places, PairHash>&& places) {
    for (auto& [pair, words] : places) {
      const Index count = pair_counts_[pair];
      if (count > 0) queue_.push_back({count, pair, std::move(words)});
      if (count > 0) std::push_heap(queue_.begin(), queue_.end());
    }
  }

  // Returns false where no pair is frequent enough.
  bool merge_most_frequent() {
    Candidate best;
    while (true) {
      if (queue_.empty()) return false;
      std::pop_heap(queue_.begin(), queue_.end());
      best = std::move(queue_.back());
      queue_.pop_back();
      const Index count = pair_counts_[best.pair];
      if (count == best.count) break;
      best.count = count;  // has become rarer since it was queued
      if (count <= 0) continue;
      queue_.push_back(std::move(best));
      std::push_heap(queue_.begin(), queue_.end());
    }
    if (best.count < options_.min_frequency) return false;
    const auto spelling = [&](Token token) { return spellings_[static_cast<std::size_t>(token)]; };
    const Token merged = add_token(spelling(best.pair.first) + spelling(best.pair.second));
    merges_.push_back(best.pair);
    std::unordered_map<Pair, Places, PairHash> places;
    for (const std::uint32_t w : best.words) merge_in_word(best.pair, merged, w, places);
    enqueue(std::move(places));
    return true;
  }

  void merge_in_word(const Pair& pair, Token merged, std::size_t w,
                     std::unordered_map<Pair, Places, PairHash>& places) {
    auto& tokens = words_[w].tokens;
    std::size_t out = 0;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i] != pair.first || i + 1 == tokens.size() || tokens[i + 1] != pair.second) {
        tokens[out++] = tokens[i];
        continue;
      }
      if (out > 0) {
        change(places, {tokens[out - 1], pair.first}, -1, w);
        change(places, {tokens[out - 1], merged}, 1, w);
      }
      if (i + 2 < tokens.size()) {
        change(places, {pair.second, tokens[i + 2]}, -1, w);
        change(places, {merged, tokens[i + 2]}, 1, w);
      }
      tokens[out++] = merged;
      ++i;
    }
    tokens.resize(out);
  }

  std::string json() const {
    using Json = nlohmann::ordered_json;
    const auto byte_level = [](bool add_prefix_space) {
      return Json{
          {"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}, {"trim_offsets", true}, {"use_regex", true}};
    };
    Json added = Json::array(), merges = Json::array();
    for (std::size_t i = 0; i < options_.special_tokens.size(); ++i) {
      added.push_back({{"id", i},
                       {"content", options_.special_tokens[i]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", true}});
    }
    for (const auto& [left, right] : merges_) {
      merges.push_back({spellings_[static_cast<std::size_t>(left)], spellings_[static_cast<std::size_t>(right)]});
    }
    // ordered_json looks for a key among all before it when it adds one; the vocabulary is made as the vector it is.
    Json::object_t vocab;
    for (std::size_t i = 0; i < spellings_.size(); ++i) vocab.Json::object_t::Container::emplace_back(spellings_[i], i);
    Json model{{"type", "BPE"},
               {"dropout", nullptr},
               {"unk_token", nullptr},
               {"continuing_subword_prefix", nullptr},
               {"end_of_word_suffix", nullptr},
               {"fuse_unk", false},
               {"byte_fallback", false},
               {"ignore_merges", false},
               {"vocab", std::move(vocab)},
               {"merges", std::move(merges)}};
    const Json file{{"version", "1.0"},
                    {"truncation", nullptr},
                    {"padding", nullptr},
                    {"added_tokens", std::move(added)},
                    {"normalizer", {{"type", "NFC"}}},
                    {"pre_tokenizer", byte_level(false)},
                    {"post_processor", byte_level(false)},
                    {"decoder", byte_level(true)},
                    {"model", std::move(model)}};
    return file.dump(2) + "\n";
  }

  BpeTrainerOptions options_;
  TextNormalizer normalizer_ = TextNormalizer::of(NormalForm::nfc);
  PreTokenizer pre_tokenizer_ = PreTokenizer::gpt2();
  std::array<Token, 256> byte_tokens_{};
  StringMap<Index> counts_;  // of the pieces
  StringMap<Token> tokens_;
  std::vector<std::string> spellings_;  // by number
  std::vector<Word> words_;
  std::unordered_map<Pair, Index, PairHash> pair_counts_;
  std::vector<Candidate> queue_;  // a heap; counts may be out of date, never too low
  std::vector<Pair> merges_;
};

}  // namespace xlstm
