// SPDX-License-Identifier: Apache-2.0
// Gradients of weights against sums in double: in parts and otherwise, whichever operand is the left one, on tiles of
// vectors and of AMX, on any number of threads.
#include "xlstm/cpu/weight_gradients.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "catch.hpp"
#include "xlstm/core/arena.hpp"
#include "xlstm/cpu/thread_pool.hpp"

using namespace xlstm;

namespace {

struct Matrix {
  Index rows, cols, stride;
  std::vector<float> values;

  /// Of normal numbers; columns beyond `cols` are no part of it.
  Matrix(Index r, Index c, std::mt19937& random)
      : rows(r), cols(c), stride(c + 3), values(static_cast<std::size_t>(r * stride)) {
    std::normal_distribution<float> normal;
    for (float& v : values) v = normal(random);
  }
  float operator()(Index i, Index j) const { return values[static_cast<std::size_t>(i * stride + j)]; }
  MatrixView<const float> view() const { return {values.data(), rows, cols, stride}; }
};

struct Shape {
  Index rows, in;
  std::vector<Index> out;
};

/// The gradients that begin as `before`; `run(exec, tasks)` runs their parts.
template <class Exec, class Run>
std::vector<std::vector<float>> gradients(const Matrix& x, const std::vector<Matrix>& dy,
                                          const std::vector<std::vector<float>>& before, Exec& exec, Run&& run) {
  std::vector<std::vector<float>> dw = before;
  std::vector<cpu::WeightGradientTask> tasks;
  for (std::size_t t = 0; t < dy.size(); ++t) tasks.push_back({dy[t].view(), dw[t].data()});
  Arena arena;
  cpu::weight_gradients(exec, arena, x.view(), std::span<const cpu::WeightGradientTask>(tasks),
                        [&](const Tasks& parts) { run(exec, parts); });
  return dw;
}
constexpr auto run_alone = [](auto& exec, const Tasks& parts) { exec.parallel_for(parts.count(), parts); };

}  // namespace

TEST_CASE("gradients of weights are sums over all rows, with the same bits on any number of threads",
          "[weight_gradients]") {
  std::mt19937 random(21);
  // Too few rows for parts; a part longer than the others, and not a whole number of blocks; x narrower than all dy
  // and wider than one; one row of a dW; so many columns on the left that blocks are short; nothing at all.
  const Shape shape = GENERATE(Shape{70, 40, {20, 3}}, Shape{2049, 33, {31, 64, 5}}, Shape{2100, 70, {32}},
                               Shape{3071, 64, {96, 32}}, Shape{2048, 1, {1}}, Shape{2048, 100, {}},
                               Shape{2047, 40, {30}}, Shape{2050, 600, {700}}, Shape{2048, 40, {0, 50}});
  CAPTURE(shape.rows, shape.in, shape.out.size());
  const Matrix x(shape.rows, shape.in, random);
  std::vector<Matrix> dy;
  std::vector<std::vector<float>> before;
  for (const Index out : shape.out) {
    dy.emplace_back(shape.rows, out, random);
    before.emplace_back(static_cast<std::size_t>(out * shape.in), 0.5F);
  }
  SerialExecutor serial;
  const auto dw = gradients(x, dy, before, serial, run_alone);
  cpu::ThreadPool two(2), five(5);
  REQUIRE(dw == gradients(x, dy, before, two, run_alone));
  REQUIRE(dw == gradients(x, dy, before, five, run_alone));

  for (std::size_t t = 0; t < dy.size(); ++t) {
    const Index out = shape.out[t];
    // All of the largest are checked by columns of a few.
    for (Index o = 0; o < out; o += std::max<Index>(1, out / 40)) {
      for (Index i = 0; i < shape.in; i += std::max<Index>(1, shape.in / 40)) {
        double sum = 0.5, magnitude = 0.5;
        for (Index r = 0; r < shape.rows; ++r) {
          const double term = double{dy[t](r, o)} * double{x(r, i)};
          sum += term;
          magnitude += std::abs(term);
        }
        // Errors of fp32 sums, of which few do not cancel out: measured up to 2^-22 of the terms' sizes together.
        const double error = std::abs(double{dw[t][static_cast<std::size_t>(o * shape.in + i)]} - sum);
        REQUIRE(error <= 0x1p-20 * magnitude);
      }
    }
  }
}

TEST_CASE("parts may be made beside other tasks, in any order", "[weight_gradients]") {
  std::mt19937 random(22);
  const Matrix x(4100, 50, random);
  std::vector<Matrix> dy;
  dy.emplace_back(4100, 60, random);
  const std::vector<std::vector<float>> before{std::vector<float>(50 * 60)};
  SerialExecutor serial;
  const auto dw = gradients(x, dy, before, serial, run_alone);
  const auto backwards = gradients(x, dy, before, serial, [](auto&, const Tasks& parts) {
    REQUIRE(parts.count() == 4);
    for (Index part = parts.count(); part-- > 0;) parts(part, 0);
  });
  REQUIRE(dw == backwards);
  cpu::ThreadPool pool(3);
  std::vector<int> others(20);
  const auto beside = gradients(x, dy, before, pool, [&](auto& exec, const Tasks& parts) {
    const auto other = [&](Index task, int) { ++others[static_cast<std::size_t>(task)]; };
    parallel_for_both(exec, parts, Tasks(20, other));
  });
  REQUIRE(dw == beside);
  REQUIRE(others == std::vector<int>(20, 1));
}

TEST_CASE("what is not finite in a row of dy or x is not lost, and stays in its row or column", "[weight_gradients]") {
  std::mt19937 random(23);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const bool in_dy : {false, true}) {
    CAPTURE(in_dy);
    Matrix x(2048, 40, random);
    std::vector<Matrix> dy;
    dy.emplace_back(2048, 50, random);
    Matrix& one = in_dy ? dy[0] : x;
    one.values[static_cast<std::size_t>(1500 * one.stride + 7)] = nan;
    SerialExecutor serial;
    const auto dw = gradients(x, dy, {std::vector<float>(50 * 40)}, serial, run_alone);
    for (Index o = 0; o < 50; ++o) {
      for (Index i = 0; i < 40; ++i) {
        REQUIRE(std::isfinite(dw[0][static_cast<std::size_t>(o * 40 + i)]) == ((in_dy ? o : i) != 7));
      }
    }
  }
}
