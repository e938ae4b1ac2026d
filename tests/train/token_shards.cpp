// SPDX-License-Identifier: Apache-2.0
#include "xlstm/train/token_shards.hpp"

#include "../io/temporary_directory.hpp"
#include "catch.hpp"

using namespace xlstm;

namespace {

std::vector<std::filesystem::path> write(const TemporaryDirectory& directory,
                                         const std::vector<std::vector<Token>>& documents, Index vocab_size,
                                         Index shard_tokens = 1000) {
  TokenShardWriter writer(directory.path(), vocab_size, shard_tokens);
  for (const auto& document : documents) {
    writer.begin_document();
    writer.append(document);
  }
  std::vector<std::filesystem::path> paths;
  for (const auto& name : writer.finish()) paths.push_back(directory / name);
  return paths;
}

std::vector<Token> read(const TokenData& data, Index first, Index count) {
  std::vector<Token> tokens(static_cast<std::size_t>(count));
  data.copy(first, count, tokens.data());
  return tokens;
}

}  // namespace

TEST_CASE("What is written is read, in 2 bytes a token or in 4") {
  const TemporaryDirectory directory;
  for (const Index vocab_size : {300, 65536, 65537, 1000000}) {
    const auto last = static_cast<Token>(vocab_size - 1);
    const auto files = write(directory, {{5, 6, 7}, {last}, {0, 1}}, vocab_size);
    REQUIRE(files.size() == 1);
    const TokenData data(files);
    CHECK(data.vocab_size() == vocab_size);
    CHECK(read(data, 0, 6) == std::vector<Token>{5, 6, 7, last, 0, 1});
    CHECK(data.documents() == std::vector<Segment>{{0, 3}, {3, 4}, {4, 6}});
    CHECK(std::filesystem::file_size(files[0]) == (vocab_size <= 65536 ? 64U + 16 + 24 : 64U + 24 + 24));
  }
}

TEST_CASE("Documents go on from one shard into the next") {
  const TemporaryDirectory directory;
  for (const Index shard_tokens : {1, 2, 3, 4, 7}) {
    const auto files = write(directory, {{1, 2, 3, 4, 5}, {}, {6}, {7, 8, 9}}, 10, shard_tokens);
    CHECK(static_cast<Index>(files.size()) == ceil_div(9, shard_tokens));
    const TokenData data(files);
    CHECK(data.documents() == std::vector<Segment>{{0, 5}, {5, 6}, {6, 9}});
    CHECK(read(data, 0, 9) == std::vector<Token>{1, 2, 3, 4, 5, 6, 7, 8, 9});
    CHECK(read(data, 4, 3) == std::vector<Token>{5, 6, 7});
  }
}

TEST_CASE("Tokens outside the vocabulary are refused when written") {
  const TemporaryDirectory directory;
  TokenShardWriter writer(directory.path(), 10);
  CHECK_FALSE(error_of([&] { writer.append(std::vector<Token>{3, 10}); }).empty());
  CHECK_FALSE(error_of([&] { writer.append(std::vector<Token>{-1}); }).empty());
  CHECK(count_files(directory.path()) == 0);
  CHECK(error_of([&] { TokenShardWriter(directory.path(), 10, 0); }) ==
        "token shards of 0 tokens, expected at least 1");
}

TEST_CASE("Every damaged byte and every cut is noticed") {
  const TemporaryDirectory directory;
  const auto files = write(directory, {{5, 6, 7}, {8}}, 300);
  const std::string good = read_plainly(files[0]);
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x11);
    write_plainly(directory / "bad", bad);
    INFO("byte " << i);
    CHECK_FALSE(error_of([&] { TokenShard shard(directory / "bad"); }).empty());
  }
  for (std::size_t size = 0; size < good.size(); ++size) {
    write_plainly(directory / "bad", good.substr(0, size));
    CHECK_FALSE(error_of([&] { TokenShard shard(directory / "bad"); }).empty());
  }
  write_plainly(directory / "bad", good + "x");
  CHECK_FALSE(error_of([&] { TokenShard shard(directory / "bad"); }).empty());
}

TEST_CASE("A shard whose checksum fits but whose content cannot be is refused") {
  const TemporaryDirectory directory;
  TokenShardHeader header;
  header.vocab_size = 4;
  const auto error = [&](std::vector<std::uint16_t> tokens, std::vector<std::uint64_t> starts, Index claimed = -1) {
    header.tokens = claimed >= 0 ? static_cast<std::uint64_t>(claimed) : tokens.size();
    header.documents = starts.size();
    tokens.resize((tokens.size() + 3) / 4 * 4);
    std::string content(reinterpret_cast<const char*>(tokens.data()), 2 * tokens.size());
    content.append(reinterpret_cast<const char*>(starts.data()), 8 * starts.size());
    header.checksum = detail::shard_checksum(header, std::as_bytes(std::span(content.data(), content.size())));
    write_plainly(directory / "shard", std::string(reinterpret_cast<const char*>(&header), sizeof header) + content);
    return error_of([&] { TokenShard shard(directory / "shard"); });
  };
  CHECK(error({0, 3}, {0, 1}).empty());
  CHECK(error({0, 4}, {0}).find("token 4 at 1") != std::string::npos);
  CHECK(error({0, 3}, {0, 2}).find("out of order") != std::string::npos);
  CHECK(error({0, 3}, {1, 1}).find("out of order") != std::string::npos);
  CHECK(error({0, 3}, {1, 0}).find("out of order") != std::string::npos);
  CHECK_FALSE(error({0, 3}, {0}, 5).empty());
  CHECK_FALSE(error({0, 3}, {0}, std::numeric_limits<Index>::max()).empty());
}

TEST_CASE("Shards of different vocabularies are no data") {
  const TemporaryDirectory a, b;
  auto files = write(a, {{1}}, 10);
  files.push_back(write(b, {{1}}, 11)[0]);
  CHECK(error_of([&] { TokenData data(files); }).find("vocabulary of 11") != std::string::npos);
  CHECK_FALSE(error_of([&] { TokenData data({}); }).empty());
}
