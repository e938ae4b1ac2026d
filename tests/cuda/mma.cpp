// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/mma.hpp"

#include <vector>

#include "catch.hpp"
#include "device.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/cuda/math.hpp"

using xlstm::bf16;
using xlstm::f16;
using xlstm::tests::run_on_device;

namespace mma_tests {  // named: nvcc confuses a kernel's unnamed namespace with Catch2's inside it

namespace cuda = xlstm::cuda;

// The tables of the PTX manual, some entries each: the element of lane 5 (group 1, thread 1 in it).
static_assert(cuda::FragmentA<bf16>::row(5, 0) == 1 && cuda::FragmentA<bf16>::column(5, 0) == 2);
static_assert(cuda::FragmentA<bf16>::row(5, 3) == 9 && cuda::FragmentA<bf16>::column(5, 3) == 3);
static_assert(cuda::FragmentA<bf16>::row(5, 4) == 1 && cuda::FragmentA<bf16>::column(5, 4) == 10);
static_assert(cuda::FragmentA<bf16>::row(5, 7) == 9 && cuda::FragmentA<bf16>::column(5, 7) == 11);
static_assert(cuda::FragmentB<bf16>::row(5, 1) == 3 && cuda::FragmentB<bf16>::column(5, 1) == 1);
static_assert(cuda::FragmentB<bf16>::row(5, 2) == 10 && cuda::FragmentB<bf16>::column(31, 2) == 7);
static_assert(cuda::FragmentC::row(5, 1) == 1 && cuda::FragmentC::column(5, 1) == 3);
static_assert(cuda::FragmentC::row(5, 2) == 9 && cuda::FragmentC::column(5, 2) == 2);

constexpr int stride = 24;

/// C += A B, with the operands loaded from shared memory as rows or as columns.
template <class T, bool Transposed>
struct Product {
  struct A : cuda::SharedArray<T, 16 * stride> {};
  struct B : cuda::SharedArray<T, 16 * stride> {};
  using Shared = cuda::SharedLayout<A, B>;
  const T* a;  ///< (16, 16)
  const T* b;  ///< (16, 8)
  float* c;    ///< (16, 8)
  static constexpr int threads = 32;

  template <cuda::DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    auto left = thread.template shared<A>();
    auto right = thread.template shared<B>();
    for (int i = thread.lane(); i < 256; i += 32) {
      left[Transposed ? i % 16 * stride + i / 16 : i / 16 * stride + i % 16] = a[i];
      if (i < 128) right[Transposed ? i / 8 * stride + i % 8 : i % 8 * stride + i / 8] = b[i];
    }
    thread.sync_warp();
    const auto fragment_a = [&] {
      if constexpr (Transposed) return cuda::load_a_transposed<T>(thread, left, stride);
      return cuda::load_a<T>(thread, left, stride);
    }();
    const auto fragment_b = [&] {
      if constexpr (Transposed) return cuda::load_b_transposed<T>(thread, right, stride);
      return cuda::load_b<T>(thread, right, stride);
    }();
    cuda::FragmentC sum;
    const auto at = [&](int i) {
      return cuda::FragmentC::row(thread.lane(), i) * 8 + cuda::FragmentC::column(thread.lane(), i);
    };
    for (int i = 0; i < 4; ++i) sum.values[i] = c[at(i)];
    thread.mma(sum, fragment_a, fragment_b);
    for (int i = 0; i < 4; ++i) c[at(i)] = sum.values[i];
  }
};

TEMPLATE_TEST_CASE("A warp multiplies 16 × 16 by 16 × 8", "[cuda]", bf16, f16) {
  xlstm::Random random(3);
  xlstm::tests::DeviceVector<TestType> a(256), b(128);
  xlstm::tests::DeviceVector<float> c(128), expected(128);
  for (auto& x : a) x = TestType(random.normal());
  for (auto& x : b) x = TestType(random.normal());
  for (auto& x : c) x = static_cast<float>(random.normal());
  for (std::size_t i = 0; i < 128; ++i) {
    double sum = static_cast<double>(c[i]);
    for (std::size_t k = 0; k < 16; ++k) {
      sum += static_cast<double>(float{a[i / 8 * 16 + k]}) * static_cast<double>(float{b[k * 8 + i % 8]});
    }
    expected[i] = static_cast<float>(sum);
  }
  auto rows = c;
  run_on_device({}, Product<TestType, false>{a.data(), b.data(), rows.data()});
  REQUIRE(rows == expected);
  auto columns = c;
  run_on_device({}, Product<TestType, true>{a.data(), b.data(), columns.data()});
  REQUIRE(columns == expected);
}

TEST_CASE("Sums become the left operand of the next product", "[cuda]") {
  for (int lane = 0; lane < 32; ++lane) {
    const auto entry = [](int r, int c) { return static_cast<float>(16 * r + c); };
    cuda::FragmentC sums[2];
    for (int tile = 0; tile < 2; ++tile) {
      for (int i = 0; i < 4; ++i) {
        sums[tile].values[i] = entry(cuda::FragmentC::row(lane, i), 8 * tile + cuda::FragmentC::column(lane, i));
      }
    }
    using A = cuda::FragmentA<bf16>;
    const A a = cuda::as_a<bf16>(sums[0], sums[1]);
    for (int i = 0; i < A::elements; ++i) {
      REQUIRE(float{cuda::unpack<bf16>(a.registers[i / 2], i % 2)} == entry(A::row(lane, i), A::column(lane, i)));
    }
  }
}

TEST_CASE("Two elements in a register", "[cuda]") {
  const auto packed = cuda::pack(bf16(1.5F), bf16(-2.0F));
  REQUIRE(packed == 0xc0003fc0U);
  REQUIRE(float{cuda::unpack<bf16>(packed, 0)} == 1.5F);
  REQUIRE(float{cuda::unpack<bf16>(packed, 1)} == -2.0F);
}

}  // namespace mma_tests
