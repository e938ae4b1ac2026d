// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/rms_norm.hpp"

#include <vector>

#include "catch.hpp"
#include "device.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/reference/backend.hpp"

using xlstm::bf16;
using xlstm::f16;
using xlstm::Index;
using xlstm::MatrixView;
using xlstm::tests::DeviceVector;

namespace {

namespace cuda = xlstm::cuda;

template <class T>
DeviceVector<T> normals(Index count, std::uint64_t seed) {
  xlstm::Random random(seed);
  DeviceVector<T> all;
  for (Index i = 0; i < count; ++i) all.push_back(T(random.normal()));
  return all;
}
template <class T>
std::vector<double> widened(const DeviceVector<T>& x) {
  return std::vector<double>(x.begin(), x.end());
}

/// The kernel against the reference in double; the error allowed, relative to |y|, is that of rounding y, and of fp32.
template <Index D, class X, class W, class Y>
void check(Index rows, Index stride, bool with_bias, std::uint64_t seed) {
  const double allowed = std::is_same_v<Y, float> ? 1e-6 : std::is_same_v<Y, bf16> ? 0x1p-8 : 0x1p-11 + 1e-6;
  const auto x = normals<X>(rows * stride, seed);
  const auto weight = normals<W>(D, seed + 1);
  const auto bias = normals<W>(D, seed + 2);
  DeviceVector<Y> y(static_cast<std::size_t>(rows * stride), Y(7.0F));
  DeviceVector<float> scale(static_cast<std::size_t>(rows));
  xlstm::tests::DeviceStream stream(seed);
  cuda::rms_norm<D, X, W, Y>(stream, {x.data(), rows, D, stride}, weight.data(), with_bias ? bias.data() : nullptr,
                             1e-6, {y.data(), rows, D, stride}, scale.data());

  auto wide_x = widened(x);
  auto wide_weight = widened(weight);
  auto wide_bias = widened(bias);
  std::vector<double> expected(y.size(), 7.0), expected_scale(scale.size());
  xlstm::VectorParameter<double, D> weights;
  weights.bind(wide_weight.data());
  xlstm::reference::Backend<double> reference;
  const MatrixView<const double, D> from{wide_x.data(), rows, D, stride};
  const MatrixView<double, D> to{expected.data(), rows, D, stride};
  if (with_bias) {
    xlstm::VectorParameter<double, D> biases;
    biases.bind(wide_bias.data());
    reference.rms_norm<D, D>(from, weights, biases, 1e-6, to, expected_scale.data());
  } else {
    reference.rms_norm<D, 0>(from, weights, {}, 1e-6, to, expected_scale.data());
  }
  for (std::size_t i = 0; i < y.size(); ++i) {
    CHECK_THAT(static_cast<double>(float{y[i]}),
               WithinAbs(expected[i], allowed * std::abs(expected[i]) + (with_bias ? 1e-6 : 1e-7)));
  }
  for (std::size_t r = 0; r < scale.size(); ++r)
    CHECK_THAT(scale[r], WithinRel(static_cast<float>(expected_scale[r]), 1e-6F));
}

TEST_CASE("RMS norm in fp32, of any number of features", "[cuda]") {
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    check<1, float, float, float>(2, 1, false, seed);
    check<33, float, float, float>(5, 33, true, seed);
    check<256, float, float, float>(3, 260, false, seed);
    check<2052, float, float, float>(2, 2052, true, seed);
    check<4096, float, float, float>(1, 4097, false, seed);
  }
}

TEST_CASE("RMS norm of 16-bit elements rounds once, at the end", "[cuda]") {
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    check<640, bf16, bf16, bf16>(3, 640, false, seed);
    check<100, f16, float, f16>(4, 101, true, seed);
    check<1024, bf16, float, float>(2, 1024, false, seed);
    check<48, float, bf16, f16>(2, 64, true, seed);
  }
}

TEST_CASE("RMS norm of no rows is nothing, and keeps a NaN to its row", "[cuda]") {
  check<64, float, float, float>(0, 64, false, 1);
  DeviceVector<float> x(3 * 64, 1.0F), y(x.size()), weight(64, 1.0F);
  x[70] = std::numeric_limits<float>::quiet_NaN();
  xlstm::tests::DeviceStream stream;
  cuda::rms_norm<64, float, float, float>(stream, {x.data(), 3}, weight.data(), nullptr, 0.0, {y.data(), 3}, nullptr);
  REQUIRE(std::isnan(y[64]));
  REQUIRE(std::isnan(y[127]));
  for (std::size_t i = 0; i < 64; ++i) REQUIRE(y[i] + y[128 + i] == 2);
}

}  // namespace
