// SPDX-License-Identifier: Apache-2.0
// What a Prefetcher asks for, counted in lines of 64 bytes.
#include "xlstm/cpu/prefetch.hpp"

#include <vector>

#include "catch.hpp"

using namespace xlstm;

namespace {

/// What is left after each call until nothing is.
std::vector<Index> left_after_calls(cpu::Prefetcher prefetcher) {
  std::vector<Index> left{prefetcher.left()};
  while (left.back() > 0 && left.size() < 100) {
    prefetcher.next();
    left.push_back(prefetcher.left());
  }
  return left;
}

}  // namespace

TEST_CASE("rows are asked for line by line, spread over the calls") {
  const std::vector<float> memory(1000);
  const cpu::MemoryRows three{memory.data(), 130, 400, 3};  // three lines each
  REQUIRE(three.lines() == 9);
  CHECK(left_after_calls({three, {}, 3}) == std::vector<Index>{9, 6, 3, 0});
  CHECK(left_after_calls({three, {}, 4}) == std::vector<Index>{9, 6, 3, 0});
  CHECK(left_after_calls({three, {}, 5}) == std::vector<Index>{9, 7, 5, 3, 1, 0});
  CHECK(left_after_calls({three, {}, 0}) == std::vector<Index>{9, 0});
}

TEST_CASE("the second rectangle comes after the first, which may be empty") {
  const std::vector<float> memory(1000);
  const cpu::MemoryRows two{memory.data(), 64, 64, 2}, four{memory.data() + 100, 128, 128, 2}, none;
  CHECK(left_after_calls({two, four, 2}) == std::vector<Index>{6, 3, 0});
  CHECK(left_after_calls({none, four, 2}) == std::vector<Index>{4, 2, 0});
  CHECK(left_after_calls({none, none, 2}) == std::vector<Index>{0});
  CHECK(left_after_calls(cpu::Prefetcher()) == std::vector<Index>{0});
}

TEST_CASE("a call asks for 16 lines at most") {
  const std::vector<float> memory(1000);
  const cpu::MemoryRows many{memory.data(), 64, 64, 40};
  CHECK(left_after_calls({many, {}, 1}) == std::vector<Index>{40, 24, 8, 0});
}
