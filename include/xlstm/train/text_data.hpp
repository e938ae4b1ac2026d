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
#include <utility>
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
  blank_line,   ///< a line without characters; lines end with \n or \r\n
  file          ///< nothing else
};

struct TextDataOptions {
  DocumentEnd document_end = DocumentEnd::end_of_text;
  std::optional<Token> bos = {};  ///< in front of every document
  std::optional<Token> eos = {};  ///< after every document
  Index shard_tokens = Index{1} << 25;
  /// Unless empty, what the texts, the tokenizer and these options must have; Error before anything is changed.
  std::string fingerprint = {};
  /// Called every so often with the bytes done and those to do, and the tokens made.
  std::function<void(std::size_t done, std::size_t total, Index tokens)> progress = {};
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
/// no other white space beside it, which pre-tokenisers keep as a piece of its own. (A tokenizer that puts something in
/// front of a text puts it in front of each piece.) Without one within reach anywhere between two characters.
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

/// How long the first document of `text` is, and where the next one begins.
inline std::pair<std::size_t, std::size_t> first_document(std::string_view text, DocumentEnd document_end) {
  constexpr std::string_view end_of_text = "<|endoftext|>";
  if (document_end == DocumentEnd::end_of_text) {
    const std::size_t end = std::min(text.find(end_of_text), text.size());
    return {end, std::min(end + end_of_text.size(), text.size())};
  }
  if (document_end == DocumentEnd::blank_line) {
    for (std::size_t end = text.find('\n'); end != std::string_view::npos; end = text.find('\n', end + 1)) {
      const std::string_view line = text.substr(end + 1, 2);
      const std::size_t length = end > 0 && text[end - 1] == '\r' ? end - 1 : end;
      if (line.starts_with('\n')) return {length, end + 2};
      if (line == "\r\n") return {length, end + 3};
    }
  }
  return {text.size(), text.size()};
}

inline bool is_json_lines(const std::filesystem::path& file) {
  return file.extension() == ".jsonl" || file.extension() == ".ndjson";
}

}  // namespace detail

/// Calls use(text, begins) for the documents of a file in order, in pieces of about a megabyte: `begins` is true for a
/// document's first piece. Files ending in .jsonl or .ndjson are JSON lines, objects with a "text"; all others are
/// text. A document's line ends at its beginning are dropped, and so are documents without anything else. Throws Error
/// naming file and line for what cannot be read. `at`, if given, is where in the file the piece in hand ends.
template <class Use>
void for_each_document(const std::filesystem::path& file, DocumentEnd document_end, Use&& use,
                       std::size_t* at = nullptr) {
  const io::MappedFile mapped(file, io::AccessPattern::sequential);
  const std::string_view all(reinterpret_cast<const char*>(mapped.data()), mapped.size());
  std::size_t ignored = 0;
  std::size_t& done = at != nullptr ? *at : ignored;
  const auto document = [&](std::string_view text, std::size_t begin, bool in_file) {
    constexpr std::size_t piece = std::size_t{1} << 20;
    const std::size_t first = text.find_first_not_of("\r\n");
    if (first == std::string_view::npos) return;
    std::size_t used = first;
    for (bool begins = true; used < text.size(); begins = false) {
      const std::size_t length = detail::piece_length(text.substr(used), piece);
      done = in_file ? begin + used + length : begin;
      use(text.substr(used, length), begins);
      used += length;
    }
  };
  if (detail::is_json_lines(file)) {
    Index line = 1;
    for (std::size_t begin = 0; begin < all.size(); ++line) {
      const std::size_t end = std::min(all.find('\n', begin), all.size());
      const std::string_view content = all.substr(begin, end - begin);
      begin = end + 1;
      if (content.find_first_not_of(" \t\r") == std::string_view::npos) continue;
      const std::string where = mapped.name() + ":" + std::to_string(line);
      const nlohmann::json object = io::parse_json(content, where);
      const nlohmann::json* text = object.is_object() ? io::find_key(object, "text") : nullptr;
      if (text == nullptr) fail(where, ": ", io::json_kind(object), ", expected an object with the key \"text\"");
      document(io::json_string(*text, where + ": \"text\""), end, false);
    }
    return;
  }
  for (std::size_t begin = 0; begin < all.size();) {
    const auto [length, next] = detail::first_document(all.substr(begin), document_end);
    document(all.substr(begin, length), begin, true);
    begin += next;
  }
}

namespace detail {

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
  if (!options.fingerprint.empty() && options.fingerprint != fingerprint) {
    fail(io::printable(directory.native()),
         ": data is another one: the text, the tokenizer or what ends a document has changed");
  }
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
  TokenShardWriter writer(directory, vocab_size, options.shard_tokens);
  const auto append = [&](const std::optional<Token>& token) {
    if (token) writer.append(std::span(&*token, 1));
  };
  std::size_t before = 0;
  for (const auto& file : files) {
    std::size_t at = 0;
    bool open = false;
    for_each_document(
        file, options.document_end,
        [&](std::string_view text, bool begins) {
          if (begins) {
            if (open) append(options.eos);
            writer.begin_document();
            append(options.bos);
            open = true;
          }
          writer.append(tokenizer.encode(text));
          if (options.progress) options.progress(before + at, total, writer.tokens());
        },
        &at);
    if (open) append(options.eos);
    before += io::open_regular_file(file).size;
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
