// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cpu/narrow_layers.hpp"

#include <cmath>
#include <random>
#include <vector>

#include "catch.hpp"
#include "cpu/normal_values.hpp"
#include "xlstm/cpu/linear.hpp"
#include "xlstm/cpu/thread_pool.hpp"

using namespace xlstm;

namespace {

float at(const std::vector<float>& values, Index i) { return values[static_cast<std::size_t>(i)]; }

}  // namespace

TEST_CASE("narrow layers of one x, in any format, are x Wᵀ + bias", "[narrow_layers]") {
  std::mt19937 random(21);
  const Index rows = GENERATE(33, 64, 150), in = GENERATE(1, 16, 70, 385);
  const std::vector<Index> outs = {4, 0, 1, 8};
  const Index stride = in + 3;
  const std::vector<float> x = normal_values(rows * stride, random), bias = normal_values(8, random);
  std::vector<std::vector<bf16>> weights;
  std::vector<cpu::PlainRows<bf16>> formats;
  std::vector<std::vector<float>> y;
  for (const Index out : outs) {
    weights.emplace_back();
    for (const float w : normal_values(out * in, random)) weights.back().push_back(static_cast<bf16>(w));
    formats.push_back({weights.back().data(), in});
    y.emplace_back(static_cast<std::size_t>(rows * out), -77.0F);
  }
  std::vector<cpu::WeightTask> tasks;
  for (std::size_t t = 0; t < outs.size(); ++t) {
    tasks.push_back({cpu::AnyWeightRows(formats[t]), outs[t], t == 3 ? bias.data() : nullptr,
                     MatrixView<float>(y[t].data(), rows, outs[t])});
  }
  cpu::ThreadPool pool(3);
  Arena arena;
  cpu::detail::narrow_layers(pool, arena, MatrixView<const float>(x.data(), rows, in, stride),
                             std::span<const cpu::WeightTask>(tasks));
  for (std::size_t t = 0; t < outs.size(); ++t) {
    for (Index r = 0; r < rows; ++r) {
      for (Index o = 0; o < outs[t]; ++o) {
        double sum = t == 3 ? double{at(bias, o)} : 0, magnitude = std::abs(sum);
        for (Index i = 0; i < in; ++i) {
          const double term =
              double{at(x, r * stride + i)} * double{float{weights[t][static_cast<std::size_t>(o * in + i)]}};
          sum += term;
          magnitude += std::abs(term);
        }
        CAPTURE(t, r, o);
        // Sums in fp32 as in linear.cpp.
        REQUIRE(std::abs(double{at(y[t], r * outs[t] + o)} - sum) <= 8 * 0x1p-24 * magnitude);
      }
    }
  }
}

TEST_CASE("gradients of narrow layers over many rows lose no more to rounding than a wide layer's", "[narrow_layers]") {
  std::mt19937 random(22);
  const Index rows = 20000, in = 70, stride = in + 5;
  std::vector<float> x = normal_values(rows * stride, random);
  for (float& v : x) v = std::abs(v);  // sums grow with the number of rows
  const std::vector<float> dy(static_cast<std::size_t>(rows * 3), 0.7F), before = normal_values(3 * in, random);
  std::vector<float> dw = before;
  const cpu::WeightGradientTask task{MatrixView<const float>(dy.data(), rows, 3), dw.data()};
  cpu::ThreadPool pool(2);
  Arena arena;
  cpu::detail::narrow_weight_gradients(pool, arena, MatrixView<const float>(x.data(), rows, in, stride),
                                       std::span<const cpu::WeightGradientTask>(&task, 1));
  for (Index i = 0; i < in; ++i) {
    double sum = double{at(before, i)};
    for (Index r = 0; r < rows; ++r) sum += double{0.7F} * double{at(x, r * stride + i)};
    // One chain of 20000 additions is off by some 1e-5; pieces of 1024 rows by a tenth of that.
    REQUIRE(double{at(dw, i)} == Approx(sum).epsilon(3e-6));
  }
}
