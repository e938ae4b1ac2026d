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
  CHECK(left_after_calls({three, 3}) == std::vector<Index>{9, 6, 3, 0});
  CHECK(left_after_calls({three, 4}) == std::vector<Index>{9, 7, 5, 3, 0});
  CHECK(left_after_calls({three, 5}) == std::vector<Index>{9, 8, 6, 4, 2, 0});
  const std::vector<Index> every_other = left_after_calls({three, 18});
  REQUIRE(every_other.size() == 19);
  for (std::size_t call = 0; call < every_other.size(); ++call) {
    CHECK(every_other[call] == 9 - static_cast<Index>(call / 2));
  }
}

TEST_CASE("there may be nothing to ask for") {
  CHECK(left_after_calls(cpu::Prefetcher(cpu::MemoryRows{}, 2)) == std::vector<Index>{0});
  CHECK(left_after_calls(cpu::Prefetcher()) == std::vector<Index>{0});
  cpu::Prefetcher nothing;
  nothing.next();
  CHECK(nothing.left() == 0);
}

TEST_CASE("a call asks for 4 lines at most") {
  const std::vector<float> memory(1000);
  const cpu::MemoryRows many{memory.data(), 64, 64, 10};
  CHECK(left_after_calls({many, 1}) == std::vector<Index>{10, 6, 2, 0});
  CHECK(left_after_calls({many, 0}) == std::vector<Index>{10, 6, 2, 0});
}
