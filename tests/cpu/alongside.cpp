// SPDX-License-Identifier: Apache-2.0
// When steps alongside a product are done: all of them, in order, spread over its terms.
#include "xlstm/cpu/alongside.hpp"

#include <numeric>
#include <vector>

#include "catch.hpp"

using namespace xlstm;

namespace {

/// Steps 0, …, count − 1, written down.
struct Log {
  Index count = 0, done = 0;
  std::vector<Index>* steps = nullptr;

  Index left() const { return count - done; }
  void step() { steps->push_back(done++); }
};
std::vector<Index> first_numbers(Index count) {
  std::vector<Index> numbers(static_cast<std::size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

/// How many steps are done after each of `calls` calls where `planned` are expected; `log` has the steps at the end.
std::vector<Index> done_after_calls(Index steps, Index planned, Index calls, std::vector<Index>& log) {
  cpu::Prefetcher nothing;
  cpu::Alongside<Log> beside(nothing, Log{steps, 0, &log}, planned);
  std::vector<Index> done;
  for (Index i = 0; i < calls; ++i) {
    i % 2 == 0 ? beside.next() : beside.next_called();
    done.push_back(static_cast<Index>(log.size()));
  }
  beside.finish();
  return done;
}

}  // namespace

TEST_CASE("steps are spread evenly over the terms") {
  const auto done = [](Index steps, Index terms) {
    std::vector<Index> log;
    const auto after = done_after_calls(steps, terms, terms, log);
    CHECK(log == first_numbers(steps));
    return after;
  };
  CHECK(done(4, 4) == std::vector<Index>{1, 2, 3, 4});
  CHECK(done(2, 4) == std::vector<Index>{0, 1, 1, 2});
  CHECK(done(6, 4) == std::vector<Index>{1, 3, 4, 6});
  CHECK(done(7, 2) == std::vector<Index>{3, 7});
  CHECK(done(0, 3) == std::vector<Index>{0, 0, 0});
}

TEST_CASE("every step is done once, however many calls there are") {
  for (const Index calls : {0, 1, 3, 4, 5, 9}) {
    CAPTURE(calls);
    std::vector<Index> log;
    done_after_calls(11, 4, calls, log);
    CHECK(log == first_numbers(11));
  }
  std::vector<Index> unplanned;
  done_after_calls(3, 0, 0, unplanned);
  CHECK(unplanned == first_numbers(3));
}

TEST_CASE("calls ask for sums and the memory ahead, and do nothing where there is nothing") {
  std::vector<float> sums(40 * 100);
  cpu::Prefetcher ahead({sums.data(), 64, 400, 6}, 3);
  cpu::Alongside<Log> beside(ahead, {}, 3);
  for (const Index left : {4, 2, 0, 0}) {
    beside.ask_for_sums(sums.data(), 100, 32, 3);
    beside.next();
    CHECK(ahead.left() == left);
    CHECK(beside.sum_rows_left() == 21);
    beside.next_called();
    beside.next();
    CHECK(beside.sum_rows_left() == 0);
    ahead = cpu::Prefetcher({sums.data(), 64, 400, left}, left > 0 ? left / 2 : 1);
  }
  cpu::Alongside<Log> nothing;
  nothing.ask_for_sums(sums.data(), 100, 32, 0);
  nothing.next();
  nothing.finish();
  CHECK(nothing.sum_rows_left() == 0);
}
