// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cpu/simd.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "catch.hpp"

namespace simd = xlstm::cpu::simd;
using simd::width;
using xlstm::bf16;
using xlstm::f16;
using xlstm::Index;

namespace {

simd::Floats counting(float first) {
  simd::Floats v = simd::zero();
  for (int i = 0; i < width; ++i) v[i] = first + static_cast<float>(i);
  return v;
}

template <class T>
int wrong_expansions() {
  int wrong = 0;
  for (int first = 0; first < 65536; first += width) {
    T values[width];
    for (int i = 0; i < width; ++i) values[i] = T::from_bits(static_cast<std::uint16_t>(first + i));
    const simd::Floats v = simd::load(values);
    for (int i = 0; i < width; ++i) {
      const float expected = values[i];
      const float lane = v[i];
      wrong += std::isnan(expected) ? !std::isnan(lane) : std::memcmp(&expected, &lane, sizeof lane) != 0;
    }
  }
  return wrong;
}

}  // namespace

TEST_CASE("every bf16 and every f16 expands to the float it is", "[simd]") {
  REQUIRE(wrong_expansions<bf16>() == 0);
  REQUIRE(wrong_expansions<f16>() == 0);
}

TEST_CASE("rounding to bf16 is that of the element type", "[simd]") {
  std::uint32_t bits = 1;
  for (int i = 0; i < 20000; ++i) {
    bits = bits * 1664525U + 1013904223U;
    const std::uint32_t near_a_tie = i % 2 == 0 ? bits : (bits & 0xffff0000U) | (0x7fffU + bits % 3);
    const float x = std::bit_cast<float>(near_a_tie), rounded = simd::round_to_bf16(simd::broadcast(x))[width - 1];
    const float expected = bf16(x);
    REQUIRE((std::isnan(x) ? std::isnan(rounded)
                           : std::bit_cast<std::uint32_t>(rounded) == std::bit_cast<std::uint32_t>(expected)));
  }
}

TEST_CASE("partial loads end with zeros, partial stores touch nothing else", "[simd]") {
  for (Index count = 0; count < width; ++count) {
    const std::vector<float> floats(static_cast<std::size_t>(count), 3.0F);  // exactly as long as may be read
    const std::vector<bf16> halves(static_cast<std::size_t>(count), bf16(3.0F));
    const std::vector<f16> f16s(static_cast<std::size_t>(count), f16(3.0F));
    std::vector<float> to(static_cast<std::size_t>(width), -1.0F);
    simd::store_partial(to.data(), counting(5), count);
    for (int i = 0; i < width; ++i) {
      const float expected = i < count ? 3.0F : 0.0F;
      REQUIRE(simd::load_partial(floats.data(), count)[i] == expected);
      REQUIRE(simd::load_partial(halves.data(), count)[i] == expected);
      REQUIRE(simd::load_partial(f16s.data(), count)[i] == expected);
      REQUIRE(to[static_cast<std::size_t>(i)] == (i < count ? 5.0F + static_cast<float>(i) : -1.0F));
    }
  }
}

TEST_CASE("transpose", "[simd]") {
  simd::Floats v[width];
  for (int i = 0; i < width; ++i) v[i] = counting(static_cast<float>(100 * i));
  simd::transpose(v);
  for (int i = 0; i < width; ++i) {
    for (int j = 0; j < width; ++j) REQUIRE(v[i][j] == static_cast<float>(100 * j + i));
  }
}

TEST_CASE("a transpose of rows in memory", "[simd]") {
  constexpr int stride = width + 3;
  std::vector<float> memory(static_cast<std::size_t>(stride * width));
  std::iota(memory.begin(), memory.end(), 0.0F);
  simd::Floats v[width];
  simd::load_transposed(memory.data(), stride, v);
  for (int c = 0; c < width; ++c) {
    for (int r = 0; r < width; ++r) REQUIRE(v[c][r] == static_cast<float>(r * stride + c));
  }
}

TEST_CASE("the first half of a transpose", "[simd]") {
  simd::Floats v[width];
  for (int i = 0; i < width; ++i) v[i] = counting(static_cast<float>(100 * i));
  simd::transpose_first_half(v);
  for (int c = 0; c < width / 2; ++c) {
    for (int i = 0; i < width; ++i) REQUIRE(v[c][i] == static_cast<float>(100 * i + c));
  }
}

TEST_CASE("reductions; four sums at once have the bits of single ones", "[simd]") {
  REQUIRE(simd::reduce_add(counting(1)) == static_cast<float>(width * (width + 1) / 2));
  REQUIRE(simd::reduce_max(-counting(-3)) == 3.0F);
  simd::Floats v[4];
  for (int j = 0; j < 4; ++j) {
    for (int i = 0; i < width; ++i) v[j][i] = std::sin(static_cast<float>(17 * i + 5 * j));
  }
  float sums[4];
  simd::reduce_add_four(v, sums);
  for (int j = 0; j < 4; ++j) REQUIRE(sums[j] == simd::reduce_add(v[j]));
}

TEST_CASE("select, max and min", "[simd]") {
  const simd::Floats a = counting(0), b = simd::broadcast(1.5F);
  for (int i = 0; i < width; ++i) {
    const float x = static_cast<float>(i);
    REQUIRE(simd::max(a, b)[i] == std::max(x, 1.5F));
    REQUIRE(simd::min(a, b)[i] == std::min(x, 1.5F));
    REQUIRE(simd::select(a < b, a, b)[i] == std::min(x, 1.5F));
  }
}

TEST_CASE("vectors cover an array once, and the last one holds what is left", "[simd]") {
  for (Index count = 0; count <= 3 * width + 1; ++count) {
    std::vector<float> from(static_cast<std::size_t>(count + 1), 5.0F), to = from;
    Index next = 0;
    simd::for_each_vector(count, [&](Index first, Index lanes) {
      REQUIRE(first == next);
      REQUIRE(lanes >= 1);
      REQUIRE((lanes == width || first + lanes == count));
      next += lanes;
      simd::store_first(to.data() + first, simd::load_first(from.data() + first, lanes) + 1.0F, lanes);
    });
    REQUIRE(next == count);
    for (Index i = 0; i <= count; ++i) REQUIRE(to[static_cast<std::size_t>(i)] == (i < count ? 6.0F : 5.0F));
  }
}
