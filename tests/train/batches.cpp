// SPDX-License-Identifier: Apache-2.0
#include "xlstm/train/batches.hpp"

#include <map>
#include <optional>
#include <set>

#include "../io/temporary_directory.hpp"
#include "catch.hpp"

using namespace xlstm;

namespace {

/// Documents of the given sizes; token number t of all is t.
struct Numbered {
  explicit Numbered(const std::vector<Index>& sizes) {
    TokenShardWriter writer(directory.path(), 100000, 64);
    Token next = 0;
    for (const Index size : sizes) {
      writer.begin_document();
      for (Index i = 0; i < size; ++i) {
        const Token token = next++;
        writer.append(std::span(&token, 1));
      }
    }
    std::vector<std::filesystem::path> paths;
    for (const auto& name : writer.finish()) paths.push_back(directory / name);
    data.emplace(paths);
  }
  TemporaryDirectory directory;
  std::optional<TokenData> data;
};

std::vector<Index> some_sizes() {
  std::vector<Index> sizes;
  Random random(3);
  for (int i = 0; i < 40; ++i) sizes.push_back(1 + static_cast<Index>(random.below(30)));
  return sizes;
}

std::set<Index> starts_of(const std::vector<Segment>& segments) {
  std::set<Index> starts;
  for (const Segment& s : segments) starts.insert(s.begin);
  return starts;
}

/// What holds for every batch of numbered documents.
void check_rows(BatchBuffer& batch, const std::vector<Segment>& segments) {
  const std::set<Index> starts = starts_of(segments);
  for (Index b = 0; b < batch.sequences(); ++b) {
    const auto tokens = batch.tokens(b);
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      CHECK((batch.starts(b)[t] != 0) == (starts.count(tokens[t]) != 0));
      if (t > 0 && batch.starts(b)[t] == 0) CHECK(tokens[t] == tokens[t - 1] + 1);
      const Token target = batch.targets(b)[t];
      if (target == ignored_target) {  // a document's last token
        bool last = false;
        for (const Segment& s : segments) last |= s.end == tokens[t] + 1;
        CHECK(last);
      } else {
        CHECK(target == tokens[t] + 1);
        if (t + 1 < tokens.size()) CHECK(tokens[t + 1] == target);
      }
    }
  }
}

}  // namespace

TEST_CASE("Rows hold whole stretches of documents, marked where one starts, never predicting across a border") {
  const Numbered numbered(some_sizes());
  const auto segments = numbered.data->documents();
  for (const Index length : {1, 2, 7, 64}) {
    PackedRows rows(*numbered.data, segments, length, 5);
    BatchBuffer batch(3, length);
    for (int i = 0; i < 30; ++i) {
      rows.next(batch);
      check_rows(batch, segments);
    }
  }
}

TEST_CASE("An epoch hands out every token at most once, and all but less than two rows of them") {
  const Numbered numbered(some_sizes());
  PackedRows rows(*numbered.data, numbered.data->documents(), 10, 1);
  for (int epoch = 0; epoch < 3; ++epoch) {
    std::map<Token, int> seen;
    BatchBuffer batch(1, 10);
    CHECK(rows.position().row % rows.rows_in_epoch() == 0);
    const Index count = rows.rows_in_epoch();
    for (Index r = 0; r < count; ++r) {
      rows.next(batch);
      for (const Token t : batch.tokens(0)) CHECK(++seen[t] == 1);
      CHECK(rows.position().epoch == epoch);
    }
    CHECK(static_cast<Index>(seen.size()) > rows.tokens() - 20);
    BatchBuffer probe(1, 10);
    const DataPosition end = rows.position();
    rows.next(probe);
    CHECK(rows.position() == DataPosition{epoch + 1, 1});
    rows.set_position(end);
    rows.set_position({epoch + 1, 0});
  }
}

TEST_CASE("The order depends on the seed and the epoch, and on nothing else") {
  const Numbered numbered(some_sizes());
  const auto first_rows = [&](std::uint64_t seed, Index epoch) {
    PackedRows rows(*numbered.data, numbered.data->documents(), 8, seed);
    rows.set_position({epoch, 0});
    BatchBuffer batch(4, 8);
    rows.next(batch);
    const auto view = batch.view();
    return std::vector<Token>(view.tokens.begin(), view.tokens.end());
  };
  CHECK(first_rows(1, 0) == first_rows(1, 0));
  CHECK(first_rows(1, 0) != first_rows(2, 0));
  CHECK(first_rows(1, 0) != first_rows(1, 1));
}

TEST_CASE("A stream set to a position goes on like one that was there") {
  const Numbered numbered(some_sizes());
  PackedRows rows(*numbered.data, numbered.data->documents(), 9, 4);
  BatchBuffer batch(4, 9), again(4, 9);
  for (int i = 0; i < 50; ++i) {
    const DataPosition before = rows.position();
    rows.next(batch);
    PackedRows other(*numbered.data, numbered.data->documents(), 9, 4);
    other.set_position(before);
    other.next(again);
    const Batch a = batch.view(), b = again.view();
    REQUIRE(std::equal(a.tokens.begin(), a.tokens.end(), b.tokens.begin()));
    REQUIRE(std::equal(a.targets.begin(), a.targets.end(), b.targets.begin()));
    REQUIRE(std::equal(a.starts, a.starts + 36, b.starts));
    REQUIRE(other.position() == rows.position());
  }
}

TEST_CASE("A position that does not exist is refused, and the stream goes on as if it had not been asked") {
  const Numbered numbered(some_sizes());
  PackedRows rows(*numbered.data, numbered.data->documents(), 9, 4);
  PackedRows untouched(*numbered.data, numbered.data->documents(), 9, 4);
  BatchBuffer batch(4, 9), expected(4, 9);
  rows.next(batch);
  untouched.next(expected);
  for (const DataPosition wrong : {DataPosition{0, 100000}, DataPosition{3, -1}, DataPosition{-1, 0}}) {
    CHECK_FALSE(error_of([&] { rows.set_position(wrong); }).empty());
    CHECK(rows.position() == untouched.position());
    CHECK(rows.rows_in_epoch() == untouched.rows_in_epoch());
  }
  rows.next(batch);
  untouched.next(expected);
  const Batch a = batch.view(), b = expected.view();
  CHECK(std::equal(a.tokens.begin(), a.tokens.end(), b.tokens.begin()));
}

TEST_CASE("Validation reads every token in order once, the last row filled up") {
  const Numbered numbered({5, 4, 3});
  PackedRows rows(*numbered.data, numbered.data->documents(), 5, 0, false);
  CHECK(rows.rows_in_epoch() == 3);
  BatchBuffer batch(3, 5);
  rows.next(batch);
  const Batch view = batch.view();
  CHECK(std::vector<Token>(view.tokens.begin(), view.tokens.end()) ==
        std::vector<Token>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 0, 0});
  CHECK(std::vector<Token>(view.targets.begin(), view.targets.end()) ==
        std::vector<Token>{1, 2, 3, 4, -1, 6, 7, 8, -1, 10, 11, -1, -1, -1, -1});
  CHECK(std::vector<int>(view.starts, view.starts + 15) ==
        std::vector<int>{1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0});
}

TEST_CASE("The split is the seed's, keeps about the fraction, and gives every token to one side") {
  Numbered numbered(std::vector<Index>(200, 10));
  const auto documents = numbered.data->documents();
  const DataSplit split = split_data(documents, 0.1, 7);
  CHECK(split.validation.size() == 20);
  CHECK(split.training.size() == 180);
  std::set<Index> all = starts_of(split.training);
  for (const Index start : starts_of(split.validation)) CHECK(all.insert(start).second);
  CHECK(all.size() == 200);
  CHECK(split_data(documents, 0.1, 7).validation == split.validation);
  CHECK(split_data(documents, 0.1, 8).validation != split.validation);
  CHECK(split_data(documents, 0, 7).validation.empty());
}

TEST_CASE("Of few documents the end is kept, and a document may be cut") {
  const std::vector<Segment> documents = {{0, 60}, {60, 100}};
  const DataSplit split = split_data(documents, 0.1, 7);
  CHECK(split.training == std::vector<Segment>{{0, 60}, {60, 90}});
  CHECK(split.validation == std::vector<Segment>{{90, 100}});
  CHECK(split_data(documents, 0.5, 7).validation == std::vector<Segment>{{50, 60}, {60, 100}});
  CHECK_FALSE(error_of([&] { split_data(documents, 1.0, 7); }).empty());
}

TEST_CASE("A batch of rows of another length is an error") {
  const Numbered numbered(some_sizes());
  PackedRows rows(*numbered.data, numbered.data->documents(), 16, 1);
  BatchBuffer shorter(2, 15), longer(2, 17);
  CHECK(error_of([&] { rows.next(shorter); }).find("rows of 15 tokens, expected 16") != std::string::npos);
  CHECK(error_of([&] { rows.next(longer); }).find("rows of 17 tokens, expected 16") != std::string::npos);
  CHECK(rows.position() == DataPosition{});
}

TEST_CASE("Too little text for a row is an error") {
  const Numbered numbered({5, 4});
  CHECK_NOTHROW(PackedRows(*numbered.data, numbered.data->documents(), 8, 0));
  CHECK_FALSE(error_of([&] { PackedRows(*numbered.data, numbered.data->documents(), 9, 0); }).empty());
  CHECK_FALSE(error_of([&] { PackedRows(*numbered.data, numbered.data->documents(), 0, 0); }).empty());
  CHECK_FALSE(error_of([&] { PackedRows(*numbered.data, {}, 8, 0, false); }).empty());
}
