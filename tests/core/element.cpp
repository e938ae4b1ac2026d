// SPDX-License-Identifier: Apache-2.0
#include "xlstm/core/element.hpp"

#include <cmath>
#include <limits>

#include "catch.hpp"

using xlstm::bf16;
using xlstm::f16;

TEST_CASE("every 16-bit pattern survives the way through float") {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const auto u = static_cast<std::uint16_t>(bits);
    const float b = bf16::from_bits(u);
    const float h = f16::from_bits(u);
    if (std::isnan(b)) {
      CHECK(std::isnan(float{bf16(b)}));
    } else if (bf16(b).bits != u) {
      FAIL("bf16 " << bits);
    }
    if (std::isnan(h)) {
      CHECK(std::isnan(float{f16(h)}));
    } else if (f16(h).bits != u) {
      FAIL("f16 " << bits);
    }
  }
}

TEST_CASE("rounding is to nearest, ties to even") {
  CHECK(float{bf16(1.0F + 0x1p-8F)} == 1.0F);                // halfway between 1 and 1 + 2^-7: even is 1
  CHECK(float{bf16(1.0F + 3 * 0x1p-8F)} == 1.0F + 0x1p-6F);  // halfway, even is above
  CHECK(float{bf16(1.0F + 0x1.01p-8F)} == 1.0F + 0x1p-7F);
  CHECK(float{f16(1.0F + 0x1p-11F)} == 1.0F);
  CHECK(float{f16(1.0F + 3 * 0x1p-11F)} == 1.0F + 0x1p-9F);
  CHECK(float{f16(65519.0F)} == 65504.0F);
  CHECK(float{f16(0x1p-25F)} == 0.0F);
  CHECK(float{f16(0x1.8p-25F)} == 0x1p-24F);
}

TEST_CASE("extremes") {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  CHECK(float{f16(65520.0F)} == infinity);
  CHECK(float{f16(-1e30F)} == -infinity);
  CHECK(float{bf16(std::numeric_limits<float>::max())} == infinity);
  CHECK(std::signbit(float{f16(-0.0F)}));
  CHECK(std::isnan(float{bf16(std::numeric_limits<float>::quiet_NaN())}));
}

TEST_CASE("load_element reads unaligned data of every type") {
  alignas(4) std::byte buffer[16]{};
  const float x = -2.5F;
  std::memcpy(buffer + 1, &x, 4);
  CHECK(xlstm::load_element(xlstm::DType::f32, buffer + 1, 0) == x);
  const bf16 b(x);
  std::memcpy(buffer + 3, &b, 2);
  CHECK(xlstm::load_element(xlstm::DType::bf16, buffer + 1, 1) == x);
  const f16 h(x);
  std::memcpy(buffer + 3, &h, 2);
  CHECK(xlstm::load_element(xlstm::DType::f16, buffer + 1, 1) == x);
}
