// SPDX-License-Identifier: Apache-2.0
// cuda/quantized_linear.hpp, cuda/dequantize.hpp and cuda/linear.hpp: codes are the numbers that the CPU takes them
// for, and products are those of the same weights as floats, in any shape.
#include "xlstm/cuda/quantized_linear.hpp"

#include <cmath>
#include <vector>

#include "catch.hpp"
#include "device.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/cpu/quantize.hpp"
#include "xlstm/cpu/thread_pool.hpp"

using xlstm::bf16;
using xlstm::f16;
using xlstm::Index;
using xlstm::Int4;
using xlstm::Int8;
using xlstm::MatrixView;
using xlstm::tests::DeviceStream;
using xlstm::tests::DeviceVector;

namespace {

namespace cuda = xlstm::cuda;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// Values that differ in size from column to column, so that scales differ.
std::vector<float> values(Index count, std::uint64_t seed) {
  xlstm::Random random(seed);
  std::vector<float> all(at(count));
  for (float& x : all) x = static_cast<float>(random.normal() * std::exp(random.normal()));
  return all;
}

struct alignas(16) Bytes {
  std::uint8_t bytes[16];
};

template <class F>
struct Quantized {
  Quantized(Index o, Index i, std::uint64_t seed)
      : out(o), in(i), memory(at(o * F::row_bytes(i) / 16)), scales(at(o * F::groups(i))), floats(at(o * i)) {
    const std::vector<float> weights = values(out * in, seed);
    xlstm::cpu::ThreadPool threads(1);
    const auto read = [&](Index r, float* row) { std::copy_n(weights.data() + r * in, in, row); };
    REQUIRE(xlstm::cpu::quantize_rows<F>(threads, out, in, read, codes(), scales.data()) == -1);
    for (Index r = 0; r < out; ++r) {
      xlstm::cpu::dequantize_row<F>(codes() + r * F::row_bytes(in), scales.data() + r * F::groups(in), in,
                                    floats.data() + r * in);
    }
  }
  std::uint8_t* codes() { return memory.front().bytes; }

  Index out, in;
  DeviceVector<Bytes> memory;
  DeviceVector<bf16> scales;
  std::vector<float> floats;
};

template <class F>
void check_floats(Index out, Index in) {
  INFO(F::name << " in groups of " << F::group_size << ", " << out << " × " << in);
  Quantized<F> weights(out, in, 1);
  DeviceStream stream;
  const Index stride = cuda::dequantized_stride(in);
  DeviceVector<float> floats(at(out * stride), 7);
  DeviceVector<bf16> rounded(at(out * stride + 8));
  bf16* const aligned = rounded.data() + (16 - reinterpret_cast<std::uintptr_t>(rounded.data()) % 16) % 16 / 2;
  cuda::dequantize<F>(stream, weights.codes(), weights.scales.data(), out, in, floats.data());
  cuda::dequantize<F>(stream, weights.codes(), weights.scales.data(), out, in, aligned);
  Index wrong = 0;
  for (Index r = 0; r < out; ++r) {
    for (Index c = 0; c < stride; ++c) {
      const float expected = c < in ? weights.floats[at(r * in + c)] : 0;
      wrong += floats[at(r * stride + c)] != expected ? 1 : 0;
      wrong += float{aligned[r * stride + c]} != float{bf16(expected)} ? 1 : 0;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("codes and scales on a device are the CPU's floats", "[cuda]") {
  check_floats<Int8<128>>(3, 300);
  check_floats<Int8<32>>(5, 33);
  check_floats<Int4<32>>(3, 300);
  check_floats<Int4<32>>(1, 1);
  check_floats<Int4<256>>(2, 577);
}

/// `rows` rows of x with `stride` elements between them times a matrix of each of `outs` rows. What is allowed are the
/// rounding of the result to Y, and of fp32 sums in another order: 2^-24 for about √in additions, relative to the sums
/// of magnitudes.
template <class F, class X, class Y>
void check_product(Index rows, Index in, Index stride, std::vector<Index> outs, bool with_bias, std::uint64_t seed) {
  INFO(F::name << " in groups of " << F::group_size << ", " << rows << " rows of " << in << ", seed " << seed);
  const double rounding = std::is_same_v<Y, float> ? 0 : std::is_same_v<Y, bf16> ? 0x1p-8 : 0x1p-11;
  DeviceVector<X> x;
  for (const float value : values(rows * stride, seed)) x.push_back(X(value));
  std::vector<Quantized<F>> weights;
  std::vector<DeviceVector<float>> biases;
  std::vector<DeviceVector<Y>> ys;
  std::vector<cuda::QuantizedTerm<Y>> terms;
  for (const Index out : outs) {
    weights.emplace_back(out, in, seed + 1 + weights.size());
    const std::vector<float> bias = values(out, seed + 20);
    biases.emplace_back(bias.begin(), bias.end());
    ys.emplace_back(at(rows * (out + 3)), Y(7.0F));
  }
  for (std::size_t i = 0; i < outs.size(); ++i) {
    terms.push_back({weights[i].codes(), weights[i].scales.data(), with_bias ? biases[i].data() : nullptr, outs[i],
                     ys[i].data(), outs[i] + 3});
  }
  DeviceStream stream(seed);
  cuda::quantized_linear<F>(stream, MatrixView<const X>(x.data(), rows, in, stride),
                            std::span<const cuda::QuantizedTerm<Y>>(terms));
  Index wrong = 0;
  for (std::size_t i = 0; i < outs.size(); ++i) {
    for (Index r = 0; r < rows; ++r) {
      for (Index o = 0; o < outs[i]; ++o) {
        double sum = with_bias ? static_cast<double>(biases[i][at(o)]) : 0;
        double magnitude = std::abs(sum);
        for (Index c = 0; c < in; ++c) {
          const double product = static_cast<double>(float{x[at(r * stride + c)]}) *
                                 static_cast<double>(weights[i].floats[at(o * in + c)]);
          sum += product;
          magnitude += std::abs(product);
        }
        const double found = static_cast<double>(float{ys[i][at(r * (outs[i] + 3) + o)]});
        const double allowed = rounding * std::abs(sum) + 0x1p-22 * magnitude;
        wrong += std::abs(found - sum) <= allowed ? 0 : 1;
      }
      for (Index o = outs[i]; o < outs[i] + 3; ++o) wrong += float{ys[i][at(r * (outs[i] + 3) + o)]} == 7 ? 0 : 1;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("products of quantised weights and few rows are those of the same weights as floats", "[cuda]") {
  check_product<Int8<128>, float, float>(1, 300, 300, {37}, true, 0);
  check_product<Int4<32>, float, float>(1, 300, 300, {37}, false, 1);
  check_product<Int8<64>, bf16, bf16>(2, 640, 640, {16, 5}, true, 2);
  check_product<Int4<32>, bf16, float>(3, 97, 101, {4, 1, 17}, true, 3);
  check_product<Int8<32>, f16, f16>(4, 33, 40, {2, 2, 2, 2}, false, 4);
  check_product<Int4<64>, float, bf16>(5, 1, 1, {1}, true, 5);
  check_product<Int8<128>, bf16, float>(8, 1100, 1100, {9}, false, 6);
}

TEST_CASE("products of sixteen rows, of rows longer than shared memory, and of none", "[cuda]") {
  check_product<Int8<128>, bf16, bf16>(9, 1500, 1500, {6}, true, 0);
  check_product<Int4<32>, float, float>(16, 2100, 2100, {3}, false, 1);
  check_product<Int8<128>, float, float>(1, 8500, 8500, {2}, false, 2);
  check_product<Int4<32>, bf16, bf16>(0, 64, 64, {5}, false, 3);
}

}  // namespace
