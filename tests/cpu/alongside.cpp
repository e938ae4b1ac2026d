// SPDX-License-Identifier: Apache-2.0
// When steps alongside a product are done: all of them, in order, spread over its calls.
#include "xlstm/cpu/alongside.hpp"

#include <numeric>
#include <vector>

#include "catch.hpp"

using namespace xlstm;

namespace {

struct Log {
  mutable std::vector<Index> steps;
  static void step(const void* work, Index step) { static_cast<const Log*>(work)->steps.push_back(step); }
};
std::vector<Index> first_numbers(Index count) {
  std::vector<Index> numbers(static_cast<std::size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

/// How many steps are done after each of `calls` calls where `planned` are expected; `log` has the steps at the end.
std::vector<Index> done_after_calls(Index steps, Index planned, Index calls, Log& log) {
  cpu::Prefetcher nothing;
  cpu::Alongside beside(nothing, &log, Log::step, steps, planned);
  std::vector<Index> done;
  for (Index i = 0; i < calls; ++i) {
    beside.next();
    done.push_back(static_cast<Index>(log.steps.size()));
  }
  beside.finish();
  return done;
}

}  // namespace

TEST_CASE("steps are spread evenly over the calls") {
  const auto done = [](Index steps, Index calls) {
    Log log;
    const auto after = done_after_calls(steps, calls, calls, log);
    CHECK(log.steps == first_numbers(steps));
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
    Log log;
    done_after_calls(11, 4, calls, log);
    CHECK(log.steps == first_numbers(11));
  }
  Log unplanned;
  done_after_calls(3, 0, 0, unplanned);
  CHECK(unplanned.steps == first_numbers(3));
}

TEST_CASE("calls ask for sums and for the memory ahead, and do nothing where there is nothing") {
  std::vector<float> sums(40 * 100);
  const cpu::MemoryRows rows{sums.data(), 64, 400, 6};
  cpu::Prefetcher ahead(rows, {}, 3);
  cpu::Alongside beside(ahead);
  for (const Index left : {4, 2, 0, 0}) {
    beside.ask_for_sums(sums.data(), 100, 2);
    beside.next();
    CHECK(ahead.left() == left);
  }
  cpu::Alongside nothing;
  nothing.ask_for_sums(sums.data(), 100, 0);
  nothing.next();
  nothing.finish();
}
