// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/math.hpp"

#include <limits>

#include "catch.hpp"
#include "device.hpp"
#include "xlstm/cell/gates.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/cuda/thread.hpp"

using xlstm::tests::DeviceVector;

namespace math_tests {  // named: nvcc confuses a kernel's unnamed namespace with Catch2's inside it

namespace cuda = xlstm::cuda;

/// Within the 4 units in the last place that cuda/math.hpp promises, of what double says.
void close(float found, double expected) {
  const auto largest = static_cast<double>(std::numeric_limits<float>::max());
  if (std::abs(expected) > largest) {
    REQUIRE(found == (expected > 0 ? 1 : -1) * std::numeric_limits<float>::infinity());
  } else {
    const double unit = std::max(std::abs(expected) * 0x1p-23, 0x1p-149);
    REQUIRE(std::abs(static_cast<double>(found) - expected) <= 4 * unit);
  }
}

/// Each function of x[i], i the block.
struct Functions {
  static constexpr int count = 10;
  static constexpr int threads = 32;
  const float* x;
  float* y;  ///< (…, count)
  template <cuda::DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const float value = x[thread.block_index().x];
    const float positive = value > 0 ? value : 1.0F;
    const float all[count] = {cuda::exp(value),      cuda::tanh(value),
                              xlstm::sigmoid(value), xlstm::log_sigmoid(value),
                              cuda::log(positive),   xlstm::SoftCap<15.0>::apply(value),
                              cuda::log1p(positive), cuda::sqrt(positive),
                              cuda::rsqrt(positive), cuda::max(value, cuda::abs(value))};
    if (thread.index() == 0) {
      for (int i = 0; i < count; ++i) y[thread.block_index().x * count + i] = all[i];
    }
  }
};

TEST_CASE("Functions of kernels agree with double", "[cuda]") {
  const DeviceVector<float> x{-200.0F, -104.0F, -88.5F, -20.0F, -15.0F, -1.0F, -1e-3F, -1e-20F, 0.0F,
                              1e-20F,  1e-3F,   0.3F,   1.0F,   15.0F,  20.0F, 80.0F,  200.0F};
  DeviceVector<float> y(x.size() * Functions::count);
  xlstm::tests::run_on_device({static_cast<int>(x.size())}, Functions{x.data(), y.data()});
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double wide = static_cast<double>(x[i]);
    const double positive = wide > 0 ? wide : 1.0;
    const double expected[Functions::count] = {std::exp(wide),          std::tanh(wide),
                                               xlstm::sigmoid(wide),    xlstm::log_sigmoid(wide),
                                               std::log(positive),      xlstm::SoftCap<15.0>::apply(wide),
                                               std::log1p(positive),    std::sqrt(positive),
                                               1 / std::sqrt(positive), std::abs(wide)};
    for (std::size_t f = 0; f < Functions::count; ++f) close(y[i * Functions::count + f], expected[f]);
  }
}

struct Maxima {
  static constexpr int threads = 32;
  const float* x;
  float* y;
  template <cuda::DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    if (thread.index() < 2) y[thread.index()] = cuda::max(x[thread.index()], x[1 - thread.index()]);
  }
};

TEST_CASE("A maximum keeps a NaN", "[cuda]") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  REQUIRE(cuda::max(1, 2) == 2);
  REQUIRE(cuda::max(2, 1) == 2);
  const DeviceVector<float> x{1, nan};
  DeviceVector<float> y(2);
  xlstm::tests::run_on_device({}, Maxima{x.data(), y.data()});
  for (const float found : y) REQUIRE(std::isnan(found));
  REQUIRE(std::isnan(cuda::max(nan, 1)));
  REQUIRE(std::isnan(cuda::max(1, nan)));
}

struct Conversions {
  static constexpr int threads = 32;
  const float* x;
  xlstm::bf16* b;
  xlstm::f16* h;
  float* back;
  template <cuda::DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const int i = thread.block_index().x * threads + thread.index();
    b[i] = cuda::to_element<xlstm::bf16>(x[i]);
    h[i] = cuda::to_element<xlstm::f16>(x[i]);
    back[i] = cuda::to_float(h[i]);
  }
};

TEST_CASE("Elements are converted as the element types do it", "[cuda]") {
  REQUIRE(cuda::to_element<xlstm::bf16>(1.00390625F).bits == 0x3f80);
  REQUIRE(cuda::to_element<float>(0.1F) == 0.1F);
  constexpr int blocks = 32;
  constexpr std::size_t count = blocks * Conversions::threads;
  DeviceVector<float> x(count), back(count);
  DeviceVector<xlstm::bf16> b(count);
  DeviceVector<xlstm::f16> h(count);
  x = {1.00390625F, 0.1F, 0, 65504, 65520, 1e30F, 6e-8F, 2.9e-8F, std::numeric_limits<float>::infinity()};
  xlstm::Random random(1);
  while (x.size() < count) x.push_back(static_cast<float>(std::exp(10 * random.normal()) * random.normal()));
  xlstm::tests::run_on_device({blocks}, Conversions{x.data(), b.data(), h.data(), back.data()});
  for (std::size_t i = 0; i < count; ++i) {
    REQUIRE(b[i].bits == xlstm::bf16(x[i]).bits);
    REQUIRE(h[i].bits == xlstm::f16(x[i]).bits);
    REQUIRE(back[i] == float{xlstm::f16(x[i])});
  }
}

}  // namespace math_tests
