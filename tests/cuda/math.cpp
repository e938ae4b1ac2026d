// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/math.hpp"

#include <limits>

#include "catch.hpp"
#include "xlstm/cell/gates.hpp"

namespace cuda = xlstm::cuda;

namespace {

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

TEST_CASE("Functions of kernels agree with double", "[cuda]") {
  for (const float x : {-200.0F, -104.0F, -88.5F, -20.0F, -15.0F, -1.0F, -1e-3F, -1e-20F, 0.0F, 1e-20F, 1e-3F, 0.3F,
                        1.0F, 15.0F, 20.0F, 80.0F, 200.0F}) {
    const double wide = static_cast<double>(x);
    close(cuda::exp(x), std::exp(wide));
    close(cuda::tanh(x), std::tanh(wide));
    close(xlstm::sigmoid(x), xlstm::sigmoid(wide));
    close(xlstm::log_sigmoid(x), xlstm::log_sigmoid(wide));
    close(xlstm::SoftCap<15.0>::apply(x), xlstm::SoftCap<15.0>::apply(wide));
    if (x > 0) {
      close(cuda::log(x), std::log(wide));
      close(cuda::log1p(x), std::log1p(wide));
      close(cuda::sqrt(x), std::sqrt(wide));
      close(cuda::rsqrt(x), 1 / std::sqrt(wide));
    }
  }
}

TEST_CASE("A maximum keeps a NaN", "[cuda]") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  REQUIRE(cuda::max(1, 2) == 2);
  REQUIRE(cuda::max(2, 1) == 2);
  REQUIRE(std::isnan(cuda::max(nan, 1)));
  REQUIRE(std::isnan(cuda::max(1, nan)));
}

TEST_CASE("Elements are converted as the element types do it", "[cuda]") {
  REQUIRE(cuda::to_element<xlstm::bf16>(1.00390625F).bits == 0x3f80);
  REQUIRE(cuda::to_float(cuda::to_element<xlstm::f16>(0.1F)) == float{xlstm::f16(0.1F)});
  REQUIRE(cuda::to_element<float>(0.1F) == 0.1F);
}

}  // namespace
