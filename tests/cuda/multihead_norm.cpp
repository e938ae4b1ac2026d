// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/multihead_norm.hpp"

#include <limits>

#include "catch.hpp"
#include "device.hpp"
#include "twin_matrix.hpp"
#include "xlstm/reference/backend.hpp"

using xlstm::bf16;
using xlstm::f16;
using xlstm::Index;
using xlstm::tests::Layout;
using xlstm::tests::TwinMatrix;

namespace {

namespace cuda = xlstm::cuda;

template <Index Heads, Index Dim, class X, class W, class Y>
void check(Index rows, bool with_bias, Layout layout = {}, double mean = 0) {
  constexpr Index width = Heads * Dim;
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    TwinMatrix<X> x(rows, width, seed, layout, 1, mean);
    TwinMatrix<W> weight(1, width, seed + 10), bias(1, width, seed + 20);
    auto y = TwinMatrix<Y>::filled(rows, width, 3, layout);
    auto means = TwinMatrix<float>::filled(rows, Heads, 3), scales = means;
    xlstm::tests::DeviceStream stream(seed);
    cuda::multihead_norm<Heads, width, X, W, Y>(
        stream, x.template device<width>(), weight.device().data(), with_bias ? bias.device().data() : nullptr, 1e-6,
        y.template device<width>(), means.device().data(), scales.device().data());

    xlstm::reference::Backend<double> reference;
    xlstm::VectorParameter<double, width> weights, biases;
    weights.bind(weight.host().data());
    biases.bind(bias.host().data());
    const xlstm::VectorParameter<double, 0> none;
    const auto run = [&](const auto& offsets) {
      reference.multihead_norm<Heads>(xlstm::MatrixView<const double, width>(x.template host<width>()), weights,
                                      offsets, 1e-6, y.template host<width>(), means.host().data(),
                                      scales.host().data());
    };
    with_bias ? run(biases) : run(none);
    // What is left of a value when its mean is taken away has the rounding of the value itself.
    const double lost = 1e-6 * (1 + std::abs(mean));
    y.compare(xlstm::tests::rounding<Y> + 2e-6, 4 * lost);
    means.compare(1e-6, 1e-6);
    scales.compare(2e-6 + lost);

    TwinMatrix<X> gate(rows, width, seed + 30, layout, 4);
    cuda::gated_multihead_norm<Heads, width, X, W, Y>(
        stream, gate.template device<width>(), x.template device<width>(), weight.device().data(),
        with_bias ? bias.device().data() : nullptr, 1e-6, y.template device<width>(), means.device().data(),
        scales.device().data());
    const auto run_gated = [&](const auto& offsets) {
      reference.gated_multihead_norm<Heads>(
          gate.template host<width>(), xlstm::MatrixView<const double, width>(x.template host<width>()), weights,
          offsets, 1e-6, y.template host<width>(), means.host().data(), scales.host().data());
    };
    with_bias ? run_gated(biases) : run_gated(none);
    // A gate's exponential costs a few units in the last place more.
    y.compare(xlstm::tests::rounding<Y> + 4e-6, 4 * lost);
    means.compare(1e-6, 1e-6);
    scales.compare(2e-6 + lost);
  }
}

TEST_CASE("Multi-head norm in fp32, heads of any size", "[cuda]") {
  check<1, 1, float, float, float>(2, false);
  check<3, 5, float, float, float>(3, true);
  check<2, 33, float, float, float>(5, false, {.gap = 3});
  check<4, 64, float, float, float>(3, true, {.gap = 8});
  check<2, 264, float, float, float>(2, false);
  check<2, 40, float, float, float>(2, true, {.offset = 1});
}

TEST_CASE("Multi-head norm of a head that a block has", "[cuda]") {
  check<1, 1032, float, float, float>(2, true);
  check<2, 1025, float, float, float>(1, false, {.gap = 1});
}

TEST_CASE("Multi-head norm of the 7B's heads", "[cuda]") { check<8, 512, bf16, bf16, bf16>(1, false); }

TEST_CASE("Multi-head norm of 16-bit elements rounds once, at the end", "[cuda]") {
  check<2, 48, bf16, bf16, bf16>(3, true);
  check<3, 20, f16, float, f16>(4, false, {.gap = 1});
  check<2, 128, float, bf16, f16>(2, true);
}

TEST_CASE("The mean is taken away before squares are summed", "[cuda]") {
  check<2, 64, float, float, float>(2, false, {}, 100);
}

TEST_CASE("Multi-head norm of no rows is nothing; a NaN stays in its head; mean and scale may go unsaved", "[cuda]") {
  check<2, 8, float, float, float>(0, false);
  xlstm::tests::DeviceVector<float> x(3 * 64, 1.0F), y(x.size()), weight(64, 1.0F);
  x[70] = std::numeric_limits<float>::quiet_NaN();
  xlstm::tests::DeviceStream stream;
  cuda::multihead_norm<2, 64, float, float, float>(stream, {x.data(), 3}, weight.data(), nullptr, 1e-6, {y.data(), 3},
                                                   nullptr, nullptr);
  for (std::size_t i = 0; i < y.size(); ++i) {
    if (i / 32 == 2) {
      REQUIRE(std::isnan(y[i]));
    } else {
      REQUIRE(y[i] == 0);
    }
  }
}

TEST_CASE("Gates at their limits: nothing overflows, and a NaN stays where it is", "[cuda]") {
  const float infinite = std::numeric_limits<float>::infinity();
  const float largest = std::numeric_limits<float>::max();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  xlstm::tests::DeviceVector<float> gate = {-infinite, -largest, -104, 0, 104, largest, infinite, nan};
  xlstm::tests::DeviceVector<float> x = {1, -1, 1, -1, 1, -1, 1, -1}, weight(8, 1.0F), y(8);
  xlstm::tests::DeviceStream stream;
  cuda::gated_multihead_norm<1, 8, float, float, float>(stream, {gate.data(), 1}, {x.data(), 1}, weight.data(), nullptr,
                                                        0.0, {y.data(), 1}, nullptr, nullptr);
  REQUIRE(y[0] == 0);
  REQUIRE(y[1] == 0);
  REQUIRE(y[2] < 1e-44F);
  REQUIRE(std::abs(y[3] + 0.5F) < 1e-6F);
  for (std::size_t i : {4U, 5U, 6U}) REQUIRE(std::abs(y[i] - x[i]) < 1e-6F);
  REQUIRE(std::isnan(y[7]));
}

}  // namespace
