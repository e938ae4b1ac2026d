// SPDX-License-Identifier: Apache-2.0
// A pool of threads that satisfies Executor: the calling thread works too. Each thread has a share of the tasks, the
// same in every region of so many tasks, so that it finds in its caches what it wrote there in the last one; who is
// done with his share goes on with what is left of the others'. A decode step is a few hundred parallel regions of some
// ten microseconds each, so a worker that has nothing to do first spins, then sleeps; one that wakes too late misses a
// region instead of holding it up.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/core/index.hpp"

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace xlstm::cpu {

/// Runs independent tasks on several threads. Any number of user threads may share one pool: the first to come gets the
/// workers, the others meanwhile run their tasks on themselves. A parallel_for inside a task runs on that task's
/// thread.
class ThreadPool {
 public:
  /// `threads` work in all, the calling one included; 0 or less: as many as the process may use cores.
  /// Error if that is more than 32767, or more than the system gives.
  explicit ThreadPool(int threads = 0) : size_(threads > 0 ? threads : available_cores()) {
    constexpr int most = inside_mask;
    if (size_ > most) fail("threads: ", size_, ", expected at most ", most);
    shares_ = std::vector<Share>(static_cast<std::size_t>(size_));
    spin_ = size_ > available_cores() ? std::chrono::microseconds(0) : std::chrono::microseconds(100);
    workers_.reserve(static_cast<std::size_t>(size_ - 1));
    try {
      for (int t = 1; t < size_; ++t) workers_.emplace_back([this, t] { work(t); });
    } catch (const std::system_error& error) {
      stop();
      fail("threads: ", size_, " cannot be started: ", error.what());
    } catch (...) {
      stop();
      throw;
    }
  }
  ~ThreadPool() { stop(); }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  /// Calls f(task, thread) for every task in [0, count). The first exception that a task throws ends the handing out
  /// of tasks and is rethrown here when all running tasks have ended.
  template <class F>
  void parallel_for(Index count, F&& f) {
    if (count <= 0) return;
    const Here before = here();
    const bool nested = before.pool == this;
    if (count == 1 || size_ == 1 || nested || busy_.test_and_set(std::memory_order_acquire)) {
      for (Index task = 0; task < count; ++task) f(task, nested ? before.thread : 0);
      return;
    }
    using Function = std::remove_reference_t<F>;
    call_ = [](void* function, Index task, int thread) { (*static_cast<Function*>(function))(task, thread); };
    function_ = const_cast<void*>(static_cast<const void*>(std::addressof(f)));
    for (int t = 0; t < size_; ++t) {
      Share& share = shares_[static_cast<std::size_t>(t)];
      share.next.store(count * t / size_, std::memory_order_relaxed);
      share.end = count * (t + 1) / size_;
    }
    open();
    run_tasks(0);
    close();
    const std::exception_ptr error = std::exchange(error_, nullptr);
    failed_.store(false, std::memory_order_relaxed);
    busy_.clear(std::memory_order_release);
    if (error) std::rethrow_exception(error);
  }

 private:
  struct Here {
    const ThreadPool* pool = nullptr;
    int thread = 0;
  };
  static Here& here() {
    static thread_local Here value;
    return value;
  }

  static int available_cores() {
#if defined(__linux__)
    // hardware_concurrency() counts all cores, also those that taskset or a container keeps this process from.
    ::cpu_set_t allowed;
    if (::sched_getaffinity(0, sizeof allowed, &allowed) == 0) return CPU_COUNT(&allowed);
#endif
    const unsigned cores = std::thread::hardware_concurrency();
    return cores > 0 ? static_cast<int>(cores) : 1;
  }

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  /// A thread's tasks; a line of the cache, which only that thread writes while there is enough to do.
  struct alignas(64) Share {
    std::atomic<Index> next{0};
    Index end = 0;
  };

  // state_ is one word, so that joining a region and seeing it open are one step:
  // bits 0–14 workers inside, bit 15 open, bits 16–31 the region's number.
  static constexpr std::uint32_t inside_mask = 0x7fff;
  static constexpr std::uint32_t open_bit = 0x8000;
  static constexpr std::uint32_t region_mask = 0xffff0000;

  void open() {
    const std::uint32_t last = state_.load(std::memory_order_relaxed) & region_mask;
    state_.store((last + 0x10000U) | open_bit);
    wake_.fetch_add(1);
    wake_.notify_all();
  }

  void close() {
    std::uint32_t s = state_.fetch_and(~open_bit) & ~open_bit;
    const auto limit = std::chrono::steady_clock::now() + spin_;
    while ((s & inside_mask) != 0) {
      if (!spin([&] { return ((s = state_.load(std::memory_order_acquire)) & inside_mask) == 0; }, limit)) {
        state_.wait(s);
        s = state_.load(std::memory_order_acquire);
      }
    }
  }

  void run_tasks(int thread) {
    const Here before = std::exchange(here(), Here{this, thread});
    try {
      for (int i = 0; i < size_; ++i) {
        Share& share = shares_[static_cast<std::size_t>((thread + i) % size_)];
        while (share.next.load(std::memory_order_relaxed) < share.end) {
          const Index task = share.next.fetch_add(1, std::memory_order_relaxed);
          if (task < share.end) call_(function_, task, thread);
        }
      }
    } catch (...) {
      if (!failed_.exchange(true)) error_ = std::current_exception();
      for (Share& share : shares_) share.next.store(share.end, std::memory_order_relaxed);
    }
    here() = before;
  }

  /// Whether `done()` became true before `limit`.
  template <class Done>
  static bool spin(Done&& done, std::chrono::steady_clock::time_point limit) {
    do {
      for (int i = 0; i < 32; ++i) {
        if (done()) return true;
        pause();
      }
    } while (std::chrono::steady_clock::now() < limit);
    return done();
  }

  void work(int thread) {
    std::uint32_t seen = 0;  // the number of the region worked on last
    for (;;) {
      const std::uint32_t ticket = wake_.load();
      std::uint32_t s = state_.load();
      const auto joinable = [&] {
        s = state_.load(std::memory_order_acquire);
        return ((s & open_bit) != 0 && (s & region_mask) != seen) || stopping_.load(std::memory_order_relaxed);
      };
      if (!spin(joinable, std::chrono::steady_clock::now() + spin_)) {
        wake_.wait(ticket);
        continue;
      }
      if (stopping_.load()) return;
      if (!state_.compare_exchange_strong(s, s + 1)) continue;
      seen = s & region_mask;
      run_tasks(thread);
      const std::uint32_t left = state_.fetch_sub(1) - 1;
      if ((left & (open_bit | inside_mask)) == 0) state_.notify_one();
    }
  }

  void stop() {
    stopping_.store(true);
    wake_.fetch_add(1);
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int size_;
  std::chrono::microseconds spin_{};
  std::atomic_flag busy_;
  void (*call_)(void*, Index, int) = nullptr;
  void* function_ = nullptr;
  std::vector<Share> shares_;
  std::exception_ptr error_;
  std::atomic<bool> failed_{false};
  std::atomic<bool> stopping_{false};
  alignas(64) std::atomic<std::uint32_t> state_{0};
  alignas(64) std::atomic<std::uint32_t> wake_{0};
  std::vector<std::thread> workers_;
};

static_assert(Executor<ThreadPool>);

}  // namespace xlstm::cpu
