// SPDX-License-Identifier: Apache-2.0
#include "xlstm/core/normal.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "catch.hpp"

namespace {

std::vector<double> draw(std::uint64_t seed, std::size_t count) {
  const xlstm::NormalSampler normal;
  xlstm::Random random(seed);
  std::vector<double> values(count);
  for (double& value : values) value = normal(random);
  return values;
}

}  // namespace

TEST_CASE("normal values have the distribution's moments", "[normal]") {
  const auto values = draw(1, 2'000'000);
  double moments[5] = {};
  for (const double x : values) {
    for (int k = 1; k <= 4; ++k) moments[k] += std::pow(x, k) / static_cast<double>(values.size());
  }
  // Five standard errors of each.
  CHECK(moments[1] == Approx(0).margin(5 * std::sqrt(1.0 / 2e6)));
  CHECK(moments[2] == Approx(1).margin(5 * std::sqrt(2.0 / 2e6)));
  CHECK(moments[3] == Approx(0).margin(5 * std::sqrt(15.0 / 2e6)));
  CHECK(moments[4] == Approx(3).margin(5 * std::sqrt(96.0 / 2e6)));
}

TEST_CASE("their distribution function is the normal one, tails included", "[normal]") {
  auto values = draw(2, 2'000'000);
  std::sort(values.begin(), values.end());
  const auto n = static_cast<double>(values.size());
  double largest = 0;  // Kolmogorov's statistic
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double expected = 0.5 * std::erfc(-values[i] / std::sqrt(2.0));
    largest = std::max(largest, std::abs(expected - (static_cast<double>(i) + 0.5) / n));
  }
  CHECK(largest * std::sqrt(n) < 1.95);  // exceeded by chance once in a thousand seeds

  const auto beyond = [&](double x) {
    return static_cast<double>(std::count_if(values.begin(), values.end(), [&](double v) { return std::abs(v) > x; }));
  };
  for (const double x : {3.0, 3.6541528853610088, 4.0}) {
    const double expected = n * std::erfc(x / std::sqrt(2.0));
    CHECK(beyond(x) == Approx(expected).margin(5 * std::sqrt(expected)));
  }
}

TEST_CASE("the same seed draws the same values, another seed others", "[normal]") {
  CHECK(draw(3, 1000) == draw(3, 1000));
  CHECK(draw(3, 1000) != draw(4, 1000));
}
