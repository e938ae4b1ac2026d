// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/elementwise.hpp"

#include <limits>
#include <utility>

#include "catch.hpp"
#include "device.hpp"
#include "twin_matrix.hpp"
#include "xlstm/reference/backend.hpp"

using xlstm::bf16;
using xlstm::f16;
using xlstm::Index;
using xlstm::tests::DeviceVector;
using xlstm::tests::Layout;
using xlstm::tests::TwinMatrix;
using Stream = xlstm::tests::DeviceStream;

namespace {

namespace cuda = xlstm::cuda;

/// Calls test(rows, constant of columns, layout, seed) for shapes that fit vectors and blocks, and such that don't.
template <class F>
void for_each_shape(F&& test) {
  const auto columns = [&]<Index Cols>(std::integral_constant<Index, Cols> cols, Index rows, Layout layout) {
    for (std::uint64_t seed = 0; seed < 2; ++seed) test(rows, cols, layout, 10 * seed);
  };
  columns(std::integral_constant<Index, 1>{}, 1, Layout{});
  columns(std::integral_constant<Index, 1>{}, 3, Layout{.gap = 2});
  columns(std::integral_constant<Index, 8>{}, 70, Layout{.gap = 8});
  columns(std::integral_constant<Index, 33>{}, 5, Layout{});
  columns(std::integral_constant<Index, 33>{}, 20, Layout{.gap = 2});  // seven rows a block, and threads left over
  columns(std::integral_constant<Index, 40>{}, 3, Layout{.gap = 8});
  columns(std::integral_constant<Index, 40>{}, 3, Layout{.gap = 1});
  columns(std::integral_constant<Index, 40>{}, 3, Layout{.offset = 3});
  columns(std::integral_constant<Index, 300>{}, 2, Layout{.gap = 1});
  columns(std::integral_constant<Index, 2056>{}, 2, Layout{.gap = 8});
  columns(std::integral_constant<Index, 2056>{}, 1, Layout{.gap = 3});
}

template <class T>
void check_all() {
  xlstm::reference::Backend<double> reference;
  for_each_shape([&]<Index C>(Index rows, std::integral_constant<Index, C>, Layout layout, std::uint64_t seed) {
    Stream stream(seed);
    const auto normals = [&](double deviation = 1.0) { return TwinMatrix<T>(rows, C, ++seed, layout, deviation); };
    const auto empty = [&] { return TwinMatrix<T>::filled(rows, C, 5, layout); };
    auto gate = normals(10), x = normals(), dy = normals(), y = empty(), z = empty();

    cuda::swiglu<T>(stream, gate.device(), x.device(), y.device());
    reference.swiglu<C>(gate.template host<C>(), x.template host<C>(), y.template host<C>());
    y.compare();

    // σ'(g) and its like lose digits where 1 − σ(g) does: relative to the largest terms.
    const double absolute = 1e-5;
    cuda::swiglu_backward<T>(stream, gate.device(), x.device(), dy.device(), y.device(), z.device());
    reference.swiglu_backward<C>(gate.template host<C>(), x.template host<C>(), dy.template host<C>(),
                                 y.template host<C>(), z.template host<C>());
    y.compare(xlstm::tests::rounding<T>, absolute);
    z.compare();

    auto sum = normals();
    cuda::add<T>(stream, x.device(), sum.device());
    reference.add<C>(x.template host<C>(), sum.template host<C>());
    sum.compare(xlstm::tests::rounding<T>, 1e-6);
    cuda::soft_cap<xlstm::SoftCap<15.0>, T>(stream, gate.device());
    reference.soft_cap<xlstm::SoftCap<15.0>, C>(gate.template host<C>());
    gate.compare();
  });
}

TEST_CASE("Element by element, device operations are the reference's, whatever the shape: fp32", "[cuda]") {
  check_all<float>();
}
TEST_CASE("Element by element, device operations are the reference's, whatever the shape: bf16", "[cuda]") {
  check_all<bf16>();
}
TEST_CASE("Element by element, device operations are the reference's, whatever the shape: f16", "[cuda]") {
  check_all<f16>();
}

TEST_CASE("A backward pass may write over the gradient that it reads", "[cuda]") {
  TwinMatrix<float> gate(3, 50, 1), up(3, 50, 2), dy(3, 50, 3), apart(3, 50, 3), dgate(3, 50, 4), other(3, 50, 4);
  Stream stream(1);
  cuda::swiglu_backward<float>(stream, gate.device(), up.device(), apart.device(), other.device(), other.device());
  cuda::swiglu_backward<float>(stream, gate.device(), up.device(), dy.device(), dgate.device(), dy.device());
  for (Index r = 0; r < 3; ++r) {
    for (Index c = 0; c < 50; ++c) REQUIRE(dy.device()(r, c) == other.device()(r, c));
  }
}

TEST_CASE("A copy rounds to the nearest element, and keeps what every type has", "[cuda]") {
  for_each_shape([&]<Index C>(Index rows, std::integral_constant<Index, C>, Layout layout, std::uint64_t seed) {
    Stream stream(seed);
    TwinMatrix<float> wide(rows, C, seed, layout);
    TwinMatrix<bf16> narrow(rows, C, seed, layout);
    TwinMatrix<float> back(rows, C, seed + 1);
    cuda::copy<float, bf16>(stream, wide.device(), narrow.device());
    for (Index r = 0; r < rows; ++r) {
      for (Index c = 0; c < C; ++c) REQUIRE(narrow.device()(r, c).bits == bf16(wide.device()(r, c)).bits);
    }
    cuda::copy<bf16, float>(stream, narrow.device(), back.device());
    for (Index r = 0; r < rows; ++r) {
      for (Index c = 0; c < C; ++c) REQUIRE(back.device()(r, c) == narrow.device()(r, c));
    }
  });
}

TEST_CASE("Caps at their limits: nothing overflows, and a NaN stays where it is", "[cuda]") {
  const float infinite = std::numeric_limits<float>::infinity();
  const float largest = std::numeric_limits<float>::max();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  DeviceVector<float> gate = {-infinite, -largest, -104, 0, 104, largest, infinite, nan}, capped = gate;
  Stream stream;
  cuda::soft_cap<xlstm::SoftCap<30.0>, float>(stream, {capped.data(), 1, 8});
  for (std::size_t i : {0U, 1U}) REQUIRE(capped[i] == -30);
  for (std::size_t i : {5U, 6U}) REQUIRE(capped[i] == 30);
  REQUIRE(std::isnan(capped[7]));
  cuda::soft_cap<xlstm::NoSoftCap, float>(stream, {gate.data(), 1, 8});
  REQUIRE(gate[5] == largest);
}

TEST_CASE("Matrices without rows are nothing", "[cuda]") {
  Stream stream;
  DeviceVector<float> y(4, 1);
  cuda::add<float>(stream, {y.data(), 0, 4}, {y.data(), 0, 4});
  REQUIRE(y == DeviceVector<float>(4, 1.0F));
}

/// A function of a program's own.
struct Hypotenuse {
  static constexpr int inputs = 2, outputs = 2;
  XLSTM_HOST_DEVICE cuda::Floats<2> operator()(const cuda::Floats<2>& x) const {
    const float length = cuda::sqrt(x[0] * x[0] + x[1] * x[1]);
    return {{length, scale * x[0]}};
  }
  float scale;
};

TEST_CASE("A function of one's own, with a value of its own", "[cuda]") {
  DeviceVector<float> a = {3, 5, 8}, b = {4, 12, 15}, length(3), scaled(3);
  Stream stream;
  cuda::map_elements<float, float>(stream, Hypotenuse{2}, {{a.data(), 1, 3}, {b.data(), 1, 3}},
                                   {{length.data(), 1, 3}, {scaled.data(), 1, 3}});
  REQUIRE(length == DeviceVector<float>{5, 13, 17});
  REQUIRE(scaled == DeviceVector<float>{6, 10, 16});
}

}  // namespace
