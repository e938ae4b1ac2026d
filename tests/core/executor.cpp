// SPDX-License-Identifier: Apache-2.0
// Two kinds of tasks in one go: each is run once, and the few are spread among the many.
#include "xlstm/core/executor.hpp"

#include <vector>

#include "catch.hpp"

using namespace xlstm;

TEST_CASE("tasks of two kinds are each run once, the few spread evenly and one of them first") {
  for (const Index few : {0, 1, 2, 3, 7, 16}) {
    for (const Index many : {0, 1, 2, 5, 16, 33}) {
      CAPTURE(few, many);
      std::vector<Index> order_of_few, order_of_many, before;  // `before`: tasks run when one of the few begins
      const auto run_few = [&](Index task, int) {
        before.push_back(static_cast<Index>(order_of_few.size() + order_of_many.size()));
        order_of_few.push_back(task);
      };
      const auto run_many = [&](Index task, int) { order_of_many.push_back(task); };
      SerialExecutor serial;
      parallel_for_both(serial, Tasks(few, run_few), Tasks(many, run_many));
      REQUIRE(order_of_few.size() == static_cast<std::size_t>(few));
      REQUIRE(order_of_many.size() == static_cast<std::size_t>(many));
      for (Index i = 0; i < few; ++i) {
        CHECK(order_of_few[static_cast<std::size_t>(i)] == i);
        CHECK(before[static_cast<std::size_t>(i)] == i * (few + many) / few);
      }
      for (Index i = 0; i < many; ++i) CHECK(order_of_many[static_cast<std::size_t>(i)] == i);
    }
  }
}

TEST_CASE("there may be no tasks of either kind") {
  SerialExecutor serial;
  parallel_for_both(serial, {}, {});
  CHECK(Tasks().count() == 0);
}
