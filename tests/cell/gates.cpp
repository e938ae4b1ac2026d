// SPDX-License-Identifier: Apache-2.0
// Gates and soft caps: values, extremes, derivatives.
#include "xlstm/cell/gates.hpp"

#include <cmath>
#include <limits>

#include "catch.hpp"

using namespace xlstm;

namespace {

// The plain formulas in a wider type, which at these sizes neither overflow nor cancel.
double plain_sigmoid(double x) { return static_cast<double>(1 / (1 + std::exp(-static_cast<long double>(x)))); }
double plain_log_sigmoid(double x) { return static_cast<double>(-std::log1p(std::exp(-static_cast<long double>(x)))); }

// By default to a few roundings of 1e-16.
bool close(double a, double b, double tolerance = 1e-14) { return std::abs(a - b) <= tolerance * std::abs(b); }

template <class F>
double slope(F&& f, double x) {
  return (f(x + 1e-6) - f(x - 1e-6)) / 2e-6;
}

}  // namespace

TEST_CASE("sigmoid and log sigmoid are exact over the whole range", "[cell][gates]") {
  for (double x = -30; x <= 30; x += 0.37) {
    CHECK(close(sigmoid(x), plain_sigmoid(x)));
    CHECK(close(log_sigmoid(x), plain_log_sigmoid(x)));
    CHECK(close(softplus(x), -plain_log_sigmoid(-x)));
    CHECK(close(sigmoid(x) + sigmoid(-x), 1));
  }
  CHECK(close(log_sigmoid(0.0), -std::log(2.0)));
}

TEMPLATE_TEST_CASE("no gate overflows or becomes NaN, however large its pre-activation", "[cell][gates]", float,
                   double) {
  const TestType huge = std::numeric_limits<TestType>::max();
  for (TestType x : {TestType{100}, TestType{1e4}, huge}) {
    CHECK(log_sigmoid(-x) == -x);
    CHECK(log_sigmoid(x) <= 0);
    CHECK(log_sigmoid(x) > -TestType(1e-40));
    CHECK(sigmoid(x) == 1);
    CHECK(sigmoid(-x) >= 0);
    CHECK(sigmoid(-x) < TestType(1e-40));
    CHECK(SigmoidInputGate::log_gate(-x) == -x);
    CHECK(ExponentialInputGate::log_gate(x) == x);
    CHECK(SoftCap<15.0>::apply(x) <= 15);
    CHECK(SoftCap<15.0>::apply(-x) >= -15);
  }
}

TEST_CASE("a soft cap is the identity near zero, odd, monotone and bounded", "[cell][gates]") {
  using Cap = SoftCap<15.0>;
  CHECK(Cap::apply(0.0) == 0);
  CHECK(close(Cap::apply(1e-4), 1e-4, 1e-10));
  double before = -15;
  for (double x = -60; x <= 60; x += 0.5) {
    const double y = Cap::apply(x);
    CHECK(std::abs(y) < 15);
    CHECK(y > before);
    CHECK(Cap::apply(-x) == -y);
    CHECK(std::abs(y) <= std::abs(x));
    before = y;
  }
  CHECK(SoftCap<30.0>::apply(1e9) == 30);
  CHECK(NoSoftCap::apply(1e9) == 1e9);
}

TEST_CASE("derivatives are the slopes of the functions", "[cell][gates]") {
  // Central differences with step 1e-6 of values of size 20 err by 1e-9 at most.
  const auto check = [](double derivative, double expected) { CHECK(std::abs(derivative - expected) <= 1e-8); };
  for (double x = -20; x <= 20; x += 0.7) {
    check(SoftCap<15.0>::derivative(SoftCap<15.0>::apply(x)), slope(SoftCap<15.0>::apply<double>, x));
    CHECK(NoSoftCap::derivative(NoSoftCap::apply(x)) == 1);
    check(SigmoidInputGate::derivative(x), slope(SigmoidInputGate::log_gate<double>, x));
    check(ExponentialInputGate::derivative(x), slope(ExponentialInputGate::log_gate<double>, x));
    check(sigmoid(-x), slope(log_sigmoid<double>, x));
  }
}
