// SPDX-License-Identifier: Apache-2.0
#include "xlstm/core/random.hpp"

#include <array>
#include <cmath>

#include "catch.hpp"

using xlstm::Random;

TEST_CASE("splitmix64 and xoshiro256** give their published sequences") {
  std::uint64_t seed = 1234567;
  CHECK(xlstm::splitmix64(seed) == 6457827717110365317U);
  CHECK(xlstm::splitmix64(seed) == 3203168211198807973U);
  Random random(Random::State{1, 2, 3, 4});
  CHECK(random() == 11520U);
  CHECK(random() == 0U);
  CHECK(random() == 1509978240U);
}

TEST_CASE("a saved state continues the sequence") {
  Random a(7);
  for (int i = 0; i < 10; ++i) a();
  Random b(a.state());
  for (int i = 0; i < 10; ++i) CHECK(a() == b());
}

TEST_CASE("moments of the distributions") {
  // Means of 200,000 draws: standard error 1/√200000 = 0.0022 of a unit deviation; five of them are allowed.
  Random random(3);
  double sum = 0;
  double squares = 0;
  double uniform = 0;
  std::array<int, 7> counts{};
  constexpr int n = 200000;
  for (int i = 0; i < n; ++i) {
    const double x = random.normal();
    sum += x;
    squares += x * x;
    uniform += random.uniform();
    ++counts[random.below(7)];
  }
  CHECK(std::abs(sum / n) < 0.011);
  CHECK(std::abs(squares / n - 1) < 0.016);
  CHECK(std::abs(uniform / n - 0.5) < 0.0033);
  for (const int c : counts) CHECK(std::abs(c - n / 7.0) < 5 * std::sqrt(n / 7.0));
}
