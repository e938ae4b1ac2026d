// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cpu/thread_pool.hpp"

#include <sched.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "catch.hpp"

using xlstm::Index;
using xlstm::cpu::ThreadPool;

TEST_CASE("every task runs once, on a thread of the pool", "[thread_pool]") {
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    REQUIRE(pool.size() == threads);
    for (const Index count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(count));
      std::vector<std::atomic<int>> inside(static_cast<std::size_t>(threads));
      std::atomic<bool> shared_scratch{false};
      pool.parallel_for(count, [&](Index task, int thread) {
        if (inside.at(static_cast<std::size_t>(thread))++ != 0) shared_scratch = true;
        ++runs.at(static_cast<std::size_t>(task));
        --inside.at(static_cast<std::size_t>(thread));
      });
      for (const auto& n : runs) REQUIRE(n == 1);
      REQUIRE_FALSE(shared_scratch);
    }
  }
}

TEST_CASE("0 threads means all cores", "[thread_pool]") { REQUIRE(ThreadPool(0).size() >= 1); }

TEST_CASE("a pool of one starts no thread and keeps the order", "[thread_pool]") {
  ThreadPool pool(1);
  std::vector<Index> order;
  const auto caller = std::this_thread::get_id();
  pool.parallel_for(5, [&](Index task, int thread) {
    REQUIRE(std::this_thread::get_id() == caller);
    REQUIRE(thread == 0);
    order.push_back(task);
  });
  REQUIRE(order == std::vector<Index>{0, 1, 2, 3, 4});
}

TEST_CASE("tasks are shared out: two that wait for each other both run", "[thread_pool]") {
  ThreadPool pool(2);
  std::atomic<int> arrived{0};
  std::atomic<bool> met{true};
  pool.parallel_for(2, [&](Index, int) {
    ++arrived;
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (arrived < 2 && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
    if (arrived < 2) met = false;
  });
  REQUIRE(met);
}

TEST_CASE("what the tasks wrote is visible afterwards, over many short regions", "[thread_pool]") {
  ThreadPool pool(3);
  std::vector<Index> values(16, 0);
  for (Index round = 1; round <= 3000; ++round) {
    pool.parallel_for(16, [&](Index task, int) { values[static_cast<std::size_t>(task)] += task; });
  }
  for (std::size_t i = 0; i < values.size(); ++i) REQUIRE(values[i] == 3000 * static_cast<Index>(i));
}

TEST_CASE("an exception comes back to the caller and the pool goes on working", "[thread_pool]") {
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 20; ++round) {
      std::atomic<int> running{0};
      const auto throwing = [&](Index task, int) {
        ++running;
        const bool bad = task == 3;
        --running;
        if (bad) throw std::runtime_error("task 3");
      };
      REQUIRE_THROWS_WITH(pool.parallel_for(100, throwing), "task 3");
      REQUIRE(running == 0);
      std::atomic<int> done{0};
      pool.parallel_for(100, [&](Index, int) { ++done; });
      REQUIRE(done == 100);
    }
  }
}

TEST_CASE("a nested call runs on its task's own thread", "[thread_pool]") {
  ThreadPool pool(3);
  std::atomic<int> inner{0};
  std::atomic<bool> same{true};
  pool.parallel_for(8, [&](Index, int outer_thread) {
    const auto id = std::this_thread::get_id();
    pool.parallel_for(5, [&](Index, int thread) {
      if (std::this_thread::get_id() != id || thread != outer_thread) same = false;
      ++inner;
    });
  });
  REQUIRE(inner == 40);
  REQUIRE(same);
}

TEST_CASE("several user threads share one pool", "[thread_pool]") {
  ThreadPool pool(3);
  std::vector<std::thread> users;
  std::vector<Index> sums(4, 0);
  for (std::size_t u = 0; u < sums.size(); ++u) {
    users.emplace_back([&pool, &sums, u] {
      for (int round = 0; round < 200; ++round) {
        std::vector<Index> part(3, 0);
        pool.parallel_for(10, [&](Index task, int thread) { part[static_cast<std::size_t>(thread)] += task; });
        sums[u] += part[0] + part[1] + part[2];
      }
    });
  }
  for (std::thread& user : users) user.join();
  for (const Index sum : sums) REQUIRE(sum == 200 * 45);
}

TEST_CASE("an idle pool uses no processor time", "[thread_pool]") {
  const auto used = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& t) {
      return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
    };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
  };
  ThreadPool pool(4);
  pool.parallel_for(100, [](Index, int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const double before = used();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  REQUIRE(used() - before < 0.05);
}

TEST_CASE("more threads than a pool can count are refused", "[thread_pool]") {
  CHECK_THROWS_WITH(ThreadPool(32768), Contains("threads: 32768") && Contains("at most 32767"));
}

#if defined(__linux__)
TEST_CASE("a pool takes the cores that the process may use, not those that the machine has", "[thread_pool]") {
  ::cpu_set_t before, one;
  REQUIRE(::sched_getaffinity(0, sizeof before, &before) == 0);
  int core = 0;
  while (!CPU_ISSET(core, &before)) ++core;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  REQUIRE(::sched_setaffinity(0, sizeof one, &one) == 0);
  const int size = ThreadPool().size();
  REQUIRE(::sched_setaffinity(0, sizeof before, &before) == 0);
  CHECK(size == 1);
  CHECK(ThreadPool().size() == CPU_COUNT(&before));
}
#endif
