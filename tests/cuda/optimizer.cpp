// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/optimizer.hpp"

#include "catch.hpp"
#include "device.hpp"
#include "twin_matrix.hpp"
#include "xlstm/reference/training.hpp"

using xlstm::Index;
using xlstm::tests::DeviceVector;
using xlstm::tests::Layout;
using xlstm::tests::TwinMatrix;

namespace {

namespace cuda = xlstm::cuda;

double squared_norm(const float* x, Index count, std::uint64_t seed) {
  DeviceVector<double> memory(static_cast<std::size_t>(cuda::squared_norm_bytes(count)) / sizeof(double),
                              xlstm::tests::not_a_number);
  DeviceVector<double> sum(1, 7.0);
  xlstm::tests::DeviceStream stream(seed);
  cuda::squared_norm(stream, x, count, sum.data(), memory.data());
  return sum[0];
}

TEST_CASE("Sums of squares of any number of values, the same bits in every schedule", "[cuda]") {
  for (const Index count : {0, 1, 4, 1000, 4100, 32768, 32772, 70001}) {
    for (const Layout layout : {Layout{}, Layout{.offset = 1}}) {
      TwinMatrix<float> x(1, count, 3, layout, 100);
      const double found = squared_norm(x.device().data(), count, 1);
      REQUIRE(found == Approx(xlstm::reference::squared_norm(x.host().data(), count)).epsilon(1e-6));
      REQUIRE(squared_norm(x.device().data(), count, 2) == found);
    }
  }
}

TEST_CASE("Sums of squares keep what is small beside what is large", "[cuda]") {
  DeviceVector<float> x(40000, 1.0F);
  x[0] = 16384;  // sums in fp32 would lose the ones, here those beside it alone may
  REQUIRE(squared_norm(x.data(), 40000, 1) == Approx(268435456.0 + 39999).epsilon(1e-7));
}

TEST_CASE("Steps of AdamW follow the reference", "[cuda]") {
  for (const Index count : {1, 8, 1000, 1001}) {
    for (const Layout layout : {Layout{}, Layout{.offset = 3}}) {
      TwinMatrix<float> parameter(1, count, 1, layout);
      auto m = TwinMatrix<float>::filled(1, count, 0, layout), v = m;
      xlstm::tests::DeviceStream stream(1);
      for (Index step = 1; step <= 4; ++step) {
        TwinMatrix<float> gradient(1, count, 10 + static_cast<std::uint64_t>(step), layout, step == 3 ? 1e-6 : 10);
        const xlstm::AdamWStep settings{.learning_rate = 0.01,
                                        .beta1 = 0.9,
                                        .beta2 = 0.95,
                                        .eps = 1e-8,
                                        .weight_decay = 0.1,
                                        .gradient_scale = 0.5,
                                        .step = step};
        cuda::adamw(stream, parameter.device().data(), gradient.device().data(), m.device().data(), v.device().data(),
                    count, settings);
        xlstm::reference::adamw(parameter.host().data(), gradient.host().data(), m.host().data(), v.host().data(),
                                count, settings);
        parameter.compare(1e-6, 1e-7);
        gradient.compare(0, 0);  // used up: zeros
        m.compare(1e-6, 1e-6);
        v.compare(1e-5, 1e-9);
      }
    }
  }
}

TEST_CASE("A step over no parameters is nothing", "[cuda]") {
  xlstm::tests::DeviceStream stream;
  cuda::adamw(stream, nullptr, nullptr, nullptr, nullptr, 0, {});
  SUCCEED();
}

}  // namespace
