// SPDX-License-Identifier: Apache-2.0
// tokenizer.json of byte-level byte-pair encodings (GPT-2, GPT-NeoX-20B, which xLSTM 7B uses, and their kin), the
// format of Hugging Face's tokenizers. A text becomes tokens in these steps, each a header of its own:
//   added tokens that are not normalised → normalizer → added tokens that are → pre_tokenizer → merges of bytes.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/io/json.hpp"
#include "xlstm/text/added_tokens.hpp"
#include "xlstm/text/byte_alphabet.hpp"
#include "xlstm/text/byte_pair_encoding.hpp"
#include "xlstm/text/json_field.hpp"
#include "xlstm/text/normalizer.hpp"
#include "xlstm/text/pre_tokenizer.hpp"
#include "xlstm/text/utf8.hpp"

namespace xlstm {

/// Turns text into tokens and back. Immutable: any number of threads may use one at the same time.
///
/// What a file may hold: a model of type BPE whose vocabulary has all 256 bytes; a normalizer and a pre_tokenizer that
/// normalizer.hpp and pre_tokenizer.hpp support; a ByteLevel decoder. Everything else is an Error that names the file,
/// the key, what was found and what is supported. "truncation" and "padding" are ignored, and so is the
/// post_processor: encode() adds no token, bos and eos are the caller's.
class Tokenizer {
 public:
  /// Reads a tokenizer.json. Error if it cannot be read or used.
  static Tokenizer load(const std::filesystem::path& file) {
    return parse(io::read_text_file(file, largest_file), file.string());
  }

  /// Reads the text of a tokenizer.json; `file_name` begins the messages of errors.
  static Tokenizer parse(std::string_view json, std::string_view file_name) {
    const nlohmann::json document = io::parse_json(json, file_name);
    return Tokenizer(JsonField(document, file_name));
  }

  /// The tokens of `text`. Bytes that are not UTF-8 are kept: each run of them is a piece of its own, which skips added
  /// tokens, normalizer and pre_tokenizer. So decode(encode(text)) is `text` again wherever the normalizer changes
  /// nothing, add_prefix_space is off, and no added token strips white space.
  std::vector<Token> encode(std::string_view text) const {
    std::vector<Token> tokens;
    Workspace workspace(pre_tokenizer_);
    while (!text.empty()) {
      const std::size_t valid = valid_utf8_prefix(text);
      encode_valid(text.substr(0, valid), tokens, workspace);
      text.remove_prefix(valid);
      std::size_t invalid = 0;
      while (invalid < text.size()) {
        const Utf8Step step = utf8_step(text.substr(invalid));
        if (step.kind == Utf8Step::Kind::character) break;
        invalid += step.length;
      }
      if (invalid > 0) merges_.append(text.substr(0, invalid), tokens, workspace.merges);
      text.remove_prefix(invalid);
    }
    return tokens;
  }

  /// The bytes of the tokens one after another, special tokens as their text. The bytes need not be UTF-8: a token may
  /// hold a part of a character. Error for a number that no token has.
  std::string decode(std::span<const Token> tokens) const {
    std::string text;
    for (const Token token : tokens) text.append(bytes_of(token));
    return text;
  }
  /// The bytes of one token. For text that is shown while it arrives see StreamDecoder: a token may end in the middle
  /// of a character.
  std::string decode(Token token) const { return std::string(bytes_of(token)); }

  /// The largest token's number and one.
  Index vocab_size() const { return static_cast<Index>(bytes_.size()); }

  /// Whether a token has this number. Models often have some more rows than their tokenizer has tokens.
  bool contains(Token token) const {
    return token >= 0 && token < vocab_size() && known_[static_cast<std::size_t>(token)];
  }

  /// The token with this spelling in the file: "<|endoftext|>", or "Ġthe" in the alphabet of bytes.
  std::optional<Token> token_of(std::string_view spelling) const {
    const auto found = tokens_.find(spelling);
    if (found == tokens_.end()) return std::nullopt;
    return found->second;
  }

  /// The bytes that a token stands for; valid as long as this tokenizer. Error for a number that no token has.
  std::string_view bytes_of(Token token) const {
    if (!contains(token))
      fail("token ", token, " is not in the vocabulary, expected a token from 0 to ", vocab_size() - 1);
    return bytes_[static_cast<std::size_t>(token)];
  }

 private:
  static constexpr std::size_t largest_file = std::size_t{1} << 28;

  struct Workspace {
    explicit Workspace(const PreTokenizer& pre_tokenizer) : pieces(pre_tokenizer) {}
    PreTokenizer::Workspace pieces;
    BytePairEncoding::Workspace merges;
  };

  explicit Tokenizer(const JsonField& file)
      : normalizer_(parse_normalizer(file)),
        pre_tokenizer_(PreTokenizer::parse(file.at("pre_tokenizer"))),
        merges_(std::array<Token, 256>{}) {
    check_model(file.at("model"));
    check_decoder(file.at("decoder"));
    check_post_processor(file);
    const JsonField vocab = file.at("model").at("vocab");
    const auto added = parse_added_tokens(file);
    make_table(vocab.object(), added);
    read_merges(file.at("model"), vocab);
    StringMap<bool> seen;
    for (const auto& [token, field] : added) {
      if (!seen.emplace(token.content, true).second) {
        field.at("content").fail_expected("a content that no other added token has");
      }
      add(token, field);
    }
  }

  static TextNormalizer parse_normalizer(const JsonField& file) {
    const auto field = file.find("normalizer");
    return field ? TextNormalizer::parse(*field) : TextNormalizer();
  }

  static void check_model(const JsonField& model) {
    const auto type = model.find("type");
    if (type && type->string() != "BPE") type->fail_expected("BPE");
    if (const auto dropout = model.find("dropout")) {
      if (!dropout->value().is_number() || dropout->value().get<double>() != 0) dropout->fail_expected("null or 0");
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const auto affix = model.find(key);
      if (affix && !affix->string().empty()) affix->fail_expected("null or \"\", as byte-level encodings have it");
    }
  }

  static void check_decoder(const JsonField& decoder) {
    const JsonField type = decoder.at("type");
    if (type.string() != "ByteLevel") type.fail_expected("ByteLevel");
  }

  static void check_post_processor(const JsonField& file) {
    const auto post_processor = file.find("post_processor");
    if (post_processor) check_post_processor_type(*post_processor);
  }

  static void check_post_processor_type(const JsonField& field) {
    const JsonField type = field.at("type");
    if (type.string() == "Sequence") {
      const JsonField parts = field.at("processors");
      for (Index i = 0; i < parts.array().size(); ++i) check_post_processor_type(parts.element(i));
    } else if (type.string() != "ByteLevel" && type.string() != "TemplateProcessing") {
      type.fail_expected("ByteLevel, TemplateProcessing or a Sequence of them");
    }
  }

  static std::vector<std::pair<AddedToken, JsonField>> parse_added_tokens(const JsonField& file) {
    std::vector<std::pair<AddedToken, JsonField>> added;
    if (const auto list = file.find("added_tokens")) {
      for (Index i = 0; i < list->array().size(); ++i) {
        const JsonField field = list->element(i);
        added.emplace_back(AddedToken::parse(field), field);
      }
    }
    return added;
  }

  // Fills bytes_, known_ and tokens_ from the vocabulary and makes room for the added tokens. The largest number is
  // bounded by the count of tokens, so that a table of this size is never much larger than the file.
  void make_table(const JsonField& vocab, const std::vector<std::pair<AddedToken, JsonField>>& added) {
    const Index limit = 4 * (vocab.size() + static_cast<Index>(added.size())) + 65536;
    const auto check_range = [&](const JsonField& field) {
      const Token id = field.token();
      if (id >= limit) field.fail_expected("less than " + std::to_string(limit) + ", for so few tokens");
      const auto size = static_cast<std::size_t>(id) + 1;
      if (size > bytes_.size()) {
        bytes_.resize(size);
        known_.resize(size);
      }
      return static_cast<std::size_t>(id);
    };
    for (const auto& [token, field] : added) check_range(field.at("id"));
    for (const auto& [spelling, id] : vocab.value().items()) {
      const JsonField field(id, vocab.file(), "model.vocab[\"" + spelling + "\"]");
      const std::size_t i = check_range(field);
      if (known_[i]) field.fail_expected("a number that no other token has");
      known_[i] = true;
      // A spelling outside the alphabet stands for itself, as in the reference decoder.
      bytes_[i] = byte_alphabet::read(spelling).value_or(spelling);
      tokens_.emplace(spelling, static_cast<Token>(i));
    }
  }

  void read_merges(const JsonField& model, const JsonField& vocab) {
    std::array<Token, 256> byte_tokens{};
    for (unsigned byte = 0; byte < 256; ++byte) {
      std::string spelling;
      append_utf8(spelling, byte_alphabet::characters[byte]);
      const auto token = token_of(spelling);
      if (!token) vocab.fail_expected("a token for each of the 256 bytes; \"" + spelling + "\" is missing");
      byte_tokens[byte] = *token;
    }
    merges_ = BytePairEncoding(byte_tokens);
    const JsonField list = model.at("merges");
    std::string merged;
    for (Index i = 0; i < list.array().size(); ++i) {
      const JsonField field = list.element(i);
      const auto [left, right] = pair_of(field);
      merged.assign(left).append(right);
      const auto a = token_of(left), b = token_of(right), c = token_of(merged);
      if (!a || !b || !c) field.fail_expected("two tokens of the vocabulary that together are a third");
      merges_.add_merge(*a, *b, *c);
    }
    if (model.boolean_or("ignore_merges", false)) {
      StringMap<Token> whole;
      for (const auto& [spelling, token] : tokens_) {
        if (auto bytes = byte_alphabet::read(spelling)) whole.emplace(*std::move(bytes), token);
      }
      merges_.use_whole_pieces(std::move(whole));
    }
  }

  // A merge is written "left right" or ["left", "right"].
  static std::pair<std::string_view, std::string_view> pair_of(const JsonField& field) {
    if (field.is_array()) {
      const auto& pair = field.value();
      if (pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) field.fail_expected("a pair of strings");
      return {pair[0].get_ref<const std::string&>(), pair[1].get_ref<const std::string&>()};
    }
    const std::string_view text = field.string();
    const std::size_t blank = text.find(' ');
    if (blank == text.npos || text.find(' ', blank + 1) != text.npos) {
      field.fail_expected("two tokens with one blank between them");
    }
    return {text.substr(0, blank), text.substr(blank + 1)};
  }

  void add(const AddedToken& token, const JsonField& field) {
    const auto i = static_cast<std::size_t>(token.id);
    const auto same = tokens_.find(token.content);
    if (same == tokens_.end()) {
      if (known_[i]) field.at("id").fail_expected("a number that no other token has");
      known_[i] = true;
      bytes_[i] = token.content;
      tokens_.emplace(token.content, token.id);
    } else if (same->second != token.id) {
      field.at("id").fail_expected(std::to_string(same->second) + ", which \"" + token.content + "\" has already");
    }
    if (token.normalized) {
      std::string pattern = token.content;
      normalizer_.apply(pattern);
      normalized_search_.add(pattern, token);
    } else {
      plain_search_.add(token.content, token);
    }
  }

  void encode_valid(std::string_view text, std::vector<Token>& tokens, Workspace& workspace) const {
    const auto on_token = [&](Token token) { tokens.push_back(token); };
    const auto on_piece = [&](std::string_view piece) { merges_.append(piece, tokens, workspace.merges); };
    const auto on_normalized = [&](std::string_view piece) { pre_tokenizer_.split(piece, workspace.pieces, on_piece); };
    const auto on_text = [&](std::string_view piece) {
      if (normalizer_.empty()) {
        normalized_search_.split(piece, on_normalized, on_token);
      } else {
        std::string changed(piece);
        normalizer_.apply(changed);
        normalized_search_.split(changed, on_normalized, on_token);
      }
    };
    plain_search_.split(text, on_text, on_token);
  }

  TextNormalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  BytePairEncoding merges_;
  AddedTokenSearch plain_search_, normalized_search_;
  std::vector<std::string> bytes_;  // of each token, by its number
  std::vector<bool> known_;         // whether a token has this number
  StringMap<Token> tokens_;         // by spelling
};

}  // namespace xlstm
