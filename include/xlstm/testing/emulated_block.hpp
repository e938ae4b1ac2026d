// SPDX-License-Identifier: Apache-2.0
// A block of threads on the host: one fiber a thread, run in an order that a seed decides, until each of them waits for
// others. Barriers and warp functions that not all threads reach are errors as soon as that is certain.
#pragma once

#include <algorithm>
#include <array>
#include <exception>
#include <functional>
#include <memory>
#include <source_location>
#include <string>
#include <vector>

#include "xlstm/core/random.hpp"
#include "xlstm/cuda/kernel.hpp"
#include "xlstm/testing/emulated_array.hpp"
#include "xlstm/testing/fiber.hpp"

namespace xlstm::testing::detail {

/// Thrown where a thread waits, to leave its kernel after another one failed.
struct Abandoned {};

/// Fibers that are kept from launch to launch, each host thread's own.
inline std::vector<std::unique_ptr<Fiber>>& fibers() {
  thread_local std::vector<std::unique_ptr<Fiber>> all;
  return all;
}

class EmulatedBlock {
 public:
  EmulatedBlock(std::string kernel, int threads, cuda::GridSize grid, std::vector<EmulatedArray> arrays)
      : kernel_(std::move(kernel)),
        grid_(grid),
        arrays_(std::move(arrays)),
        threads_(static_cast<std::size_t>(threads)),
        warps_(static_cast<std::size_t>(threads / cuda::warp_size)) {
    while (fibers().size() < threads_.size()) fibers().push_back(std::make_unique<Fiber>());
  }

  // ---- for threads ----

  cuda::GridSize grid() const { return grid_; }
  cuda::BlockIndex index() const { return index_; }
  EmulatedArray& array(int i) { return arrays_[static_cast<std::size_t>(i)]; }
  Position position(int thread) const { return {thread, epoch_, warp_of(thread).syncs}; }

  void sync_block(int thread, const std::source_location& where) {
    Warp& warp = warp_of(thread);
    if (warp.arrived > 0) {
      fault("thread ", thread, " waits at the barrier in ", name(where), " while thread ", in_warp_function(thread),
            " of its warp is in ", warp.function, " in ", name(warp.where));
    }
    if (finished_ > 0) {
      fault("thread ", thread, " waits at the barrier in ", name(where), ", but thread ", find(Status::finished),
            " has left the kernel");
    }
    if (at_barrier_ > 0 && !same(where, barrier_)) {
      fault("thread ", thread, " waits at the barrier in ", name(where), " while thread ", find(Status::at_barrier),
            " waits at the barrier in ", name(barrier_));
    }
    barrier_ = where;
    state(thread).status = Status::at_barrier;
    ++warp.elsewhere;
    if (++at_barrier_ == size()) {
      ++epoch_;
      at_barrier_ = 0;
      for (auto& w : warps_) w.elsewhere = 0;
      release(0, size());
    }
    pause(thread);
  }

  /// A function that all lanes of a warp call, each with an argument; the last one does `complete(arguments)`.
  template <class Argument, class Complete>
  void warp_function(int thread, const char* function, const std::source_location& where, Argument& argument,
                     Complete&& complete) {
    Warp& warp = warp_of(thread);
    if (warp.elsewhere > 0) {
      const int other = not_in_warp_function(thread);
      fault("thread ", thread, " calls ", function, " in ", name(where), " without thread ", other,
            " of its warp, which ",
            state(other).status == Status::finished ? "has left the kernel" : "waits at the barrier in ",
            state(other).status == Status::finished ? "" : name(barrier_));
    }
    if (warp.arrived > 0 && (warp.function != function || !same(where, warp.where))) {
      fault("thread ", thread, " calls ", function, " in ", name(where), " while thread ", in_warp_function(thread),
            " of its warp calls ", warp.function, " in ", name(warp.where));
    }
    warp.function = function;
    warp.where = where;
    warp.arguments[static_cast<std::size_t>(thread % cuda::warp_size)] = &argument;
    state(thread).status = Status::in_warp_function;
    if (++warp.arrived == cuda::warp_size) {
      std::array<Argument*, cuda::warp_size> arguments;
      for (std::size_t lane = 0; lane < arguments.size(); ++lane) {
        arguments[lane] = static_cast<Argument*>(warp.arguments[lane]);
      }
      complete(arguments);
      warp.arrived = 0;
      release(thread / cuda::warp_size * cuda::warp_size, cuda::warp_size);
    }
    pause(thread);
  }
  void sync_warp(int thread, const std::source_location& where) {
    Warp& warp = warp_of(thread);
    char nothing = 0;
    warp_function(thread, "sync_warp", where, nothing, [&](const auto&) { ++warp.syncs; });
  }

  /// An asynchronous copy of `valid` bytes and zeros after them; what it moves is what is there at its wait.
  void copy_async(int thread, EmulatedArray& array, Index first, Index count, const void* from, Index valid) {
    array.begin_copy(position(thread), first, count);
    Copy copy{&array, first, count, from, valid, state(thread).groups, {}};
    if (valid > 0) std::memcpy(copy.at_issue.data(), from, static_cast<std::size_t>(valid));
    state(thread).copies.push_back(copy);
  }
  void copy_async_commit(int thread) { ++state(thread).groups; }
  /// Groups are committed with numbers 0, 1, …; those before groups − latest arrive.
  void copy_async_wait(int thread, int latest) {
    auto& copies = state(thread).copies;
    const auto waits_for = [&](const Copy& copy) { return copy.group < state(thread).groups - latest; };
    for (const Copy& copy : copies) {
      if (!waits_for(copy)) continue;
      std::array<std::byte, 16> now{};
      if (copy.valid > 0) std::memcpy(now.data(), copy.from, static_cast<std::size_t>(copy.valid));
      if (now != copy.at_issue) {
        fault("thread ", thread, " copies asynchronously to ", copy.array->name(), "[", copy.first,
              "] from memory that changed before the wait");
      }
      std::memcpy(copy.array->end_copy(position(thread), copy.first, copy.count), now.data(),
                  static_cast<std::size_t>(copy.count * copy.array->element_bytes()));
    }
    std::erase_if(copies, waits_for);
  }

  // ---- for the launch ----

  /// Runs the block's threads to their ends; throws the first exception that one of them ends with.
  void run(cuda::BlockIndex index, std::uint64_t seed, const std::function<void(int)>& kernel) {
    index_ = index;
    random_ = Random(seed);
    deep_ = random_() % 2 != 0;
    ++epoch_;
    at_barrier_ = 0;
    finished_ = 0;
    failure_ = nullptr;
    abandon_ = false;
    for (auto& array : arrays_) array.start_block(epoch_);
    std::fill(warps_.begin(), warps_.end(), Warp{});
    const std::function<void(int)> body = [&](int thread) { run_thread(thread, kernel); };
    for (int t = 0; t < size(); ++t) {
      state(t) = Thread{};
      fiber(t).start(body, t);
    }
    ready_.clear();
    release(0, size());
    while (!ready_.empty() && !failure_) fiber(next()).resume();
    if (!failure_) return;
    abandon_ = true;
    for (int t = 0; t < size(); ++t) {
      if (fiber(t).busy()) fiber(t).resume();
    }
    std::rethrow_exception(failure_);
  }

 private:
  enum class Status { ready, at_barrier, in_warp_function, finished };
  struct Copy {
    EmulatedArray* array;
    Index first;
    Index count;
    const void* from;
    Index valid;  ///< bytes
    int group;
    std::array<std::byte, 16> at_issue;
  };
  struct Thread {
    Status status = Status::ready;
    int groups = 0;  ///< of copies, committed
    std::vector<Copy> copies;
  };
  struct Warp {
    std::uint32_t syncs = 0;
    int elsewhere = 0;  ///< lanes that wait at the block's barrier or have finished
    int arrived = 0;    ///< lanes in `function`
    const char* function = "";
    std::source_location where;
    std::array<void*, cuda::warp_size> arguments{};
  };

  int size() const { return static_cast<int>(threads_.size()); }
  Thread& state(int thread) { return threads_[static_cast<std::size_t>(thread)]; }
  Warp& warp_of(int thread) { return warps_[static_cast<std::size_t>(thread / cuda::warp_size)]; }
  const Warp& warp_of(int thread) const { return warps_[static_cast<std::size_t>(thread / cuda::warp_size)]; }
  static Fiber& fiber(int thread) { return *fibers()[static_cast<std::size_t>(thread)]; }

  static bool same(const std::source_location& a, const std::source_location& b) {
    return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
  }
  static std::string name(const std::source_location& where) {
    return std::string(where.file_name()) + ":" + std::to_string(where.line());
  }
  int find(Status status) {
    const auto found =
        std::find_if(threads_.begin(), threads_.end(), [&](const Thread& t) { return t.status == status; });
    return static_cast<int>(found - threads_.begin());
  }
  /// The first lane of the thread's warp that is, or is not, in a warp function or on its way.
  int in_warp_function(int thread) {
    int other = thread / cuda::warp_size * cuda::warp_size;
    while (state(other).status != Status::in_warp_function) ++other;
    return other;
  }
  int not_in_warp_function(int thread) {
    int other = thread / cuda::warp_size * cuda::warp_size;
    while (state(other).status != Status::at_barrier && state(other).status != Status::finished) ++other;
    return other;
  }

  /// One of the first n; no division, as every switch of threads asks.
  std::size_t below(std::size_t n) { return static_cast<std::size_t>((random_() >> 32) * n >> 32); }
  /// In an order that the seed decides: uniformly, or the threads that were released last first, so that some run far
  /// ahead of others.
  int next() {
    if (!deep_) std::swap(ready_.back(), ready_[below(ready_.size())]);
    const int thread = ready_.back();
    ready_.pop_back();
    return thread;
  }
  void release(int first, int count) {
    const auto begin = ready_.size();
    for (int t = first; t < first + count; ++t) {
      state(t).status = Status::ready;
      ready_.push_back(t);
    }
    for (std::size_t i = ready_.size() - 1; i > begin; --i) {
      std::swap(ready_[i], ready_[begin + below(i - begin + 1)]);
    }
  }
  void pause(int thread) {
    fiber(thread).suspend();
    if (abandon_) throw Abandoned{};
  }

  void run_thread(int thread, const std::function<void(int)>& kernel) {
    if (abandon_) return;
    try {
      kernel(thread);
      finish(thread);
    } catch (const Abandoned&) {
    } catch (const EmulationError& error) {
      const std::string where = kernel_ + ", block (" + std::to_string(index_.x) + ", " + std::to_string(index_.y) +
                                ", " + std::to_string(index_.z) + "): ";
      failure_ = std::make_exception_ptr(EmulationError(where + error.what()));
    } catch (...) {
      failure_ = std::current_exception();
    }
  }
  void finish(int thread) {
    Warp& warp = warp_of(thread);
    if (at_barrier_ > 0) {
      fault("thread ", thread, " leaves the kernel while thread ", find(Status::at_barrier),
            " waits at the barrier in ", name(barrier_));
    }
    if (warp.arrived > 0) {
      fault("thread ", thread, " leaves the kernel while thread ", in_warp_function(thread), " of its warp is in ",
            warp.function, " in ", name(warp.where));
    }
    if (!state(thread).copies.empty()) {
      const Copy& copy = state(thread).copies.front();
      fault("thread ", thread, " leaves the kernel without having waited for its asynchronous copy to ",
            copy.array->name(), "[", copy.first, "]");
    }
    state(thread).status = Status::finished;
    ++warp.elsewhere;
    ++finished_;
  }

  std::string kernel_;
  cuda::GridSize grid_;
  cuda::BlockIndex index_;
  std::vector<EmulatedArray> arrays_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<int> ready_;
  Random random_;
  bool deep_ = false;
  std::uint32_t epoch_ = 0;
  int at_barrier_ = 0;
  int finished_ = 0;
  std::source_location barrier_;
  std::exception_ptr failure_;
  bool abandon_ = false;
};

}  // namespace xlstm::testing::detail
