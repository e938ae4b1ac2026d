// SPDX-License-Identifier: Apache-2.0
// Documents packed into rows of training batches. In every epoch the documents are put one after another in an order
// drawn from seed and epoch, the stream is cut into rows of `length` tokens from a drawn offset on, and the rows are
// drawn in any order. What comes out depends on data, options and position alone, and a position is two numbers.
#pragma once

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/train/batch.hpp"
#include "xlstm/train/token_shards.hpp"

namespace xlstm {

/// Where a stream of batches stands: what a checkpoint needs to go on.
struct DataPosition {
  Index epoch = 0;
  Index row = 0;  ///< rows of this epoch that were handed out
  friend bool operator==(const DataPosition&, const DataPosition&) = default;
};

/// Documents for training and those kept for validation.
struct DataSplit {
  std::vector<Segment> training;
  std::vector<Segment> validation;
};

namespace detail {
/// Fisher–Yates with our own numbers, so that every machine shuffles alike.
template <class T>
void shuffle(std::vector<T>& values, Random& random) {
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random.below(i)]);
}
inline Random random_of(std::uint64_t seed, std::uint64_t stream) {
  std::uint64_t mixed = seed;
  splitmix64(mixed);
  return Random(mixed ^ (0x9e3779b97f4a7c15U * (stream + 1)));
}
}  // namespace detail

/// Keeps about `fraction` of the tokens for validation: documents drawn by the seed, or, where there are so few that
/// they could miss the fraction by far (fewer than 100), the end of the data.
inline DataSplit split_data(const std::vector<Segment>& documents, double fraction, std::uint64_t seed) {
  if (!(fraction >= 0 && fraction < 1)) {
    fail("validation fraction is ", fraction, ", expected at least 0 and less than 1");
  }
  Index total = 0;
  for (const Segment& d : documents) total += d.size();
  Index wanted = static_cast<Index>(fraction * static_cast<double>(total));
  DataSplit split;
  if (documents.size() < 100) {
    const Index kept = total - wanted;
    Index before = 0;
    for (const Segment& d : documents) {
      const Index cut = d.begin + std::clamp<Index>(kept - before, 0, d.size());
      if (cut > d.begin) split.training.push_back({d.begin, cut});
      if (cut < d.end) split.validation.push_back({cut, d.end});
      before += d.size();
    }
    return split;
  }
  std::vector<std::size_t> order(documents.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  Random random = detail::random_of(seed, ~std::uint64_t{0});
  detail::shuffle(order, random);
  std::vector<bool> validation(documents.size());
  for (const std::size_t d : order) {
    if (documents[d].size() > wanted) continue;
    validation[d] = true;
    wanted -= documents[d].size();
  }
  for (std::size_t d = 0; d < documents.size(); ++d) {
    (validation[d] ? split.validation : split.training).push_back(documents[d]);
  }
  return split;
}

/// Hands out rows of packed documents. Every segment's first token is marked in `starts`, and never a target.
class PackedRows {
 public:
  /// `shuffled` false: documents and rows in order, from the first token on, the last row filled up with ignored
  /// targets; for validation. Throws Error if the segments hold no row of length + 1 tokens (shuffled), or fewer than
  /// two tokens.
  PackedRows(const TokenData& data, std::vector<Segment> segments, Index length, std::uint64_t seed,
             bool shuffled = true)
      : data_(&data), original_(std::move(segments)), length_(length), seed_(seed), shuffled_(shuffled) {
    if (length < 1) fail("training data: rows of ", length, " tokens, expected at least 1");
    for (const Segment& s : original_) total_ += s.size();
    if (total_ < (shuffled ? length + 1 : 2)) {
      fail("training data: ", total_, " tokens, expected at least ", shuffled ? length + 1 : 2,
           shuffled ? " (one row and what follows it); use shorter rows or more text" : "");
    }
    begin_epoch();
  }

  Index tokens() const { return total_; }
  Index rows_in_epoch() const { return rows_; }
  DataPosition position() const { return position_; }
  /// Error, and nothing has changed, if there is no such row; how many rows an epoch has may differ between epochs.
  void set_position(const DataPosition& position) {
    if (position.epoch < 0) fail("training data: epoch ", position.epoch, ", expected at least 0");
    const DataPosition before = std::exchange(position_, position);
    begin_epoch();
    if (position.row >= 0 && position.row <= rows_) return;
    const Index rows = rows_;
    position_ = before;
    begin_epoch();
    fail("training data: row ", position.row, " of epoch ", position.epoch, ", expected 0 to ", rows);
  }

  /// The next rows; epochs follow one another. Error if the batch's are of another length.
  void next(BatchBuffer& batch) {
    if (batch.length() != length_) {
      fail("training data: a batch of rows of ", batch.length(), " tokens, expected ", length_);
    }
    for (Index b = 0; b < batch.sequences(); ++b) {
      if (position_.row == rows_) {
        position_ = {position_.epoch + 1, 0};
        begin_epoch();
      }
      const Index row = shuffled_ ? row_order_[static_cast<std::size_t>(position_.row)] : position_.row;
      ++position_.row;
      fill(batch, b, offset_ + row * length_);
    }
  }

 private:
  void begin_epoch() {
    segments_ = original_;
    offset_ = 0;
    rows_ = ceil_div(total_ - 1, length_);
    if (shuffled_) {
      Random random = detail::random_of(seed_, static_cast<std::uint64_t>(position_.epoch));
      detail::shuffle(segments_, random);
      const Index spare = std::min(length_ - 1, total_ - 1 - length_);
      offset_ = static_cast<Index>(random.below(static_cast<std::uint64_t>(spare) + 1));
      rows_ = (total_ - 1 - offset_) / length_;
      row_order_.resize(static_cast<std::size_t>(rows_));
      std::iota(row_order_.begin(), row_order_.end(), Index{0});
      detail::shuffle(row_order_, random);
    }
    first_.resize(segments_.size());
    Index at = 0;
    for (std::size_t s = 0; s < segments_.size(); ++s) {
      first_[s] = at;
      at += segments_[s].size();
    }
  }

  /// Row b takes the stream's tokens from `at` on.
  void fill(BatchBuffer& batch, Index b, Index at) {
    const auto tokens = batch.tokens(b);
    const auto targets = batch.targets(b);
    const auto starts = batch.starts(b);
    std::fill(tokens.begin(), tokens.end(), 0);
    std::fill(targets.begin(), targets.end(), ignored_target);
    std::fill(starts.begin(), starts.end(), std::uint8_t{0});
    auto s = static_cast<std::size_t>(std::upper_bound(first_.begin(), first_.end(), at) - first_.begin()) - 1;
    const Index end = std::min(at + length_, total_);
    for (Index t = 0; at < end; ++s) {
      const Index inside = at - first_[s];
      const Index n = std::min(end - at, segments_[s].size() - inside);
      const Index from = segments_[s].begin + inside;
      data_->copy(from, n, tokens.data() + t);
      data_->copy(from + 1, std::min(n, segments_[s].size() - inside - 1), targets.data() + t);
      if (inside == 0) starts[static_cast<std::size_t>(t)] = 1;
      t += n;
      at += n;
    }
  }

  const TokenData* data_;
  std::vector<Segment> original_, segments_;
  std::vector<Index> first_;  ///< where each segment lies in the stream
  std::vector<Index> row_order_;
  Index length_;
  std::uint64_t seed_;
  bool shuffled_;
  Index total_ = 0;
  Index offset_ = 0;
  Index rows_ = 0;
  DataPosition position_;
};

}  // namespace xlstm
