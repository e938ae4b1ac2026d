// SPDX-License-Identifier: Apache-2.0
// AMX's instructions in plain memory, for tests of what is built on them (cpu/amx.hpp) where the processor has none.
// Included before everything else, by the compiler's -include. Sums as Intel's manual has them for TDPBF16PS: products
// of the even and of the odd elements of pairs apart, both added to the sum at the end, and no denormal numbers. Unlike
// the instructions it is seen by sanitizers, and fails where there is no Session.
#pragma once

#include <immintrin.h>

#if defined(__AVX512F__) && !defined(__AMX_TILE__) && defined(__linux__)
#define XLSTM_EMULATED_AMX 1
#define __AMX_TILE__ 1
#define __AMX_BF16__ 1

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emulated_amx {

struct Register {
  alignas(64) std::uint8_t bytes[16][64] = {};
  int rows = 0;
  std::size_t row_bytes = 0;
};
struct Registers {
  bool configured = false;
  Register all[8];
};
inline thread_local Registers registers;

inline Register& number(int i) {
  if (!registers.configured) {
    std::fputs("emulated AMX: a register is used outside of a Session\n", stderr);
    std::abort();
  }
  return registers.all[i];
}

inline void load_config(const void* config) {
  std::uint8_t bytes[64];
  std::memcpy(bytes, config, sizeof bytes);
  registers = {};
  registers.configured = bytes[0] == 1;
  for (int i = 0; i < 8; ++i) {
    std::uint16_t row_bytes;
    std::memcpy(&row_bytes, bytes + 16 + 2 * i, sizeof row_bytes);
    registers.all[i].row_bytes = row_bytes;
    registers.all[i].rows = bytes[48 + i];
  }
}
inline void release() { registers.configured = false; }
inline void zero(int to) { std::memset(number(to).bytes, 0, sizeof(Register::bytes)); }
inline void load(int to, const void* from, std::ptrdiff_t stride) {
  zero(to);
  Register& r = number(to);
  for (int row = 0; row < r.rows; ++row) {
    std::memcpy(r.bytes[row], static_cast<const std::uint8_t*>(from) + row * stride, r.row_bytes);
  }
}
inline void store(int from, void* to, std::ptrdiff_t stride) {
  const Register& r = number(from);
  for (int row = 0; row < r.rows; ++row) {
    std::memcpy(static_cast<std::uint8_t*>(to) + row * stride, r.bytes[row], r.row_bytes);
  }
}

inline __m512 without_denormals(__m512 x) {
  const __mmask16 normal = _mm512_test_epi32_mask(_mm512_castps_si512(x), _mm512_set1_epi32(0x7f800000));
  return _mm512_maskz_mov_ps(normal, x);
}
/// The first or the second elements of sixteen pairs of bf16, as floats.
inline __m512 even(__m512i pairs) { return without_denormals(_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))); }
inline __m512 odd(__m512i pairs) {
  return without_denormals(_mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-0x10000))));
}

inline void multiply_add(int sum, int left, int right) {
  Register &c = number(sum), &a = number(left), &b = number(right);
  for (int m = 0; m < c.rows; ++m) {
    __m512 of_even = _mm512_setzero_ps(), of_odd = _mm512_setzero_ps();
    for (std::size_t k = 0; k < a.row_bytes / 4; ++k) {
      int pair;
      std::memcpy(&pair, a.bytes[m] + 4 * k, sizeof pair);
      const __m512i of_a = _mm512_set1_epi32(pair), of_b = _mm512_load_si512(b.bytes[k]);
      of_even = without_denormals(_mm512_fmadd_ps(even(of_a), even(of_b), of_even));
      of_odd = without_denormals(_mm512_fmadd_ps(odd(of_a), odd(of_b), of_odd));
    }
    const __m512 both = without_denormals(_mm512_add_ps(of_even, of_odd));
    _mm512_store_ps(c.bytes[m], without_denormals(_mm512_add_ps(_mm512_load_ps(c.bytes[m]), both)));
  }
}

}  // namespace emulated_amx

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(config) ::emulated_amx::load_config(config)
#define _tile_release() ::emulated_amx::release()
#define _tile_zero(to) ::emulated_amx::zero(to)
#define _tile_loadd(to, from, stride) ::emulated_amx::load(to, from, stride)
#define _tile_stored(from, to, stride) ::emulated_amx::store(from, to, stride)
#define _tile_dpbf16ps(sum, left, right) ::emulated_amx::multiply_add(sum, left, right)

#endif
