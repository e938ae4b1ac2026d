// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cpu/bf16_activations.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "cpu/normal_values.hpp"
#include "xlstm/cpu/backend.hpp"

using namespace xlstm;

namespace {

std::vector<bf16> normal_weights(Index count, unsigned seed) {
  std::vector<bf16> w;
  for (const float v : normal_values(count, seed)) w.push_back(bf16(v));
  return w;
}

std::vector<float> product(const std::vector<float>& x, const std::vector<bf16>& weight, Index rows, Index out,
                           Index in, int threads, const float* bias = nullptr) {
  cpu::ThreadPool pool(threads);
  Arena arena;
  std::vector<float> y(static_cast<std::size_t>(rows * out), -1.0F);
  const cpu::LinearTask<bf16> task{weight.data(), out, bias, MatrixView<float>(y.data(), rows, out)};
  cpu::rounded_linear_group(pool, arena, MatrixView<const float>(x.data(), rows, in), in,
                            std::span<const cpu::LinearTask<bf16>>(&task, 1));
  return y;
}

struct Shape {
  Index rows, out, in;
};
// Odd and even, around the sides of every tile, and beyond the blocks: of rows (512), columns (256), sums (1024).
const std::vector<Shape> shapes = {{1, 1, 1},     {1, 70, 64},   {2, 13, 37},    {4, 33, 31},    {5, 6, 32},
                                   {8, 100, 770}, {17, 47, 129}, {32, 65, 2050}, {33, 32, 64},   {40, 31, 33},
                                   {64, 96, 97},  {70, 9, 1030}, {1050, 20, 14}, {36, 1100, 10}, {49, 40, 2100}};

}  // namespace

TEST_CASE("products of inputs rounded to bf16 have fp32's precision, on any number of threads", "[bf16_activations]") {
  for (const Shape& s : shapes) {
    CAPTURE(s.rows, s.out, s.in);
    const auto x = normal_values(s.rows * s.in, 1), bias = normal_values(s.out, 2);
    const auto weight = normal_weights(s.out * s.in, 3);
    const auto y = product(x, weight, s.rows, s.out, s.in, 1, bias.data());
    REQUIRE(y == product(x, weight, s.rows, s.out, s.in, 3, bias.data()));
    double worst = 0, without_rounding = 0;
    for (Index r = 0; r < s.rows; ++r) {
      for (Index o = 0; o < s.out; ++o) {
        double sum = static_cast<double>(bias[static_cast<std::size_t>(o)]), exact = sum, magnitude = std::abs(sum);
        for (Index i = 0; i < s.in; ++i) {
          const float input = x[static_cast<std::size_t>(r * s.in + i)], rounded = bf16(input);
          const auto w = static_cast<double>(float{weight[static_cast<std::size_t>(o * s.in + i)]});
          sum += static_cast<double>(rounded) * w;
          exact += static_cast<double>(input) * w;
          magnitude += std::abs(static_cast<double>(rounded) * w);
        }
        // As in linear.cpp: fp32 is allowed 8·2^-24·Σ|a·b|.
        const auto result = static_cast<double>(y[static_cast<std::size_t>(r * s.out + o)]);
        const double allowed = 8 * 0x1p-24 * magnitude;
        const double ratio = std::abs(result - sum) / allowed;
        if (!(ratio <= worst)) worst = ratio;
        without_rounding = std::max(without_rounding, std::abs(result - exact) / allowed);
      }
    }
    REQUIRE(worst <= 1);
    if (s.out > 1) REQUIRE(without_rounding > 1);  // inputs are rounded, on every machine
  }
}

TEST_CASE("rounded to bf16, a row's result depends on no other row, and on their number by rounding only",
          "[bf16_activations]") {
  const Index in = 300, out = 45, rows = 600;
  const auto x = normal_values(rows * in, 4);
  const auto weight = normal_weights(out * in, 5);
  const auto of = [&](Index first, Index count) {
    return product({x.begin() + first * in, x.begin() + (first + count) * in}, weight, count, out, in, 2);
  };
  const auto all = of(0, rows), middle = of(100, 70), few = of(100, cpu::few_rows), one = of(100, 1);
  const auto same = [&](const std::vector<float>& some) {
    return std::equal(some.begin(), some.end(), all.begin() + 100 * out);
  };
  CHECK(same(middle));
  for (Index count = cpu::AmxRowTuning::least_rounded_rows; count < cpu::few_rows; ++count) {
    const auto some = of(100, count);
    REQUIRE(std::equal(some.begin(), some.end(), few.begin()));
  }
  for (std::size_t j = 0; j < static_cast<std::size_t>(out); ++j) {
    REQUIRE(std::abs(one[j] - few[j]) < 1e-4F);
    REQUIRE(std::abs(one[j] - all[100 * static_cast<std::size_t>(out) + j]) < 1e-4F);
  }
}

TEST_CASE("rounded to bf16, what is not finite stays in its row", "[bf16_activations]") {
  const Index in = 70, out = 20;
  const auto weight = normal_weights(out * in, 6);
  for (const Index rows : {2, 8, 40}) {
    for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      auto x = normal_values(rows * in, 7);
      x[static_cast<std::size_t>(in + 69)] = value;
      const auto y = product(x, weight, rows, out, in, 1);
      for (Index i = 0; i < rows * out; ++i) REQUIRE(std::isfinite(y[static_cast<std::size_t>(i)]) == (i / out != 1));
    }
  }
}

TEST_CASE("a backend rounds activations to bf16 when told to; those that are bf16 give what float ones give",
          "[bf16_activations]") {
  constexpr Index in = 66, out = 30, gates = 3;
  auto weight = normal_weights(out * in, 8), gate = normal_weights(gates * in, 9);
  DenseWeight<bf16, out, in> weight_handle;
  DenseWeight<bf16, gates, in> gate_handle;
  weight_handle.bind(weight.data());
  gate_handle.bind(gate.data());
  const auto bias = normal_values(gates, 10);
  for (const Index rows : {Index{1}, Index{6}, Index{50}}) {
    std::vector<float> x = normal_values(rows * in, 11);
    const auto run = [&]<class B>(B&& backend) {
      std::vector<float> y(static_cast<std::size_t>(rows * (out + gates)));
      backend.linear(
          MatrixView<const float, in>(x.data(), rows),
          LinearTerm<DenseWeight<bf16, out, in>, float>{weight_handle, nullptr, {y.data(), rows}},
          LinearTerm<DenseWeight<bf16, gates, in>, float>{gate_handle, bias.data(), {y.data() + rows * out, rows}});
      return y;
    };
    const auto difference = [&] {
      const auto a = run(cpu::Backend<bf16, cpu::Bf16Activations>()), b = run(cpu::Backend<bf16>());
      float most = 0;
      for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
      return most;
    };
    CHECK(difference() > 1e-3F);  // 2^-9 of an input times a weight, often
    for (float& v : x) v = bf16(v);
    CHECK(difference() < 1e-4F);
  }
}

TEST_CASE("rounded to bf16, no rows and no outputs", "[bf16_activations]") {
  CHECK(product({}, normal_weights(12, 1), 0, 3, 4, 1).empty());
  for (const Index rows : {1, 6, 40}) CHECK(product(normal_values(rows * 4, 1), {}, rows, 0, 4, 1).empty());
}
