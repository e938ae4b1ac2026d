// SPDX-License-Identifier: Apache-2.0
#include "xlstm/train/schedule.hpp"

#include "catch.hpp"

using namespace xlstm;

TEST_CASE("The published schedule: linear warm-up, exponential decay to a tenth, linear cool-down to zero") {
  const Schedule s;
  CHECK(learning_rate(s, 1) == Approx(5e-4 / 3000));
  CHECK(learning_rate(s, 1500) == Approx(2.5e-4));
  CHECK(learning_rate(s, 3000) == Approx(5e-4));
  CHECK(learning_rate(s, 3000 + 270000) == Approx(5e-4 / std::sqrt(10.0)));
  CHECK(learning_rate(s, 3000 + 540000) == Approx(5e-5));
  CHECK(learning_rate(s, 3000 + 540000 + 3500) == Approx(2.5e-5));
  CHECK(learning_rate(s, s.total_steps()) == 0);
  CHECK(learning_rate(s, s.total_steps() + 1000) == 0);
  CHECK(s.total_steps() == 550000);
}

TEST_CASE("The cosine schedule is half a wave from the peak to its last value") {
  const Schedule s{Decay::cosine, 1.0, 0.2, 10, 100, 0};
  CHECK(learning_rate(s, 5) == Approx(0.5));
  CHECK(learning_rate(s, 10) == Approx(1.0));
  CHECK(learning_rate(s, 60) == Approx(0.6));
  CHECK(learning_rate(s, 110) == Approx(0.2));
  CHECK(learning_rate(s, 500) == Approx(0.2));
}

TEST_CASE("Phases of length zero are left out") {
  CHECK(learning_rate({Decay::constant, 1.0, 0.1, 0, 5, 5}, 1) == 1);
  CHECK(learning_rate({Decay::constant, 1.0, 0.1, 0, 5, 5}, 5) == 1);
  CHECK(learning_rate({Decay::constant, 1.0, 0.1, 0, 5, 5}, 6) == Approx(0.8));
  CHECK(learning_rate({Decay::exponential, 1.0, 0.1, 0, 0, 4}, 2) == Approx(0.5));  // no decay: from the peak
  CHECK(learning_rate({Decay::cosine, 1.0, 0.1, 10, 0, 10}, 10) == Approx(1));
  CHECK(learning_rate({Decay::exponential, 1.0, 0.1, 3, 0, 0}, 2) == Approx(2.0 / 3));
}

TEST_CASE("What is no schedule is an error") {
  CHECK_THROWS_AS((Schedule{.peak = 0}.check()), Error);
  CHECK_THROWS_AS((Schedule{.peak = NAN}.check()), Error);
  CHECK_THROWS_AS((Schedule{.final_factor = 1.5}.check()), Error);
  CHECK_THROWS_AS((Schedule{.warmup_steps = -1}.check()), Error);
  CHECK_NOTHROW(Schedule{}.check());
}

TEST_CASE("The batch grows in stages") {
  const std::vector<RampStage> published = {{2000, 128}, {2000, 256}};
  CHECK(batches_of_step(published, 512, 1) == 128);
  CHECK(batches_of_step(published, 512, 2000) == 128);
  CHECK(batches_of_step(published, 512, 2001) == 256);
  CHECK(batches_of_step(published, 512, 4000) == 256);
  CHECK(batches_of_step(published, 512, 4001) == 512);
  CHECK(batches_of_step({}, 3, 1) == 3);
}
