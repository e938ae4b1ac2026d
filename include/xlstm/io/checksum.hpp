// SPDX-License-Identifier: Apache-2.0
// CRC-64/XZ (ECMA-182's polynomial, reflected): what guards sessions and training checkpoints against damage.
// Slicing by eight: eight tables, a word a step.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace xlstm::io {

namespace detail {
constexpr std::array<std::array<std::uint64_t, 256>, 8> crc64_tables() {
  constexpr std::uint64_t polynomial = 0xc96c5795d7870f42U;
  std::array<std::array<std::uint64_t, 256>, 8> tables{};
  for (std::uint64_t i = 0; i < 256; ++i) {
    std::uint64_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? polynomial : 0);
    tables[0][i] = crc;
  }
  for (std::size_t t = 1; t < 8; ++t) {
    for (std::size_t i = 0; i < 256; ++i) {
      tables[t][i] = (tables[t - 1][i] >> 8) ^ tables[0][tables[t - 1][i] & 0xff];
    }
  }
  return tables;
}
inline constexpr auto crc64 = crc64_tables();
}  // namespace detail

/// A running CRC-64/XZ: feed it pieces of any size, ask for value() at any time.
class Checksum {
 public:
  void update(std::span<const std::byte> bytes) {
    const auto& t = detail::crc64;
    std::uint64_t crc = crc_;
    const std::byte* p = bytes.data();
    std::size_t left = bytes.size();
    if constexpr (std::endian::native == std::endian::little) {
      for (; left >= 8; left -= 8, p += 8) {
        std::uint64_t word;
        std::memcpy(&word, p, 8);
        crc ^= word;
        crc = t[7][crc & 0xff] ^ t[6][crc >> 8 & 0xff] ^ t[5][crc >> 16 & 0xff] ^ t[4][crc >> 24 & 0xff] ^
              t[3][crc >> 32 & 0xff] ^ t[2][crc >> 40 & 0xff] ^ t[1][crc >> 48 & 0xff] ^ t[0][crc >> 56];
      }
    }
    for (; left > 0; --left, ++p) crc = (crc >> 8) ^ t[0][(crc ^ static_cast<std::uint64_t>(*p)) & 0xff];
    crc_ = crc;
  }
  std::uint64_t value() const { return ~crc_; }

 private:
  std::uint64_t crc_ = ~std::uint64_t{0};
};

}  // namespace xlstm::io
