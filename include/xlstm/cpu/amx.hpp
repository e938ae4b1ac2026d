// SPDX-License-Identifier: Apache-2.0
// Intel's Advanced Matrix Extensions: eight registers of 16 rows of 64 bytes, and one instruction that multiplies two
// of them into a third, 16 × 16 sums of 32 products of bf16 in fp32. Compiled in where the target has them (as
// -march=native says on such a machine); Linux gives a process their state only when asked.
#pragma once

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <string_view>

#include "xlstm/core/index.hpp"
#include "xlstm/cpu/simd.hpp"
#if defined(XLSTM_SIMD_AVX512)
#define XLSTM_SIMD_AMX 1
#endif
#endif

namespace xlstm::cpu::amx {

#if defined(XLSTM_SIMD_AMX)

/// Whether this process may use the registers; asks the kernel at the first call. Not where the environment has
/// XLSTM_AMX=0, with which the same program runs on vectors, as on a processor without AMX.
inline bool permitted() {
  static const bool granted = [] {
    const char* const wanted = std::getenv("XLSTM_AMX");
    if (wanted != nullptr && std::string_view(wanted) == "0") return false;
#if defined(XLSTM_EMULATED_AMX)  // by tests/cpu/emulated_amx.hpp
    return true;
#else
    constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#endif
  }();
  return granted;
}

namespace detail {
struct alignas(64) TileShapes {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
// Static: compilers believe that only its first bytes are read, and would not write the others.
inline constexpr TileShapes tile_shapes;
}  // namespace detail

/// While it lives, all eight registers of this thread are 16 rows of 64 bytes.
class Session {
 public:
  Session() { _tile_loadconfig(&detail::tile_shapes); }
  /// Registers 0 to 6 have `rows` rows, register 7 has 16.
  explicit Session(Index rows) {
    detail::TileShapes shapes = detail::tile_shapes;
    std::fill_n(shapes.rows, 7, static_cast<std::uint8_t>(rows));
    asm volatile("" : : "r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
  }
  ~Session() { _tile_release(); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
};

/// Compilers do not know that loads and stores of the registers touch memory: none is moved past this.
inline void memory_fence() { asm volatile("" ::: "memory"); }

/// Registers 0 and 1 as 16 rows of 32 sums: loaded from `begin`, its rows `stride` floats apart, or zeros where it is
/// null.
inline void begin_half_of_sums(const float* begin, Index stride) {
  if (begin != nullptr) {
    _tile_loadd(0, begin, stride * 4);
    _tile_loadd(1, begin + 16, stride * 4);
  } else {
    _tile_zero(0);
    _tile_zero(1);
  }
}
inline void store_half_of_sums(float* c, Index stride) {
  _tile_stored(0, c, stride * 4);
  _tile_stored(1, c + 16, stride * 4);
}

/// The same of registers 0 to 3 and 32 rows, rows 16–31 in 2 and 3.
inline void begin_sums(const float* begin, Index stride) {
  begin_half_of_sums(begin, stride);
  if (begin != nullptr) {
    _tile_loadd(2, begin + 16 * stride, stride * 4);
    _tile_loadd(3, begin + 16 * stride + 16, stride * 4);
  } else {
    _tile_zero(2);
    _tile_zero(3);
  }
}
/// Without `lower`, the first 16 rows only.
inline void store_sums(float* c, Index stride, bool lower = true) {
  store_half_of_sums(c, stride);
  if (!lower) return;
  _tile_stored(2, c + 16 * stride, stride * 4);
  _tile_stored(3, c + 16 * stride + 16, stride * 4);
}

/// A tile of C as VectorTiles::Product has it, of which count_m × count_n elements are inside the matrix, by
/// `multiply(rows, to, to_stride, begin, begin_stride)`, which makes 32 columns of as many rows: they go through a tile
/// of their own where not all 32 × 32 are inside.
template <class Multiply>
inline void multiply_inside(float* c, Index stride, Index count_m, Index count_n, const float* initial, bool add,
                            Multiply&& multiply) {
  constexpr Index size = 32;
  const float* const begin = add ? c : initial;
  const Index begin_stride = add ? stride : 0;
  if (count_m >= size && count_n >= size) return multiply(size, c, stride, begin, begin_stride);
  alignas(64) float tile[size * size];
  const Index rows = std::min(count_m, size), lanes = std::min(count_n, size);
  if (begin != nullptr) {
    std::fill(std::begin(tile), std::end(tile), 0.0F);
    for (Index i = 0; i < rows; ++i) std::copy_n(begin + i * begin_stride, lanes, tile + i * size);
  }
  multiply(rows, tile, size, begin != nullptr ? tile : nullptr, size);
  for (Index i = 0; i < rows; ++i) std::copy_n(tile + i * size, lanes, c + i * stride);
}

#endif

}  // namespace xlstm::cpu::amx
