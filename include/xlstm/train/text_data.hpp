// SPDX-License-Identifier: Apache-2.0
// Text to token shards: plain text, a document a file or several with a separator, or JSON lines with a "text". Files
// are mapped and read once from front to back, long documents in pieces, so memory is bounded by the longest line and a
// shard. What a directory of shards was made from is in its manifest.json; it is made again only if that has changed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/io/checksum.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/io/json.hpp"
#include "xlstm/text/tokenizer.hpp"
#include "xlstm/train/token_shards.hpp"

namespace xlstm {

/// What ends a document in a text file, besides its end.
enum class DocumentEnd {
  end_of_text,  ///< the line or word <|endoftext|>
  blank_line,   ///< a line without characters
  file          ///< nothing else
};

struct TextDataOptions {
  DocumentEnd document_end = DocumentEnd::end_of_text;
  std::optional<Token> bos;  ///< in front of every document
  std::optional<Token> eos;  ///< after every document
  Index shard_tokens = Index{1} << 25;
  /// Called every so often with the bytes done and those to do, and the tokens made.
  std::function<void(std::size_t done, std::size_t total, Index tokens)> progress;
};

/// Shards that are ready.
struct PreparedData {
  std::vector<std::filesystem::path> shards;
  Index tokens = 0;
  Index documents = 0;
  std::string fingerprint;  ///< of texts, tokenizer and options
  bool made = false;        ///< false: they were there already
};

namespace detail {

/// Where to cut `text` so that its pieces, tokenised one by one, give the tokens of the whole: behind a line end with
/// no other white space beside it, which pre-tokenisers keep as a piece of its own. Without one within reach anywhere
/// between two characters.
inline std::size_t piece_length(std::string_view text, std::size_t wanted) {
  if (text.size() <= wanted) return text.size();
  const auto blank = [](char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t' || c == '\v' || c == '\f'; };
  const auto character = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
  const std::size_t limit = std::min(text.size() - 1, 4 * wanted);
  for (std::size_t i = wanted; i < limit; ++i) {
    const bool line_end = text[i - 1] == '\n' && i >= 2 && !blank(text[i - 2]) && !blank(text[i]);
    if (line_end && character(text[i - 2]) && character(text[i])) return i;
  }
  std::size_t cut = wanted;
  while (cut < text.size() && (static_cast<unsigned char>(text[cut]) & 0xc0U) == 0x80U) ++cut;
  return cut;
}

class TextDataWriter {
 public:
  TextDataWriter(const Tokenizer& tokenizer, const TextDataOptions& options, Index vocab_size,
                 const std::filesystem::path& directory, std::size_t total)
      : tokenizer_(&tokenizer),
        options_(&options),
        writer_(directory, vocab_size, options.shard_tokens),
        total_(total) {}

  void text_file(std::string_view text) {
    const std::string_view separator = options_->document_end == DocumentEnd::end_of_text  ? "<|endoftext|>"
                                       : options_->document_end == DocumentEnd::blank_line ? "\n\n"
                                                                                           : "";
    while (!text.empty()) {
      const std::size_t end = separator.empty() ? std::string_view::npos : text.find(separator);
      document(text.substr(0, end));
      if (end == std::string_view::npos) break;
      text.remove_prefix(end + separator.size());
      done_ += separator.size();
    }
  }

  void json_lines(std::string_view text, const std::string& name) {
    for (Index line = 1; !text.empty(); ++line) {
      const std::size_t end = std::min(text.find('\n'), text.size());
      const std::string_view content = text.substr(0, end);
      if (content.find_first_not_of(" \t\r") != std::string_view::npos) {
        const std::string where = name + ":" + std::to_string(line);
        const nlohmann::json object = io::parse_json(content, where);
        const nlohmann::json* value = object.is_object() ? io::find_key(object, "text") : nullptr;
        if (value == nullptr) fail(where, ": ", io::json_kind(object), ", expected an object with the key \"text\"");
        const std::size_t before = done_;
        document(io::json_string(*value, where + ": \"text\""));
        done_ = before;
      }
      done_ += end;
      text.remove_prefix(std::min(end + 1, text.size()));
    }
  }

  std::vector<std::string> finish() { return writer_.finish(); }
  Index tokens() const { return writer_.tokens(); }
  Index documents() const { return writer_.documents(); }

 private:
  void document(std::string_view text) {
    constexpr std::size_t piece = std::size_t{1} << 20;
    const std::size_t first = text.find_first_not_of('\n');
    if (first == std::string_view::npos) {
      done_ += text.size();
      return;
    }
    text.remove_prefix(first);
    done_ += first;
    writer_.begin_document();
    if (options_->bos) writer_.append(std::span(&*options_->bos, 1));
    while (!text.empty()) {
      const std::size_t length = piece_length(text, piece);
      writer_.append(tokenizer_->encode(text.substr(0, length)));
      text.remove_prefix(length);
      done_ += length;
      if (options_->progress) options_->progress(done_, total_, writer_.tokens());
    }
    if (options_->eos) writer_.append(std::span(&*options_->eos, 1));
  }

  const Tokenizer* tokenizer_;
  const TextDataOptions* options_;
  TokenShardWriter writer_;
  std::size_t total_;
  std::size_t done_ = 0;
};

inline bool is_json_lines(const std::filesystem::path& file) {
  return file.extension() == ".jsonl" || file.extension() == ".ndjson";
}

inline std::string hexadecimal(std::uint64_t value) {
  std::string text(16, '0');
  for (std::size_t i = 16; i-- > 0; value >>= 4) text[i] = "0123456789abcdef"[value & 15];
  return text;
}

inline std::string data_fingerprint(const std::vector<std::filesystem::path>& files, std::string_view tokenizer_json,
                                    const TextDataOptions& options, Index vocab_size) {
  io::Checksum sum;
  const auto number = [&](std::uint64_t n) { sum.update(std::as_bytes(std::span(&n, 1))); };
  const auto bytes = [&](std::span<const std::byte> content) {
    number(content.size());
    sum.update(content);
  };
  number(static_cast<std::uint64_t>(options.document_end));
  number(options.bos ? static_cast<std::uint64_t>(*options.bos) + 1 : 0);
  number(options.eos ? static_cast<std::uint64_t>(*options.eos) + 1 : 0);
  number(static_cast<std::uint64_t>(vocab_size));
  bytes(std::as_bytes(std::span(tokenizer_json.data(), tokenizer_json.size())));
  for (const auto& file : files) {
    number(is_json_lines(file) ? 1 : 0);
    bytes(io::MappedFile(file, io::AccessPattern::sequential).bytes());
  }
  return hexadecimal(sum.value());
}

/// The shards that a manifest names, or nothing where there is none or it was made from something else.
inline std::optional<PreparedData> read_manifest(const std::filesystem::path& directory, const std::string& wanted) {
  const std::filesystem::path path = directory / "manifest.json";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  const std::string name = io::printable(path.native());
  const nlohmann::json json = io::parse_json(io::read_text_file(path), name);
  const auto key = [&](const char* k) -> const nlohmann::json& {
    const nlohmann::json* value = json.is_object() ? io::find_key(json, k) : nullptr;
    if (value == nullptr) fail(name, ": key \"", k, "\" is missing; remove the file to tokenise the text again");
    return *value;
  };
  PreparedData data;
  data.fingerprint = io::json_string(key("fingerprint"), name + ": fingerprint");
  if (data.fingerprint != wanted) return std::nullopt;
  data.tokens = io::json_integer(key("tokens"), name + ": tokens", 0, std::numeric_limits<Index>::max());
  data.documents = io::json_integer(key("documents"), name + ": documents", 0, std::numeric_limits<Index>::max());
  for (const auto& shard : key("shards")) {
    data.shards.push_back(directory / std::filesystem::path(io::json_string(shard, name + ": shards")).filename());
    if (!std::filesystem::exists(data.shards.back(), ignored)) return std::nullopt;
  }
  return data;
}

}  // namespace detail

/// Tokenises `files` (.jsonl and .ndjson: JSON lines; all others: text) into shards in `directory`, unless exactly
/// these are there already. `tokenizer_json` is the text that `tokenizer` was read from; tokens must be below
/// `vocab_size`, the model's. Throws Error naming file and line for what cannot be read.
inline PreparedData prepare_text_data(const std::vector<std::filesystem::path>& files, const Tokenizer& tokenizer,
                                      std::string_view tokenizer_json, Index vocab_size,
                                      const std::filesystem::path& directory, const TextDataOptions& options = {}) {
  if (files.empty()) fail("training data: no file named");
  const std::string fingerprint = detail::data_fingerprint(files, tokenizer_json, options, vocab_size);
  if (auto ready = detail::read_manifest(directory, fingerprint)) return *ready;

  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) io::fail_with_errno(directory, "cannot be created", error.value());
  std::filesystem::remove(directory / "manifest.json", error);  // from here on the shards and it do not agree
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().native();
    const bool ours = name.ends_with(".shard") || (name.starts_with(".tokens-") && name.ends_with(".tmp"));
    if (ours) std::filesystem::remove(entry.path(), error);
  }

  std::size_t total = 0;
  for (const auto& file : files) total += io::open_regular_file(file).size;
  detail::TextDataWriter writer(tokenizer, options, vocab_size, directory, total);
  for (const auto& file : files) {
    const io::MappedFile mapped(file, io::AccessPattern::sequential);
    const std::string_view text(reinterpret_cast<const char*>(mapped.data()), mapped.size());
    detail::is_json_lines(file) ? writer.json_lines(text, mapped.name()) : writer.text_file(text);
  }
  const std::vector<std::string> names = writer.finish();
  PreparedData data{{}, writer.tokens(), writer.documents(), fingerprint, true};
  if (names.empty()) fail(io::printable(files.front().native()), ": no text in it");
  for (const std::string& name : names) data.shards.push_back(directory / name);
  io::AtomicFile manifest(directory / "manifest.json");
  manifest.write(nlohmann::json{{"fingerprint", fingerprint},
                                {"tokens", data.tokens},
                                {"documents", data.documents},
                                {"vocab_size", vocab_size},
                                {"shards", names}}
                     .dump(2) +
                 "\n");
  manifest.commit();
  return data;
}

}  // namespace xlstm
