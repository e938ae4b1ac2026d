// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cpu/vector_math.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "xlstm/cell/gates.hpp"

namespace simd = xlstm::cpu::simd;
using simd::double_width;
using simd::width;
using xlstm::Index;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

/// The largest error of f over [first, last], relative to `exact` or, where `absolute`, as it is. The x of a vector
/// differ, so that lanes that are mixed up show.
template <class F, class Exact>
double worst_error(double first, double last, F f, Exact exact, bool absolute = false) {
  double worst = 0;
  const double step = (last - first) / 200003;
  for (double x = first; x <= last; x += step * double_width) {
    simd::Doubles v{};
    for (int i = 0; i < double_width; ++i) v[i] = std::min(last, x + step * i);
    const simd::Doubles y = f(v);
    for (int i = 0; i < double_width; ++i) {
      const double expected = exact(v[i]);
      const double error = std::abs(y[i] - expected) / (absolute ? 1.0 : std::abs(expected));
      if (!(error <= worst)) worst = error;  // a NaN stays
      if (std::isnan(worst)) return worst;
    }
  }
  return worst;
}
template <class F>
double at(F f, double x) {
  return f(simd::broadcast(x))[double_width - 1];
}

}  // namespace

TEST_CASE("exp of doubles is within 2^-51, and what lies beyond its range counts as the range's end", "[vector_math]") {
  const auto exp = [](simd::Doubles x) { return simd::exp(x); };
  REQUIRE(worst_error(-708, 708, exp, [](double x) { return std::exp(x); }) < 0x1p-51);
  REQUIRE(worst_error(-1, 1, exp, [](double x) { return std::exp(x); }) < 0x1p-51);
  REQUIRE(at(exp, 0) == 1);
  REQUIRE(at(exp, -1e300) == at(exp, -708));
  REQUIRE(at(exp, -infinity) == at(exp, -708));
  REQUIRE(at(exp, infinity) == at(exp, 708));
  REQUIRE(std::isnan(at(exp, not_a_number)));
}

TEST_CASE("log(1 + x) of 0 to 1 is within 2^-50", "[vector_math]") {
  const auto f = [](simd::Doubles x) { return simd::log1p_of_unit(x); };
  const auto exact = [](double x) { return std::log1p(x); };
  REQUIRE(worst_error(1e-12, 1, f, exact) < 0x1p-50);
  REQUIRE(worst_error(1e-300, 1e-12, f, exact) < 0x1p-51);
  REQUIRE(worst_error(0.4142, 0.4143, f, exact) < 0x1p-50);
  REQUIRE(at(f, 0) == 0);
}

TEST_CASE("gates: tanh, sigmoid and its logarithm", "[vector_math]") {
  const auto tanh = [](simd::Doubles x) { return simd::tanh(x); };
  const auto sigmoid = [](simd::Doubles x) { return simd::sigmoid(x); };
  const auto log_sigmoid = [](simd::Doubles x) { return simd::log_sigmoid(x); };
  const auto exact_sigmoid = [](double x) { return xlstm::sigmoid(x); };
  const auto exact_log = [](double x) { return xlstm::log_sigmoid(x); };
  for (const double size : {1e-3, 1.0, 40.0}) {
    CAPTURE(size);
    REQUIRE(worst_error(
                -size, size, tanh, [](double x) { return std::tanh(x); }, true) < 0x1p-51);
    REQUIRE(worst_error(-size, size, sigmoid, exact_sigmoid) < 0x1p-50);
    REQUIRE(worst_error(-size, size, log_sigmoid, exact_log) < 0x1p-50);
  }
  REQUIRE(worst_error(-700, -600, sigmoid, exact_sigmoid) < 0x1p-50);
  REQUIRE(worst_error(600, 700, log_sigmoid, exact_log) < 0x1p-50);
  REQUIRE(at(tanh, infinity) == 1);
  REQUIRE(at(tanh, -infinity) == -1);
  REQUIRE(at(tanh, 0) == 0);
  REQUIRE(at(sigmoid, infinity) == 1);
  REQUIRE(at(sigmoid, -1e4) < 1e-300);
  REQUIRE(at(log_sigmoid, -1e4) == -1e4);
  for (const auto& value : {at(tanh, not_a_number), at(sigmoid, not_a_number), at(log_sigmoid, not_a_number)}) {
    REQUIRE(std::isnan(value));
  }
}

TEST_CASE("exp of negative floats is within 2^-21.9, and zero below -87", "[vector_math]") {
  double worst = 0;
  for (float x = -87.0F; x <= 0; x += 0.001F) {
    const double exact = std::exp(static_cast<double>(x));
    const double value = static_cast<double>(simd::exp_of_negative(simd::broadcast(x))[width - 1]);
    const double error = std::abs(value - exact) / exact;
    REQUIRE(std::isfinite(error));  // std::max would pass over a NaN
    worst = std::max(worst, error);
  }
  REQUIRE(worst < 0x1.12p-22);
  const auto exp = [](float x) -> float { return simd::exp_of_negative(simd::broadcast(x))[0]; };
  REQUIRE(exp(0.0F) == 1.0F);
  REQUIRE(exp(-87.1F) == 0.0F);
  REQUIRE(exp(-1e30F) == 0.0F);
  REQUIRE(exp(-std::numeric_limits<float>::infinity()) == 0.0F);
  REQUIRE(std::isnan(exp(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("sigmoid of floats is within 2^-20.9, from -87 on", "[vector_math]") {
  double worst = 0;
  for (float x = -86.9F; x < 90; x += 0.001F) {
    const double exact = xlstm::sigmoid(static_cast<double>(x));
    const double value = static_cast<double>(simd::sigmoid(simd::broadcast(x))[width - 1]);
    const double error = std::abs(value - exact) / exact;
    REQUIRE(std::isfinite(error));
    worst = std::max(worst, error);
  }
  REQUIRE(worst < 0x1.12p-21);
  const auto sigmoid = [](float x) -> float { return simd::sigmoid(simd::broadcast(x))[0]; };
  constexpr float far = std::numeric_limits<float>::infinity();
  REQUIRE(sigmoid(0.0F) == 0.5F);
  REQUIRE(sigmoid(far) == 1.0F);
  REQUIRE(sigmoid(-far) == 0.0F);
  REQUIRE(sigmoid(-90.0F) == 0.0F);
  REQUIRE(std::isnan(sigmoid(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("floats and doubles become each other, lane by lane", "[vector_math]") {
  std::vector<double> x(width);
  for (int i = 0; i < width; ++i) x[static_cast<std::size_t>(i)] = 1e9 + i / 3.0;
  const simd::Floats d = simd::differences(x.data(), 1e9 + 1);
  for (int i = 0; i < width; ++i) {
    REQUIRE(d[i] == static_cast<float>(x[static_cast<std::size_t>(i)] - (1e9 + 1)));
  }
  const simd::Doubles low = simd::widen_low(d), high = simd::widen_high(d);
  for (int i = 0; i < double_width; ++i) {
    REQUIRE(low[i] == static_cast<double>(d[i]));
    REQUIRE(high[i] == static_cast<double>(d[i + double_width]));
  }
}

TEST_CASE("the first lanes stay and the others are zero, whatever they hold", "[vector_math]") {
  simd::Floats x = simd::broadcast(std::numeric_limits<float>::quiet_NaN());
  for (Index count = 0; count <= 2 * width; ++count) {
    for (int i = 0; i < width && i < count; ++i) x[i] = static_cast<float>(i + 1);
    const simd::Floats y = simd::first_of(x, count);
    for (int i = 0; i < width; ++i) REQUIRE(y[i] == (i < count ? static_cast<float>(i + 1) : 0.0F));
  }
}

TEST_CASE("transform reaches over [0, count) in whole vectors", "[vector_math]") {
  for (Index count = 0; count <= 3 * double_width; ++count) {
    std::vector<double> x(static_cast<std::size_t>(4 * double_width), 2.0);
    simd::transform(x.data(), count, x.data(), [](simd::Doubles v) { return v * 3.0; });
    for (Index i = 0; i < 4 * double_width; ++i) {
      const bool covered = i < xlstm::round_up(count, double_width);
      REQUIRE(x[static_cast<std::size_t>(i)] == (covered ? 6.0 : 2.0));
    }
  }
}
