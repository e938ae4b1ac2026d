// SPDX-License-Identifier: Apache-2.0
// Memory that is read next, brought nearer while a core does something else: products leave the way to memory idle, and
// what packs the next operand would then wait for it. A core's own prefetchers do not help there, since packing begins
// anew with each block.
#pragma once

#include <algorithm>
#include <cstdint>

#include "xlstm/core/index.hpp"

namespace xlstm::cpu {

/// A rectangle of bytes: rows that lie `stride` apart.
struct MemoryRows {
  const void* data = nullptr;
  Index row_bytes = 0, stride = 0, rows = 0;

  Index lines() const { return rows * ceil_div(row_bytes, Index{64}); }
};

/// Asks for a rectangle line by line, in the order of memory, spread evenly over a number of calls: a core waits for a
/// few lines at a time only, and needs some of those for what it reads meanwhile. Asking changes no result, and may be
/// too much or too little.
class Prefetcher {
 public:
  /// Nothing to ask for.
  Prefetcher() = default;
  /// For all of it within `calls` calls of next(), or as much as those may ask for.
  Prefetcher(const MemoryRows& memory, Index calls)
      : memory_(memory), calls_(std::max<Index>(calls, 1)), lines_(std::min(memory.lines(), most_lines * calls_)) {}

  /// Lines that have not been asked for.
  Index left() const { return memory_.lines() - column_ / 64; }

  void next() {
    for (due_ += lines_; due_ >= calls_; due_ -= calls_) {
      if (memory_.rows == 0) return;
      __builtin_prefetch(static_cast<const std::uint8_t*>(memory_.data) + column_, 0, 2);
      column_ += 64;
      if (column_ < memory_.row_bytes) continue;
      column_ = 0;
      memory_.data = static_cast<const std::uint8_t*>(memory_.data) + memory_.stride;
      --memory_.rows;
    }
  }

 private:
  static constexpr Index most_lines = 4;  ///< of a call; more would keep products waiting

  MemoryRows memory_;
  Index calls_ = 1, lines_ = 0;
  Index due_ = 0;  ///< lines by now, times calls_, less those asked for
  Index column_ = 0;
};

namespace detail {

/// Asks for columns of the `rows` rows that come next, four cache lines a call: as four streams, each in the order of
/// memory. What reads across many rows a core's own prefetchers do not recognise, and one stream brings in half as much
/// as four.
class RowsAhead {
 public:
  RowsAhead(const void* first, Index row_bytes, Index width, Index rows)
      : row_(static_cast<const std::uint8_t*>(first)),
        stride_(row_bytes),
        width_(width),
        apart_(rows / 4 * row_bytes) {}
  void next_lines() {
    for (Index stream = 0; stream < 4; ++stream) __builtin_prefetch(row_ + stream * apart_ + column_, 0, 2);
    column_ += 64;
    if (column_ < width_) return;
    column_ = 0;
    row_ += stride_;
  }

 private:
  const std::uint8_t* row_;
  Index stride_, width_, apart_, column_ = 0;
};

}  // namespace detail

}  // namespace xlstm::cpu
