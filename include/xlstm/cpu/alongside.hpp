// SPDX-License-Identifier: Apache-2.0
// What a core does beside a product: its multiply-adds leave the way to memory idle, and on AMX, where a product of two
// registers takes sixteen cycles, most of the core. There packing what is multiplied next costs little, if it comes in
// pieces small enough: a core looks some hundred instructions ahead, and what does not fit between two products makes
// the second one wait.
#pragma once

#include <algorithm>

#include "xlstm/core/index.hpp"
#include "xlstm/cpu/prefetch.hpp"

namespace xlstm::cpu {

/// Where memory is asked for, but nothing else is done.
struct NoWork {
  static constexpr Index left() { return 0; }
  static void step() {}
};

/// Beside a product, spread evenly over its terms: some work, memory that is asked for, and the sums of the product
/// after this one. Work has left(), the number of steps that are left, and step(). Refers to the Prefetcher.
template <class Work>
class Alongside {
 public:
  /// Nothing to do.
  Alongside() = default;
  /// Work that is done within `terms` calls of next().
  Alongside(Prefetcher& ahead, const Work& work, Index terms)
      : ahead_(&ahead), work_(work), steps_(work.left()), terms_(std::max<Index>(terms, 1)) {}

  /// The next `terms` calls ask for `rows` rows of 32 sums. (All of them at once would keep waiting what the product
  /// reads.)
  void ask_for_sums(const float* sums, Index stride, Index rows, Index terms) {
    sums_ = sums;
    stride_ = stride;
    sum_rows_ = rows;
    sum_rows_a_term_ = ceil_div(sum_rows_, std::max<Index>(terms, 1));
  }
  Index sum_rows_left() const { return sum_rows_; }

  /// Once a term.
  [[gnu::always_inline]] void next() {
    for (due_ += steps_; due_ >= terms_ && work_.left() > 0; due_ -= terms_) work_.step();
    if (ahead_ != nullptr) ahead_->next();
    for (Index i = 0; i < sum_rows_a_term_ && sum_rows_ > 0; ++i, --sum_rows_, sums_ += stride_) {
      __builtin_prefetch(sums_, 1);
      __builtin_prefetch(sums_ + 16, 1);
    }
  }
  /// The same, not inlined: faster where a core has nobody else to serve, and products come without a pause.
  [[gnu::noinline]] void next_called() { next(); }
  /// What is left of the work.
  void finish() {
    while (work_.left() > 0) work_.step();
  }

 private:
  Prefetcher* ahead_ = nullptr;
  Work work_{};
  Index steps_ = 0, terms_ = 1;
  Index due_ = 0;  ///< steps by now, times terms_, less those done
  const float* sums_ = nullptr;
  Index stride_ = 0, sum_rows_ = 0, sum_rows_a_term_ = 0;
};

}  // namespace xlstm::cpu
