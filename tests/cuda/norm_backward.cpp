// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/norm_backward.hpp"

#include "catch.hpp"
#include "device.hpp"
#include "twin_matrix.hpp"
#include "xlstm/reference/backend.hpp"

using xlstm::bf16;
using xlstm::f16;
using xlstm::Index;
using xlstm::MatrixView;
using xlstm::VectorParameter;
using xlstm::tests::DeviceVector;
using xlstm::tests::Layout;
using xlstm::tests::TwinMatrix;

namespace {

namespace cuda = xlstm::cuda;

/// Few parts, so that each has several rows.
struct FewParts : cuda::NormBackwardTuning {
  static constexpr Index most_parts = 3;
};

template <Index N>
VectorParameter<double, N> parameter(double* values) {
  VectorParameter<double, N> p;
  p.bind(values);
  return p;
}

/// Heads 0: RMS norm of Dim features. Gated: with a gate behind the norm. Returns dweight.
template <Index Heads, Index Dim, class T, class W, bool Gated = false>
std::vector<float> check(Index rows, bool with_bias, Layout layout = {}, std::uint64_t schedule = 0) {
  constexpr Index heads = Heads == 0 ? 1 : Heads;
  constexpr Index width = heads * Dim;
  TwinMatrix<T> x(rows, width, 1, layout), dy(rows, width, 2, layout);
  auto dx = TwinMatrix<T>::filled(rows, width, 3, layout);
  TwinMatrix<T> gate(rows, width, 9, layout, 4);
  auto dgate = TwinMatrix<T>::filled(rows, width, 3, layout);
  TwinMatrix<W> weight(1, width, 4), bias(1, width, 10);
  TwinMatrix<float> mean(rows, heads, 5, {}, 0.3), scale(rows, heads, 6, {}, 0.2, 1), dweight(1, width, 7),
      dbias(1, width, 8);
  DeviceVector<float> memory(static_cast<std::size_t>(cuda::norm_backward_bytes<FewParts>(width, with_bias)) /
                             sizeof(float));
  xlstm::tests::DeviceStream stream(schedule);
  float* device_dbias = with_bias ? dbias.device().data() : nullptr;
  if constexpr (Heads == 0) {
    cuda::rms_norm_backward<width, T, W, FewParts>(
        stream, x.template device<width>(), weight.device().data(), scale.device().data(), dy.template device<width>(),
        dx.template device<width>(), dweight.device().data(), device_dbias, memory.data());
  } else if constexpr (Gated) {
    cuda::gated_multihead_norm_backward<Heads, width, T, W, FewParts>(
        stream, gate.template device<width>(), x.template device<width>(), weight.device().data(),
        with_bias ? bias.device().data() : nullptr, mean.device().data(), scale.device().data(),
        dy.template device<width>(), dgate.template device<width>(), dx.template device<width>(),
        dweight.device().data(), device_dbias, memory.data());
  } else {
    cuda::multihead_norm_backward<Heads, width, T, W, FewParts>(
        stream, x.template device<width>(), weight.device().data(), mean.device().data(), scale.device().data(),
        dy.template device<width>(), dx.template device<width>(), dweight.device().data(), device_dbias, memory.data());
  }

  xlstm::reference::Backend<double> reference;
  const auto run = [&]<Index N>(VectorParameter<double, N> biases) {
    const MatrixView<const double, width> from = x.template host<width>();
    const MatrixView<const double, width> gradient = dy.template host<width>();
    const auto weights = parameter<width>(weight.host().data());
    auto dweights = parameter<width>(dweight.host().data());
    if constexpr (Heads == 0) {
      reference.rms_norm_backward<width>(from, weights, scale.host().data(), gradient, dx.template host<width>(),
                                         dweights, biases);
    } else if constexpr (Gated) {
      reference.gated_multihead_norm_backward<Heads>(
          gate.template host<width>(), from, weights, parameter<N>(bias.host().data()), mean.host().data(),
          scale.host().data(), dy.template host<width>(), dgate.template host<width>(), dx.template host<width>(),
          dweights, biases);
    } else {
      reference.multihead_norm_backward<Heads>(from, weights, mean.host().data(), scale.host().data(), gradient,
                                               dx.template host<width>(), dweights, biases);
    }
  };
  with_bias ? run(parameter<width>(dbias.host().data())) : run(VectorParameter<double, 0>{});
  dx.compare(xlstm::tests::rounding<T>, 1e-5);
  dgate.compare(xlstm::tests::rounding<T>, 1e-5);  // 1 − σ loses digits where σ is near 1
  dweight.compare(1e-6, 1e-6 * static_cast<double>(2 + rows));
  dbias.compare(1e-6, 1e-6 * static_cast<double>(2 + rows));
  return std::vector<float>(dweight.device().data(), dweight.device().data() + width);
}

TEST_CASE("Backward of RMS norm, any number of features and rows", "[cuda]") {
  check<0, 1, float, float>(2, false);
  check<0, 33, float, float>(7, true, {.gap = 2});
  check<0, 64, float, float>(1, true, {.gap = 8});
  check<0, 264, float, float>(4, false);
  check<0, 1032, float, float>(3, true);
  check<0, 2050, float, float>(2, false, {.offset = 1});
}

TEST_CASE("Backward of multi-head norm, heads of any size", "[cuda]") {
  check<1, 1, float, float>(2, false);
  check<3, 5, float, float>(7, true);
  check<2, 33, float, float>(5, false, {.gap = 3});
  check<9, 64, float, float>(4, true, {.gap = 8});
  check<2, 1032, float, float>(4, true);
}

TEST_CASE("Backward of multi-head norm with a gate behind it", "[cuda]") {
  check<1, 1, float, float, true>(2, false);
  check<3, 5, float, float, true>(7, true);
  check<2, 33, float, float, true>(5, false, {.gap = 3});
  check<9, 64, float, float, true>(4, true, {.gap = 8});
  check<2, 1032, float, float, true>(1, true);
  check<4, 48, bf16, float, true>(5, true, {.gap = 8});
  check<3, 20, f16, float, true>(4, false, {.gap = 1});
  check<2, 16, float, float, true>(0, true);
}

TEST_CASE("Backward of norms of 16-bit elements; parameters' gradients are in fp32", "[cuda]") {
  check<0, 640, bf16, bf16>(4, true);
  check<4, 48, bf16, float>(5, false, {.gap = 8});
  check<3, 20, f16, f16>(4, true, {.gap = 1});
}

TEST_CASE("Backward of norms without rows adds nothing", "[cuda]") {
  check<0, 16, float, float>(0, true);
  check<2, 16, float, float>(0, true);
}

TEST_CASE("Gradients of what rows share are the same bits in every schedule", "[cuda]") {
  const auto rms = check<0, 40, float, float>(11, true, {}, 0);
  const auto multihead = check<2, 40, float, float>(11, true, {}, 0);
  const auto gated = check<2, 40, float, float, true>(11, true, {}, 0);
  for (std::uint64_t schedule = 1; schedule < 4; ++schedule) {
    REQUIRE(check<0, 40, float, float>(11, true, {}, schedule) == rms);
    REQUIRE(check<2, 40, float, float>(11, true, {}, schedule) == multihead);
    REQUIRE(check<2, 40, float, float, true>(11, true, {}, schedule) == gated);
  }
}

TEST_CASE("dx may be written over dy", "[cuda]") {
  TwinMatrix<float> x(5, 48, 1), dy(5, 48, 2), dx(5, 48, 3), weight(1, 48, 4), mean(5, 2, 5), scale(5, 2, 6);
  DeviceVector<float> dweight(48), memory(static_cast<std::size_t>(cuda::norm_backward_bytes(48, false)) / 4);
  xlstm::tests::DeviceStream stream(1);
  const auto run = [&](MatrixView<float, 48> to) {
    cuda::multihead_norm_backward<2, 48, float, float>(stream, x.device<48>(), weight.device().data(),
                                                       mean.device().data(), scale.device().data(), dy.device<48>(), to,
                                                       dweight.data(), nullptr, memory.data());
  };
  run(dx.device<48>());
  run(dy.device<48>());
  for (Index r = 0; r < 5; ++r) {
    for (Index c = 0; c < 48; ++c) REQUIRE(dx.device()(r, c) == dy.device()(r, c));
  }
}

}  // namespace
