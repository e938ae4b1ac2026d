// SPDX-License-Identifier: Apache-2.0
// Prefix scans over any associative operation.
#include "xlstm/core/scan.hpp"

#include <cmath>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"

using namespace xlstm;

namespace {

struct Concatenation {
  void prepend(const std::string& earlier, std::string& later) const { later = earlier + later; }
  void make_identity(std::string& value) const { value.clear(); }
};

struct Sum {
  void prepend(const double& earlier, double& later) const { later += earlier; }
  void make_identity(double& value) const { value = 0; }
};

// One thread a task, so that the tasks of a step overlap as they like.
struct ThreadPerTask {
  int size() const { return 64; }
  template <class F>
  void parallel_for(Index count, F&& f) const {
    std::vector<std::thread> threads;
    for (Index task = 0; task < count; ++task) threads.emplace_back([&f, task] { f(task, static_cast<int>(task)); });
    for (std::thread& t : threads) t.join();
  }
};

// The tasks of a step backwards: they must not depend on each other.
struct Backwards {
  int size() const { return 1; }
  template <class F>
  void parallel_for(Index count, F&& f) const {
    for (Index task = count - 1; task >= 0; --task) f(task, 0);
  }
};

// Counts what a scan asks for.
struct Counting {
  Index* tasks;
  Index* steps;
  int size() const { return 1; }
  template <class F>
  void parallel_for(Index count, F&& f) const {
    *tasks += count;
    *steps += count > 0 ? 1 : 0;
    for (Index task = 0; task < count; ++task) f(task, 0);
  }
};

std::vector<std::string> letters(std::size_t n) {
  std::vector<std::string> values;
  for (std::size_t i = 0; i < n; ++i) values.emplace_back(1, static_cast<char>('!' + i));
  return values;
}

std::vector<double> thirds(std::size_t n) {
  std::vector<double> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = 1.0 / (3.0 + static_cast<double>(i));
  return values;
}

}  // namespace

TEST_CASE("a scan keeps the order of what it joins, for every count", "[core][scan]") {
  for (std::size_t n = 0; n <= 70; ++n) {
    const auto values = letters(n);
    std::vector<std::string> inclusive;
    std::vector<std::string> exclusive;
    std::string all;
    for (const auto& v : values) {
      exclusive.push_back(all);
      inclusive.push_back(all += v);
    }
    auto x = values;
    inclusive_scan(std::span(x), Concatenation{});
    CHECK(x == inclusive);
    x = values;
    exclusive_scan(std::span(x), Concatenation{});
    CHECK(x == exclusive);

    SerialExecutor serial;
    x = values;
    inclusive_scan(std::span(x), Concatenation{}, serial);
    CHECK(x == inclusive);
    x = values;
    exclusive_scan(std::span(x), Concatenation{}, serial);
    CHECK(x == exclusive);
    Backwards backwards;
    x = values;
    inclusive_scan(std::span(x), Concatenation{}, backwards);
    CHECK(x == inclusive);
  }
}

TEST_CASE("the tree gives the same bits on any executor", "[core][scan]") {
  for (std::size_t n : {1U, 2U, 31U, 64U, 100U}) {
    SerialExecutor serial;
    Backwards backwards;
    ThreadPerTask threads;
    auto a = thirds(n);
    auto b = a;
    auto c = a;
    inclusive_scan(std::span(a), Sum{}, serial);
    inclusive_scan(std::span(b), Sum{}, backwards);
    inclusive_scan(std::span(c), Sum{}, threads);
    CHECK(a == b);
    CHECK(a == c);
    auto sequential = thirds(n);
    inclusive_scan(std::span(sequential), Sum{});
    // At most n roundings of 1e-16 in a sum of positive numbers.
    CHECK(std::abs(a.back() - sequential.back()) <= 1e-14 * sequential.back());
  }
}

TEST_CASE("the tree takes at most 2n operations in 2 log2 n steps", "[core][scan]") {
  for (std::size_t n : {1U, 2U, 3U, 64U, 100U, 1000U}) {
    Index tasks = 0;
    Index steps = 0;
    Counting counting{&tasks, &steps};
    auto x = thirds(n);
    inclusive_scan(std::span(x), Sum{}, counting);
    CHECK(tasks <= 2 * static_cast<Index>(n));
    Index logarithm = 0;
    while ((std::size_t{1} << logarithm) < n) ++logarithm;
    CHECK(steps <= 2 * logarithm);
  }
}
