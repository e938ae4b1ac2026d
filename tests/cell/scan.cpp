// SPDX-License-Identifier: Apache-2.0
// The monoid of stretches of sequence, and the states as its prefix scan.
#include "xlstm/cell/scan.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "catch.hpp"
#include "xlstm/cell/gates.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/core/scan.hpp"

using namespace xlstm;

namespace {

using Values = std::array<double, 3>;
using Stretches = std::vector<Summary<double, Values>>;

// A token with gates of the given size; v's and k's products are any numbers.
Summary<double, Values> random_token(Random& random, double gates) {
  const auto stretch = Stretch<double>::token(log_sigmoid(gates * random.normal()), gates * random.normal());
  return {stretch, {random.normal(), random.normal(), random.normal()}};
}

Stretches random_sequence(std::size_t n, double gates, double documents) {
  Random random(n);
  Stretches sequence;
  const Summary<double, Values> fresh{Stretch<double>::fresh()};
  while (sequence.size() < n) {
    const auto token = random_token(random, gates);
    sequence.push_back(random.uniform() < documents ? combine(fresh, token) : token);
  }
  return sequence;
}

// To a few roundings of 1e-16.
bool close(double a, double b) { return std::abs(a - b) <= 1e-14 * std::abs(b); }

// Values mean exp(m)·values; they are compared at b's scale.
void check_same(const Summary<double, Values>& a, const Summary<double, Values>& b, double tolerance) {
  CHECK(a.stretch.starts == b.stretch.starts);
  CHECK(std::abs(a.stretch.g - b.stretch.g) <= tolerance * std::abs(b.stretch.g));
  CHECK(std::abs(a.stretch.m - b.stretch.m) <= tolerance * std::max(1.0, std::abs(b.stretch.m)));
  double largest = 0;
  for (double x : b.values) largest = std::max(largest, std::abs(x));
  for (std::size_t i = 0; i < b.values.size(); ++i)
    CHECK(std::abs(a.values[i] * std::exp(a.stretch.m - b.stretch.m) - b.values[i]) <= tolerance * largest);
}

}  // namespace

TEST_CASE("combining is associative, with documents and gates of any size", "[cell][scan]") {
  // Exponents are sums of numbers up to 3·gates: they err by 1e-16 times that, and with them the values, relatively.
  for (double gates : {1.0, 10.0, 1000.0}) {
    for (double documents : {0.0, 0.3}) {
      const auto s = random_sequence(60, gates, documents);
      for (std::size_t i = 0; i + 2 < s.size(); ++i)
        check_same(combine(combine(s[i], s[i + 1]), s[i + 2]), combine(s[i], combine(s[i + 1], s[i + 2])),
                   1e-14 * (1 + gates));
    }
  }
}

TEST_CASE("the neutral summary changes nothing and is no NaN", "[cell][scan]") {
  const Summary<double, Values> identity;
  for (const auto& x : random_sequence(20, 5, 0.3)) {
    for (const auto& y : {combine(identity, x), combine(x, identity)}) {
      CHECK(y.stretch.g == x.stretch.g);
      CHECK(y.stretch.m == x.stretch.m);
      CHECK(y.stretch.starts == x.stretch.starts);
      CHECK(y.values == x.values);
    }
  }
  const auto both = combine(identity, identity);
  CHECK(both.stretch.g == 0);
  CHECK(both.stretch.m == -std::numeric_limits<double>::infinity());
  CHECK_FALSE(both.stretch.starts);
  CHECK(both.values == Values{});
  const auto scalars = join(Stretch<double>{}, Stretch<double>{});
  CHECK(scalars.earlier == 0);
  CHECK(scalars.later == 0);
}

TEST_CASE("two stretches combine as the equation says", "[cell][scan]") {
  const Summary<double, Values> x{{-0.5, 2.0, false}, {1, 2, 3}};
  const Summary<double, Values> y{{-1.0, 0.25, false}, {10, 20, 30}};
  const auto z = combine(x, y);
  CHECK(z.stretch.g == -1.5);
  CHECK(z.stretch.m == 1.0);  // max(−1 + 2, 0.25)
  for (std::size_t i = 0; i < 3; ++i) CHECK(close(z.values[i], x.values[i] + std::exp(-0.75) * y.values[i]));
}

TEST_CASE("a document's start forgets what was before, exactly", "[cell][scan]") {
  const double nan = std::nan("");
  const Summary<double, Values> rubbish{{nan, nan, false}, {nan, nan, nan}};
  const Summary<double, Values> fresh{Stretch<double>::fresh()};
  const Summary<double, Values> token{Stretch<double>::token(-0.5, -7.0), {1, 2, 3}};
  const auto document = combine(fresh, token);
  const auto z = combine(rubbish, document);
  CHECK(z.stretch.starts);
  CHECK(z.stretch.m == document.stretch.m);
  CHECK(z.values == document.values);
  // m = 0 before the first token takes part in the maximum: m = max(−0.5 + 0, −7).
  CHECK(document.stretch.m == -0.5);
  CHECK(close(document.values[1], 2 * std::exp(-6.5)));
  // And still after a later stretch is put behind it, or before it is put behind an earlier one.
  CHECK(combine(rubbish, combine(document, token)).values == combine(document, token).values);
  CHECK(combine(combine(rubbish, document), token).values == combine(document, token).values);
}

TEST_CASE("the states of the recurrence are the inclusive scan of its tokens", "[cell][scan]") {
  const auto tokens = random_sequence(50, 3, 0);
  Stretches states{{Stretch<double>::state(0.7), {1, -1, 2}}};
  states.insert(states.end(), tokens.begin(), tokens.end());
  inclusive_scan(std::span(states), StateMonoid{});

  double m = 0.7;
  Values C{1, -1, 2};
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const double next = std::max(tokens[t].stretch.g + m, tokens[t].stretch.m);
    for (std::size_t i = 0; i < 3; ++i)
      C[i] =
          std::exp(tokens[t].stretch.g + m - next) * C[i] + std::exp(tokens[t].stretch.m - next) * tokens[t].values[i];
    m = next;
    CHECK(states[t + 1].stretch.m == m);
    CHECK(states[t + 1].values == C);
  }
}

TEST_CASE("the tree gives the sequential states within rounding", "[cell][scan]") {
  for (std::size_t n : {1U, 2U, 3U, 17U, 64U, 200U}) {
    for (double documents : {0.0, 0.1}) {
      // Sums of up to 200 exponents of size 9 err by 1e-13 between one order and another.
      const auto s = random_sequence(n, 3, documents);
      auto sequential = s;
      auto tree = s;
      SerialExecutor serial;
      inclusive_scan(std::span(sequential), StateMonoid{});
      inclusive_scan(std::span(tree), StateMonoid{}, serial);
      for (std::size_t i = 0; i < n; ++i) check_same(tree[i], sequential[i], 1e-12);

      auto before = s;
      exclusive_scan(std::span(before), StateMonoid{}, serial);
      CHECK(before[0].values == Values{});
      CHECK(before[0].stretch.m == -std::numeric_limits<double>::infinity());
      for (std::size_t i = 1; i < n; ++i) CHECK(before[i].values == tree[i - 1].values);
    }
  }
}

TEST_CASE("the scalars alone are a monoid too", "[cell][scan]") {
  const auto s = random_sequence(40, 3, 0.1);
  std::vector<Stretch<double>> stretches;
  for (const auto& x : s) stretches.push_back(x.stretch);
  auto states = s;
  inclusive_scan(std::span(states), StateMonoid{});
  inclusive_scan(std::span(stretches), StateMonoid{});
  for (std::size_t i = 0; i < s.size(); ++i) {
    CHECK(stretches[i].g == states[i].stretch.g);
    CHECK(stretches[i].m == states[i].stretch.m);
    CHECK(stretches[i].starts == states[i].stretch.starts);
  }
}

TEST_CASE("a summary may view memory that it doesn't own", "[cell][scan]") {
  const auto s = random_sequence(9, 3, 0);
  std::vector<double> memory;
  for (const auto& x : s) memory.insert(memory.end(), x.values.begin(), x.values.end());
  std::vector<Summary<double, std::span<double>>> views;
  for (std::size_t i = 0; i < s.size(); ++i) views.push_back({s[i].stretch, std::span(memory).subspan(3 * i, 3)});
  auto owners = s;
  SerialExecutor serial;
  inclusive_scan(std::span(views), StateMonoid{}, serial);
  inclusive_scan(std::span(owners), StateMonoid{}, serial);
  for (std::size_t i = 0; i < s.size(); ++i)
    for (std::size_t j = 0; j < 3; ++j) CHECK(memory[3 * i + j] == owners[i].values[j]);
}

TEST_CASE("with a bounded input gate m stays 0", "[cell][scan]") {
  const Summary<double, Values> x{Stretch<double>::unstabilized(-0.5), {1, 2, 3}};
  const Summary<double, Values> y{Stretch<double>::unstabilized(-2.0), {10, 20, 30}};
  const auto z = combine(combine(Summary<double, Values>{Stretch<double>::fresh()}, x), y);
  CHECK(z.stretch.m == 0);
  for (std::size_t i = 0; i < 3; ++i) CHECK(close(z.values[i], std::exp(-2.0) * x.values[i] + y.values[i]));
}
