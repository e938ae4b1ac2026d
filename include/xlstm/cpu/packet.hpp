// SPDX-License-Identifier: Apache-2.0
// The widest vector of floats that the compiler's target has, as the vector extension that g++ and clang++ share:
// arithmetic is written with operators, and a·b + c becomes one fused multiply-add where there is one.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <utility>

#include "xlstm/core/index.hpp"

namespace xlstm::cpu {

#if defined(__AVX512F__)
inline constexpr Index packet_size = 16;
#elif defined(__AVX__)
inline constexpr Index packet_size = 8;
#else
inline constexpr Index packet_size = 4;
#endif

typedef float Packet __attribute__((vector_size(packet_size * sizeof(float))));

inline Packet load_packet(const float* from) {
  Packet x;
  std::memcpy(&x, from, sizeof(Packet));
  return x;
}

inline void store_packet(float* to, const Packet& x) { std::memcpy(to, &x, sizeof(Packet)); }

/// Minus zero, as that is no operation for any x, while plus zero is one for −0.
inline Packet broadcast(float x) { return x - Packet{}; }

namespace detail {
template <std::size_t... I>
inline void interleave(const Packet& a, const Packet& b, Packet& low, Packet& high, std::index_sequence<I...>) {
  constexpr int n = static_cast<int>(packet_size);
  low = __builtin_shufflevector(a, b, (static_cast<int>(I) / 2 + static_cast<int>(I) % 2 * n)...);
  high = __builtin_shufflevector(a, b, (static_cast<int>(I) / 2 + n / 2 + static_cast<int>(I) % 2 * n)...);
}
}  // namespace detail

/// Transposes packet_size packets as a square matrix: log2(packet_size) perfect shuffles.
inline void transpose(Packet (&x)[packet_size]) {
  constexpr Index half = packet_size / 2;
  for (Index round = 1; round < packet_size; round *= 2) {
    Packet y[packet_size];
    for (Index i = 0; i < half; ++i)
      detail::interleave(x[i], x[i + half], y[2 * i], y[2 * i + 1], std::make_index_sequence<packet_size>());
    for (Index i = 0; i < packet_size; ++i) x[i] = y[i];
  }
}

/// Sum of a packet's entries, in a fixed order.
inline float sum(const Packet& x) {
  float half[packet_size];
  store_packet(half, x);
  for (Index n = packet_size / 2; n > 0; n /= 2)
    for (Index i = 0; i < n; ++i) half[i] += half[i + n];
  return half[0];
}

inline float sum(const float* x, Index count) {
  Packet total{};
  const Index whole = count - count % packet_size;
  for (Index i = 0; i < whole; i += packet_size) total += load_packet(x + i);
  float result = sum(total);
  for (Index i = whole; i < count; ++i) result += x[i];
  return result;
}

inline float dot(const float* x, const float* y, Index count) {
  Packet total{};
  const Index whole = count - count % packet_size;
  for (Index i = 0; i < whole; i += packet_size) total += load_packet(x + i) * load_packet(y + i);
  float result = sum(total);
  for (Index i = whole; i < count; ++i) result += x[i] * y[i];
  return result;
}

/// exp(x) for x ≤ 0, to 2 units in the last place, as straight code that compilers vectorise: 2^n times a polynomial
/// on |r| ≤ ln 2 / 2. Below −87 the result is 0.
inline float exp_of_negative(float x) {
  const float clamped = x < -87.0F ? -87.0F : x;
  const float shifted = clamped * 1.44269504088896341F + 0x1.8p23F;  // adding 1.5·2^23 rounds to an integer
  const float n = shifted - 0x1.8p23F;
  // ln 2 in two parts, the first short enough for n times it to be exact.
  const float r = (clamped - n * 0x1.62e4p-1F) - n * 0x1.7f7d1c0000000p-20F;
  float p = 1.0F / 720.0F;
  p = p * r + 1.0F / 120.0F;
  p = p * r + 1.0F / 24.0F;
  p = p * r + 1.0F / 6.0F;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const auto power = (static_cast<std::uint32_t>(static_cast<std::int32_t>(n) + 127)) << 23;
  const float y = p * std::bit_cast<float>(power);
  return x < -87.0F ? 0.0F : y;
}

}  // namespace xlstm::cpu
