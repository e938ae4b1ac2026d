// SPDX-License-Identifier: Apache-2.0
// What a core does while AMX multiplies: a product of two registers takes sixteen cycles and leaves most of the core
// idle, so that packing what is multiplied next costs about half of its own time there.
#pragma once

#include <algorithm>

#include "xlstm/core/index.hpp"
#include "xlstm/cpu/prefetch.hpp"

namespace xlstm::cpu {

/// Beside a product: steps of some work, memory that is asked for, and the sums of the product after this one, all
/// spread over the calls of next(), one for each block of the product's depth. Refers to the work and the Prefetcher.
class Alongside {
 public:
  /// Step number `step` of the work.
  using Step = void (*)(const void* work, Index step);

  /// Nothing to do.
  Alongside() = default;
  explicit Alongside(Prefetcher& ahead) : ahead_(&ahead) {}
  /// Steps 0, …, steps − 1, in order, during the next `calls` calls.
  Alongside(Prefetcher& ahead, const void* work, Step step, Index steps, Index calls)
      : ahead_(&ahead), work_(work), step_(step), steps_(steps), calls_(std::max<Index>(calls, 1)) {}

  /// The next `calls` calls ask for 32 × 32 sums. (All of them at once would keep waiting what the product reads.)
  void ask_for_sums(const float* sums, Index stride, Index calls) {
    sums_ = sums;
    stride_ = stride;
    sum_rows_ = 32;
    sum_rows_a_call_ = ceil_div(sum_rows_, std::max<Index>(calls, 1));
  }

  void next() {
    if (ahead_ != nullptr) ahead_->next();
    for (Index i = 0; i < sum_rows_a_call_ && sum_rows_ > 0; ++i, --sum_rows_, sums_ += stride_) {
      __builtin_prefetch(sums_, 1);
      __builtin_prefetch(sums_ + 16, 1);
    }
    if (done_ == steps_) return;
    for (due_ += steps_; due_ >= calls_ && done_ < steps_; due_ -= calls_) step_(work_, done_++);
  }
  /// What is left of the work.
  void finish() {
    while (done_ < steps_) step_(work_, done_++);
  }

 private:
  Prefetcher* ahead_ = nullptr;
  const void* work_ = nullptr;
  Step step_ = nullptr;
  Index steps_ = 0, calls_ = 1;
  Index done_ = 0;
  Index due_ = 0;  ///< steps by now, times calls_, less those done
  const float* sums_ = nullptr;
  Index stride_ = 0, sum_rows_ = 0, sum_rows_a_call_ = 0;
};

}  // namespace xlstm::cpu
