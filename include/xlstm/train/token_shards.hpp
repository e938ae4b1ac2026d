// SPDX-License-Identifier: Apache-2.0
// Tokens on disk, mapped into memory. A shard is a file, little-endian:
//
//     header, 64 bytes: char[8] "XLSTMTOK" · u32 version (1) · u32 bytes per token (2 or 4) · u64 vocabulary ·
//                       u64 tokens · u64 documents · u64 CRC-64/XZ of everything else · 16 zero bytes
//     tokens, zeros up to a multiple of 8 bytes
//     u64 for each document that starts in this shard: where
//
// Tokens before a shard's first document go on with the last document of the shard before.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/io/checksum.hpp"
#include "xlstm/io/file.hpp"

namespace xlstm {

static_assert(std::endian::native == std::endian::little, "xlstm: token shards are little-endian");

struct TokenShardHeader {
  std::array<char, 8> magic = {'X', 'L', 'S', 'T', 'M', 'T', 'O', 'K'};
  std::uint32_t version = 1;
  std::uint32_t token_bytes = 2;
  std::uint64_t vocab_size = 0;
  std::uint64_t tokens = 0;
  std::uint64_t documents = 0;
  std::uint64_t checksum = 0;
  std::array<std::uint64_t, 2> zero{};
};
static_assert(sizeof(TokenShardHeader) == 64);

namespace detail {
inline std::uint64_t shard_checksum(TokenShardHeader header, std::span<const std::byte> content) {
  header.checksum = 0;
  io::Checksum sum;
  sum.update(std::as_bytes(std::span(&header, 1)));
  sum.update(content);
  return sum.value();
}
}  // namespace detail

/// One shard in memory, for reading.
class TokenShard {
 public:
  /// Throws Error if the file is no shard, is damaged, or holds a token outside its vocabulary.
  explicit TokenShard(const std::filesystem::path& path) : file_(path, io::AccessPattern::sequential) {
    if (file_.size() < sizeof header_) fail(name(), ": ", file_.size(), " bytes are no token shard");
    std::memcpy(&header_, file_.data(), sizeof header_);
    if (header_.magic != TokenShardHeader{}.magic) fail(name(), ": is no token shard");
    if (header_.version != 1) fail(name(), ": shard of version ", header_.version, ", expected 1");
    if (header_.token_bytes != 2 && header_.token_bytes != 4) {
      fail(name(), ": ", header_.token_bytes, " bytes a token, expected 2 or 4");
    }
    const std::uint64_t content = file_.size() - sizeof header_;
    if (header_.tokens > content / header_.token_bytes || header_.documents > content / 8 ||
        padded_tokens() + header_.documents * 8 != content) {
      fail(name(), ": ", file_.size(), " bytes, which ", header_.tokens, " tokens and ", header_.documents,
           " documents do not make");
    }
    if (detail::shard_checksum(header_, file_.bytes().subspan(sizeof header_)) != header_.checksum) {
      fail(name(), ": is damaged (checksum)");
    }
    check_content();
    file_.advise(io::AccessPattern::normal);
  }

  const std::string& name() const { return file_.name(); }
  Index vocab_size() const { return static_cast<Index>(header_.vocab_size); }
  Index size() const { return static_cast<Index>(header_.tokens); }
  /// Where documents start, in ascending order.
  std::span<const std::uint64_t> documents() const {
    const std::byte* const at = file_.data() + sizeof header_ + padded_tokens();
    return {reinterpret_cast<const std::uint64_t*>(at), static_cast<std::size_t>(header_.documents)};
  }

  Token operator[](Index i) const {
    if (header_.token_bytes == 2) return tokens<std::uint16_t>()[i];
    return static_cast<Token>(tokens<std::uint32_t>()[i]);
  }
  /// Tokens [first, first + count) to `out`.
  void copy(Index first, Index count, Token* out) const {
    if (header_.token_bytes == 2) {
      std::copy_n(tokens<std::uint16_t>() + first, count, out);
    } else {
      std::transform(tokens<std::uint32_t>() + first, tokens<std::uint32_t>() + first + count, out,
                     [](std::uint32_t t) { return static_cast<Token>(t); });
    }
  }

 private:
  std::uint64_t padded_tokens() const { return (header_.tokens * header_.token_bytes + 7) / 8 * 8; }
  template <class T>
  const T* tokens() const {
    return reinterpret_cast<const T*>(file_.data() + sizeof header_);
  }
  template <class T>
  void check_tokens() const {
    for (Index i = 0; i < size(); ++i) {
      if (tokens<T>()[i] >= header_.vocab_size) {
        fail(name(), ": token ", tokens<T>()[i], " at ", i, ", expected less than ", header_.vocab_size);
      }
    }
  }
  void check_content() const {
    if (header_.vocab_size > std::uint64_t{1} << 31) fail(name(), ": a vocabulary of ", header_.vocab_size);
    header_.token_bytes == 2 ? check_tokens<std::uint16_t>() : check_tokens<std::uint32_t>();
    const auto starts = documents();
    for (std::size_t d = 0; d < starts.size(); ++d) {
      if (starts[d] >= header_.tokens || (d > 0 && starts[d] <= starts[d - 1])) {
        fail(name(), ": document ", d, " starts at ", starts[d], " of ", header_.tokens, " tokens, out of order");
      }
    }
  }

  io::MappedFile file_;
  TokenShardHeader header_;
};

/// Writes shards `tokens-00000.shard`, … of `shard_tokens` tokens each, so that memory is bounded.
class TokenShardWriter {
 public:
  TokenShardWriter(std::filesystem::path directory, Index vocab_size, Index shard_tokens = Index{1} << 25)
      : directory_(std::move(directory)), vocab_size_(vocab_size), shard_tokens_(shard_tokens) {
    if (shard_tokens < 1) fail("token shards of ", shard_tokens, " tokens, expected at least 1");
  }

  /// What follows belongs to a new document. A document without tokens is none.
  void begin_document() { document_begins_ = true; }

  /// Error if a token is outside the vocabulary.
  void append(std::span<const Token> tokens) {
    for (const Token token : tokens) {
      if (token < 0 || token >= vocab_size_) {
        fail(io::printable(directory_.native()), ": token ", token, ", expected 0 to ", vocab_size_ - 1);
      }
      if (std::exchange(document_begins_, false)) {
        starts_.push_back(tokens_.size());
        ++documents_;
      }
      tokens_.push_back(token);
      ++written_;
      if (static_cast<Index>(tokens_.size()) == shard_tokens_) flush();
    }
  }

  /// Writes the rest. Returns the names of the files in order.
  std::vector<std::string> finish() {
    if (!tokens_.empty()) flush();
    return std::move(names_);
  }

  Index tokens() const { return written_; }
  Index documents() const { return documents_; }

 private:
  void flush() {
    const bool narrow = vocab_size_ <= 65536;
    TokenShardHeader header;
    header.token_bytes = narrow ? 2 : 4;
    header.vocab_size = static_cast<std::uint64_t>(vocab_size_);
    header.tokens = tokens_.size();
    header.documents = starts_.size();
    std::vector<std::byte> content((tokens_.size() * header.token_bytes + 7) / 8 * 8 + starts_.size() * 8);
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      if (narrow) {
        const auto t = static_cast<std::uint16_t>(tokens_[i]);
        std::memcpy(&content[2 * i], &t, 2);
      } else {
        std::memcpy(&content[4 * i], &tokens_[i], 4);
      }
    }
    if (!starts_.empty()) {
      std::memcpy(content.data() + content.size() - starts_.size() * 8, starts_.data(), starts_.size() * 8);
    }
    header.checksum = detail::shard_checksum(header, content);
    std::string number = std::to_string(names_.size());
    number.insert(0, 5 - std::min<std::size_t>(5, number.size()), '0');
    names_.push_back("tokens-" + number + ".shard");
    io::AtomicFile file(directory_ / names_.back());
    file.write(std::as_bytes(std::span(&header, 1)));
    file.write(content);
    file.commit();
    tokens_.clear();
    starts_.clear();
  }

  std::filesystem::path directory_;
  Index vocab_size_;
  Index shard_tokens_;
  std::vector<Token> tokens_;
  std::vector<std::uint64_t> starts_;
  std::vector<std::string> names_;
  bool document_begins_ = true;
  Index written_ = 0;
  Index documents_ = 0;
};

/// A stretch of tokens that nothing outside of it precedes: a document, or a part of one.
struct Segment {
  Index begin = 0;
  Index end = 0;
  Index size() const { return end - begin; }
  friend bool operator==(const Segment&, const Segment&) = default;
};

/// Shards one after another as one sequence of tokens.
class TokenData {
 public:
  explicit TokenData(const std::vector<std::filesystem::path>& files) {
    for (const auto& file : files) {
      shards_.emplace_back(file);
      first_.push_back(size_);
      size_ += shards_.back().size();
      if (shards_.back().vocab_size() != shards_.front().vocab_size()) {
        fail(shards_.back().name(), ": a vocabulary of ", shards_.back().vocab_size(), ", but ", shards_.front().name(),
             " has one of ", shards_.front().vocab_size());
      }
    }
    if (size_ == 0) fail("training data: no tokens");
  }

  Index size() const { return size_; }
  Index vocab_size() const { return shards_.front().vocab_size(); }

  /// All documents in order; what comes before the first start is one too.
  std::vector<Segment> documents() const {
    std::vector<Segment> segments;
    const auto begin = [&](Index at) {
      if (!segments.empty()) segments.back().end = at;
      if (at < size_) segments.push_back({at, size_});
    };
    if (shards_.front().documents().empty() || shards_.front().documents()[0] != 0) begin(0);
    for (std::size_t s = 0; s < shards_.size(); ++s) {
      for (const std::uint64_t start : shards_[s].documents()) begin(first_[s] + static_cast<Index>(start));
    }
    return segments;
  }

  /// Tokens [first, first + count) to `out`, across shards.
  void copy(Index first, Index count, Token* out) const {
    auto s = static_cast<std::size_t>(std::upper_bound(first_.begin(), first_.end(), first) - first_.begin()) - 1;
    for (; count > 0; ++s) {
      const Index inside = first - first_[s];
      const Index n = std::min(count, shards_[s].size() - inside);
      shards_[s].copy(inside, n, out);
      first += n;
      out += n;
      count -= n;
    }
  }

 private:
  std::vector<TokenShard> shards_;
  std::vector<Index> first_;
  Index size_ = 0;
};

}  // namespace xlstm
