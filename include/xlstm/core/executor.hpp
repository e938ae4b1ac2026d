// SPDX-License-Identifier: Apache-2.0
// Who does independent pieces of work: one thread here, a pool in cpu/thread_pool.hpp.
#pragma once

#include <concepts>

#include "xlstm/core/index.hpp"

namespace xlstm {

/// Runs `f(task, thread)` for every task in [0, count), in any order, and returns when all are done.
/// `thread` is in [0, size()) and names scratch space that no other running task uses.
template <class E>
concept Executor = requires(E& e, void (*f)(Index task, int thread)) {
  e.parallel_for(Index{}, f);
  { e.size() } -> std::convertible_to<int>;
};

/// Everything on the calling thread, in order.
struct SerialExecutor {
  static constexpr int size() { return 1; }
  template <class F>
  void parallel_for(Index count, F&& f) const {
    for (Index task = 0; task < count; ++task) f(task, 0);
  }
};

}  // namespace xlstm
