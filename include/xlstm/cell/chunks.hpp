// SPDX-License-Identifier: Apache-2.0
// How a sequence is cut into chunks. Each document is cut from its own start, so that no chunk has a border inside
// and a document within a row is computed exactly as it is on its own.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <iterator>

#include "xlstm/core/index.hpp"
#include "xlstm/core/run.hpp"

namespace xlstm {

/// Tokens [first, first + length) of a sequence.
struct Chunk {
  Index first = 0;
  Index length = 0;
  bool fresh = false;  ///< a document starts here: the state before it is C = 0, n = 0, m = 0

  friend bool operator==(const Chunk&, const Chunk&) = default;
};

/// The chunk size that a run asks for: what it says or else the cell's policy; one chunk a document in the parallel
/// form, one token in the recurrent one.
template <class Cell>
constexpr Index chunk_size(const Run& run) {
  if (run.form == Form::parallel) return std::max<Index>(run.length, 1);
  if (run.form == Form::recurrent) return 1;
  return run.chunk_size > 0 ? run.chunk_size : Cell::chunk_size;
}

/// The chunks of one sequence in order, found one at a time: `for (Chunk chunk : Chunks(run, b, 64)) …`
/// Keeps a copy of the run (whose `starts` it reads) and allocates nothing.
class Chunks {
 public:
  class Iterator {
   public:
    using value_type = Chunk;
    using difference_type = std::ptrdiff_t;
    using reference = const Chunk&;
    using pointer = const Chunk*;
    using iterator_category = std::forward_iterator_tag;

    Iterator() = default;
    Iterator(const Chunks& chunks, Index first) : chunks_(&chunks) { move_to(first); }

    reference operator*() const { return chunk_; }
    pointer operator->() const { return &chunk_; }
    Iterator& operator++() {
      move_to(chunk_.first + chunk_.length);
      return *this;
    }
    Iterator operator++(int) {
      Iterator before = *this;
      ++*this;
      return before;
    }
    friend bool operator==(const Iterator& a, const Iterator& b) { return a.chunk_.first == b.chunk_.first; }

   private:
    void move_to(Index first) { chunk_ = chunks_->chunk_at(first); }

    const Chunks* chunks_ = nullptr;
    Chunk chunk_;
  };

  Chunks(const Run& run, Index sequence, Index chunk_size) : run_(run), sequence_(sequence), chunk_size_(chunk_size) {
    assert(chunk_size > 0 && sequence >= 0 && sequence < run.sequences);
  }

  Iterator begin() const { return {*this, 0}; }
  Iterator end() const { return {*this, run_.length}; }

  /// How many there are.
  Index count() const {
    if (run_.starts == nullptr) return run_.length / chunk_size_ + (run_.length % chunk_size_ != 0 ? 1 : 0);
    return std::distance(begin(), end());
  }

 private:
  Chunk chunk_at(Index first) const {
    if (first >= run_.length) return {first, 0, false};
    const Index limit = chunk_size_ < run_.length - first ? first + chunk_size_ : run_.length;
    Index end = run_.starts == nullptr ? limit : first + 1;
    while (end < limit && !run_.starts_document(sequence_, end)) ++end;
    return {first, end - first, run_.starts_document(sequence_, first)};
  }

  Run run_;
  Index sequence_;
  Index chunk_size_;
};

}  // namespace xlstm
