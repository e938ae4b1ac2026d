// SPDX-License-Identifier: Apache-2.0
// The tile of a blocked product (matrix_product.hpp) in the registers of AMX with A rounded to bf16 and B in bf16 as it
// is stored: one product where amx_tiles.hpp makes three of A's parts. Sums are fp32; numbers below 2^-126 are zero.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "xlstm/core/element.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/cpu/amx.hpp"
#include "xlstm/cpu/matrix_operands.hpp"
#include "xlstm/cpu/simd.hpp"
#include "xlstm/cpu/storage.hpp"

namespace xlstm::cpu {

#if defined(XLSTM_SIMD_AMX) && defined(__AVX512BF16__)

/// A panel of A has 32 rows, one of B 32 columns. Both are blocks of 32 k one after another, each of two registers
/// (rows or columns 0–15 and 16–31). A register's row is one row of A, or one pair of rows of B. Zeros beyond the
/// matrix.
struct AmxRoundedTiles {
  static constexpr Index tile_m = 32;
  static constexpr Index tile_n = 32;
  static constexpr Index block_k = 1024;
  static constexpr Index block_n = 256;
  static constexpr Index strip_n = block_n;            ///< columns of B that meet a panel of A before the next one does
  static constexpr Index packed_k = block_k;           ///< of the summation, for which A is packed at once
  static constexpr Index block_m = 512;                ///< rows of C whose packed A is held at once
  static constexpr Index least_own_m = block_m;        ///< of rows for each thread, to have rows of its own
  static constexpr Index most_own_n = 0;               ///< columns of C of products in own rows (not measured)
  static constexpr Index most_own_b = Index{4} << 20;  ///< bytes of B's panels, which each thread has then (measured)
  static constexpr Index task_m = 128;                 ///< the same where each thread has rows of its own
  static constexpr Index near_task_m = task_m;         ///< and all of B stays in its cache
  static constexpr bool packs_alongside = false;
  static constexpr bool asks_ahead = false;

  using Element = std::uint32_t;  ///< of panels: a pair of bf16
  using Session = amx::Session;
  template <class B>
  static constexpr Index parts(const B&) {
    return 1;
  }
  static constexpr Index a_size(Index, Index depth) { return ceil_div(depth, block) * step; }
  static constexpr Index b_size(Index depth, Index) { return ceil_div(depth, block) * step; }
  static constexpr Index height(Index) { return tile_m; }

  // ---- packing

  /// Rows [m, m + count) and columns [k, k + depth) of A.
  static void pack_a(const RowsOfA& a, Index m, Index count, Index k, Index depth, Index, Element* panel) {
    for (Index i = 0; i < tile_m; ++i) {
      Element* to = panel + i / 16 * register_size + i % 16 * 16;
      const float* from = a.data + (m + std::min(i, count - 1)) * a.stride + k;
      for (Index d = 0; d < depth; d += block, to += step, from += block) {
        const auto load = [&](Index c) {
          const Index left = i < count ? depth - d - c : 0;
          return left >= simd::width ? simd::load(from + c)
                 : left > 0          ? simd::load_partial(from + c, left)
                                     : simd::zero();
        };
        const auto pairs = _mm512_cvtne2ps_pbh(load(simd::width), load(0));
        std::memcpy(to, &pairs, sizeof pairs);
      }
    }
  }

  /// Rows [k, k + depth) and columns [n, n + count) of B as panels.
  static void pack_b(const TransposedB<PlainRows<bf16>>& b, Index k, Index depth, Index n, Index count,
                     Element* panels) {
    for (Index first = 0; first < round_up(count, tile_n); first += 16) {
      Element* to = panels + first / tile_n * b_size(depth, 1) + first % tile_n / 16 * register_size;
      const bf16* const rows = b.rows.data + (n + first) * b.rows.stride + k;
      for (Index d = 0; d < depth; d += block, to += step) {
        const __mmask32 inside = depth - d >= block ? ~__mmask32{0} : (__mmask32{1} << (depth - d)) - 1;
        simd::Floats v[16];
#pragma GCC unroll 16
        for (Index i = 0; i < 16; ++i) {
          v[i] = first + i < count ? _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(inside, rows + i * b.rows.stride + d))
                                   : simd::zero();
        }
        simd::transpose(v);
        std::memcpy(to, v, sizeof v);
      }
    }
  }

  // ---- the product

  struct Beside {};  ///< nothing

  /// As VectorTiles::Product.
  using Product = void (*)(const Element* a, const Element* b, Index depth, float* c, Index stride, Index count_m,
                           Index count_n, const float* initial, bool add, Beside& beside);
  static constexpr Product product(Index, Index) { return multiply; }

 private:
  static constexpr Index block = 32;               ///< k of one instruction
  static constexpr Index register_size = 16 * 16;  ///< elements of a register
  static constexpr Index step = 2 * register_size;

  static void multiply(const Element* a, const Element* b, Index depth, float* c, Index stride, Index count_m,
                       Index count_n, const float* initial, bool add, Beside&) {
    amx::multiply_inside(c, stride, count_m, count_n, initial, add,
                         [=](Index, float* to, Index to_stride, const float* begin, Index begin_stride) {
                           multiply_whole(a, b, ceil_div(depth, block), to, to_stride, begin, begin_stride);
                         });
  }

  /// c = begin + a·b, 32 × 32; `begin` is null for zeros. Registers 0–3 are the sums, 4 and 5 hold A, 6 and 7 B.
  static void multiply_whole(const Element* a, const Element* b, Index blocks, float* c, Index stride,
                             const float* begin, Index begin_stride) {
    constexpr Index row_bytes = 64;
    amx::memory_fence();
    amx::begin_sums(begin, begin_stride);
    for (Index i = 0; i < blocks; ++i, a += step, b += step) {
      _tile_loadd(4, a, row_bytes);
      _tile_loadd(6, b, row_bytes);
      _tile_loadd(7, b + register_size, row_bytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, a + register_size, row_bytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    amx::store_sums(c, stride);
    amx::memory_fence();
  }
};

#endif

}  // namespace xlstm::cpu
