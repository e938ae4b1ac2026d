// SPDX-License-Identifier: Apache-2.0
// Who does independent pieces of work: one thread here, a pool in cpu/thread_pool.hpp.
#pragma once

#include <concepts>
#include <memory>

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

/// `count` tasks of any kind. Refers to the function that runs them.
class Tasks {
 public:
  Tasks() = default;
  template <class F>
  Tasks(Index count, const F& f)
      : count_(count),
        function_(std::addressof(f)),
        run_([](const void* function, Index task, int thread) { (*static_cast<const F*>(function))(task, thread); }) {}
  Index count() const { return count_; }
  void operator()(Index task, int thread) const { run_(function_, task, thread); }

 private:
  Index count_ = 0;
  const void* function_ = nullptr;
  void (*run_)(const void* function, Index task, int thread) = nullptr;
};

/// Two kinds of tasks in one go: whoever is done with one goes on with the other. The few are spread evenly among the
/// many, so that a thread that has a share of all tasks begins with one of the few, where there are as many of them as
/// threads: they may be long.
template <Executor E>
void parallel_for_both(E& exec, const Tasks& few, const Tasks& many) {
  const Index both = few.count() + many.count();
  exec.parallel_for(both, [&](Index task, int thread) {
    // Number i of the few is task i · both / count.
    const Index before = few.count() == 0 ? 0 : (task * few.count() + both - 1) / both;
    if (before < few.count() && before * both / few.count() == task) {
      few(before, thread);
    } else {
      many(task - before, thread);
    }
  });
}

}  // namespace xlstm
