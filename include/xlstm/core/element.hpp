// SPDX-License-Identifier: Apache-2.0
// Element types of weights: float, bf16 (upper half of a float) and f16 (IEEE 754 binary16).
// Both 16-bit types are storage only: arithmetic happens after conversion to float.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace xlstm {

/// bfloat16: sign, 8 exponent bits, 7 fraction bits. Conversion from float rounds to nearest, ties to even.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  explicit constexpr bf16(float x) : bits(round(x)) {}
  explicit constexpr bf16(double x) : bf16(static_cast<float>(x)) {}
  constexpr operator float() const { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

  static constexpr bf16 from_bits(std::uint16_t b) {
    bf16 r;
    r.bits = b;
    return r;
  }

 private:
  static constexpr std::uint16_t round(float x) {
    const auto u = std::bit_cast<std::uint32_t>(x);
    if ((u & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>((u >> 16) | 0x40U);  // NaN stays NaN
    return static_cast<std::uint16_t>((u + 0x7fffU + ((u >> 16) & 1U)) >> 16);
  }
};

/// IEEE half precision. Conversion from float rounds to nearest, ties to even; what is too large becomes infinite.
struct f16 {
  std::uint16_t bits = 0;

  f16() = default;
  explicit constexpr f16(float x) : bits(round(x)) {}
  explicit constexpr f16(double x) : f16(static_cast<float>(x)) {}
  constexpr operator float() const {
    const std::uint32_t sign = std::uint32_t{bits & 0x8000U} << 16;
    const std::uint32_t magnitude = bits & 0x7fffU;
    if (magnitude >= 0x7c00U) return std::bit_cast<float>(sign | 0x7f800000U | (magnitude & 0x3ffU) << 13);
    if (magnitude >= 0x400U) return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000U));
    const float subnormal = static_cast<float>(magnitude) * 0x1p-24F;
    return sign != 0 ? -subnormal : subnormal;
  }

  static constexpr f16 from_bits(std::uint16_t b) {
    f16 r;
    r.bits = b;
    return r;
  }

 private:
  static constexpr std::uint16_t round(float x) {
    const auto u = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t sign = (u >> 16) & 0x8000U;
    const std::uint32_t a = u & 0x7fffffffU;
    if (a > 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7e00U);
    if (a >= 0x47800000U) return static_cast<std::uint16_t>(sign | 0x7c00U);  // 65536 and more
    if (a < 0x38800000U) {                                                    // below 2^-14: subnormal
      const float scaled = std::bit_cast<float>(a) + 0.5F;                    // 2^-24 becomes the last bit of 0.5
      return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(scaled) - 0x3f000000U));
    }
    return static_cast<std::uint16_t>(sign | ((a - 0x38000000U + 0xfffU + ((a >> 13) & 1U)) >> 13));
  }
};

static_assert(sizeof(bf16) == 2 && sizeof(f16) == 2);

/// The element types that a checkpoint's tensors may have.
enum class DType { f32, bf16, f16 };

template <class T>
inline constexpr DType dtype_of = DType::f32;
template <>
inline constexpr DType dtype_of<bf16> = DType::bf16;
template <>
inline constexpr DType dtype_of<f16> = DType::f16;

/// Bytes of one element.
constexpr std::size_t size_of(DType t) { return t == DType::f32 ? 4 : 2; }

/// The name in safetensors files.
constexpr std::string_view safetensors_name(DType t) {
  return t == DType::f32 ? "F32" : t == DType::bf16 ? "BF16" : "F16";
}

/// The element at `data[i]` of a (possibly unaligned) buffer of type t, as a float.
inline float load_element(DType t, const std::byte* data, std::ptrdiff_t i) {
  if (t == DType::f32) {
    float x;
    std::memcpy(&x, data + i * 4, 4);
    return x;
  }
  std::uint16_t u;
  std::memcpy(&u, data + i * 2, 2);
  return t == DType::bf16 ? float{bf16::from_bits(u)} : float{f16::from_bits(u)};
}

}  // namespace xlstm
