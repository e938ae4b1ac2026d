// SPDX-License-Identifier: Apache-2.0
// The tile of a blocked product (matrix_product.hpp) in the registers of AMX. A float is a sum of bf16 parts, and a
// product of floats a few products of theirs, each sixteen times as fast as one in fp32. The precision (precision.hpp)
// says of how many parts:
//     highest  x = x₀ + x₁ + x₂ exactly (its leading 8 bits, the next 8, the last 8);
//              a·b = a₀b₀ + (a₀b₁ + a₁b₀) + (a₀b₂ + a₁b₁ + a₂b₀), six products, and terms below 2^-21 |a·b|, 2^-24 on
//              average, which are left out
//     high     x = x₀ + x₁ and a rest of up to 2^-16 |x|: both parts are rounded to nearest;
//              a·b = a₀b₀ + (a₀b₁ + a₁b₀), three products, and terms below 3·2^-16 |a·b|, 2^-18 on average, which are
//              left out
// Weights of fewer bits have fewer parts, bf16 one.
// (The splitting goes back to Dekker, Numerische Mathematik 18, 1971; for such units: Henry, Tang and Heinecke, arXiv
// 1904.06376.)
// Unlike in fp32, infinite elements give NaN, and parts below 2^-126 are zero. Rounding, in high precision, loses a NaN
// whose fraction begins with eight ones; those that arithmetic makes begin with a one and zeros.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "xlstm/core/index.hpp"
#include "xlstm/cpu/alongside.hpp"
#include "xlstm/cpu/amx.hpp"
#include "xlstm/cpu/amx_sharing.hpp"
#include "xlstm/cpu/matrix_operands.hpp"
#include "xlstm/cpu/precision.hpp"
#include "xlstm/cpu/simd.hpp"
#include "xlstm/cpu/storage.hpp"

namespace xlstm::cpu {

#if defined(XLSTM_SIMD_AMX)

/// A panel of A has 32 rows, one of B 32 columns. Both are blocks of 32 k one after another; in a block come the parts,
/// of each two registers (rows or columns 0–15 and 16–31). A register's row is one row of A, or one pair of rows of B:
/// its i-th pair of elements belongs to k = i and k = i + 16 of the block. Zeros beyond the matrix.
template <class Precision>
struct AmxTiles {
  static constexpr Index tile_m = 32;
  static constexpr Index tile_n = 32;
  static constexpr Index block_k = 512;
  static constexpr Index gradient_k = block_k;  ///< the same for gradients of weights in parts (weight_gradients.hpp)
  static constexpr Index block_n = 256;
  static constexpr Index strip_n = block_n;            ///< columns of B that meet a panel of A before the next one does
  static constexpr Index packed_k = block_k;           ///< of the summation, for which A is packed at once
  static constexpr Index block_m = 512;                ///< rows of C whose packed A is held at once
  static constexpr Index least_own_m = block_m;        ///< of rows for each thread, to have rows of its own
  static constexpr Index most_own_n = 0;               ///< columns of C of products in own rows (not measured)
  static constexpr Index most_own_b = Index{4} << 20;  ///< bytes of B's panels, which each thread has then (measured)
  static constexpr Index task_m = 128;                 ///< the same where each thread has rows of its own
  static constexpr Index near_task_m = 64;             ///< and all of B stays in its cache (measured)
  static constexpr bool packs_alongside = true;        ///< rows of A, while it multiplies
  static constexpr bool asks_ahead = true;             ///< for memory, while it multiplies
  static constexpr Index least_rows = 48;              ///< of C; below, packing B costs more than is gained

  static constexpr Index block = 32;           ///< k of one instruction
  static constexpr Index tile_size = 16 * 16;  ///< elements of a register
  static constexpr Index a_parts = Precision::bf16_parts;
  static constexpr Index a_step = a_parts * 2 * tile_size;  ///< a block of A

  using Element = std::uint32_t;  ///< of panels: a pair of bf16
  using Session = amx::Session;
  template <class B>
  static constexpr Index parts(const B& b) {
    return std::min(b.parts(), a_parts);
  }
  static constexpr Index a_size(Index, Index depth) { return ceil_div(depth, block) * a_parts * 2 * tile_size; }
  static constexpr Index b_size(Index depth, Index parts) { return ceil_div(depth, block) * parts * 2 * tile_size; }
  static constexpr Index height(Index) { return tile_m; }

  // ---- packing

  // Loops are nested so that memory is read in its own order as far as possible.

  /// Rows [m, m + count) and columns [k, k + depth) of A.
  static void pack_a(const RowsOfA& a, Index m, Index count, Index k, Index depth, Index, Element* panel) {
    for (Index i = 0; i < tile_m; ++i) {
      const auto row = PlainRows<float>{a.data, a.stride}.row(m + std::min(i, count - 1));
      for (Index d = 0; d < depth; d += block) {
        Element* const to = panel + d / block * a_step + i * 16;
        split<a_parts>(i < count ? load_block(row, k + d, depth - d) : Block{},
                       [&](Index p, Pairs pairs) { store(to + 2 * p * tile_size, pairs); });
      }
    }
  }
  static void pack_a(const ColumnsOfA& a, Index m, Index count, Index k, Index depth, Index, Element* panel) {
    const PlainRows<float> rows{a.data, a.stride};
    for (Index d = 0; d < depth; d += block, panel += a_step) {
      for (Index first = 0; first < tile_m; first += 16) {
        const Index columns = std::min<Index>(16, count - first);
        simd::Floats x[32];
        load_columns(rows, k + d, std::min<Index>(16, depth - d), m + first, columns, x);
        load_columns(rows, k + d + 16, std::min<Index>(16, depth - d - 16), m + first, columns, x + 16);
        split_rows<a_parts>(x, panel + first * 16);
      }
    }
  }

  /// Rows [k, k + depth) and columns [n, n + count) of B as panels.
  template <class Rows>
  static void pack_b(const TransposedB<Rows>& b, Index k, Index depth, Index n, Index count, Element* panels) {
    constexpr Index parts = std::min(Rows::parts, a_parts), step = parts * 2 * tile_size;
    for (Index first = 0; first < round_up(count, tile_n); first += 16) {
      Element* to = panels + first / tile_n * b_size(depth, parts) + first % tile_n / 16 * tile_size;
      for (Index d = 0; d < depth; d += block, to += step) {
        if constexpr (std::is_same_v<Rows, PlainRows<float>>) {
          const Index columns = std::min<Index>(16, count - first);
          simd::Floats x[32];
          load_columns(b.rows, n + first, columns, k + d, std::min<Index>(16, depth - d), x);
          load_columns(b.rows, n + first, columns, k + d + 16, std::min<Index>(16, depth - d - 16), x + 16);
          split_rows<parts>(x, to);
        } else {  // fewer parts, which are transposed in pairs
          Pairs part[parts][16];
#pragma GCC unroll 4
          for (Index i = 0; i < 16; ++i) {
            split<parts>(first + i < count ? load_block(b.rows.row(n + first + i), k + d, depth - d) : Block{},
                         [&](Index p, Pairs pairs) { part[p][i] = pairs; });
          }
          for (Index p = 0; p < parts; ++p) store_transposed(to + 2 * p * tile_size, part[p]);
        }
      }
    }
  }
  template <class Rows>
  static void pack_b(const PlainB<Rows>& b, Index k, Index depth, Index n, Index count, Element* panels) {
    constexpr Index parts = std::min(Rows::parts, a_parts), step = parts * 2 * tile_size;
    for (Index d = 0; d < depth; d += block, panels += step) {
      for (Index i = 0; i < 16; ++i) {
        for (Index first = 0; first < round_up(count, tile_n); first += 16) {
          Element* const to = panels + first / tile_n * b_size(depth, parts) + first % tile_n / 16 * tile_size + i * 16;
          split<parts>(load_two(b.rows, k + d + i, depth - d - i, n + first, count - first),
                       [&](Index p, Pairs pairs) { store(to + 2 * p * tile_size, pairs); });
        }
      }
    }
  }
  /// A panel of A, or of floats of B, as the work of Alongside. A step is a row of a register of each part.
  class Packing {
   public:
    Packing() = default;
    /// Rows [m, m + 32) of A; the depth is a multiple of 32.
    Packing(const RowsOfA& a, Index m, Index k, Index depth, Element* panel)
        : Packing(a.data + m * a.stride + k, a.stride, 16, depth, panel, a_step) {
      skip_[1] = block - 32 * a.stride;
    }
    /// Columns [n, n + 32) of B; the depth is a multiple of 32.
    Packing(const PlainB<PlainRows<float>>& b, Index k, Index depth, Index n, Element* panel)
        : Packing(b.rows.row(k).data + n, b.rows.stride, 16 * b.rows.stride, depth, panel, b_step<a_parts>) {
      skip_[0] = 16 - second_;
      skip_[1] = second_ - 16;
    }
    Index left() const { return left_; }
    [[gnu::always_inline]] void step() {
      split<a_parts>(Block{simd::load(from_ + at_), simd::load(from_ + at_ + second_)},
                     [&](Index p, Pairs pairs) { store(to_ + 2 * p * tile_size, pairs); });
      at_ += stride_;
      to_ += 16;
      --left_;
      if (left_ % 16 != 0) return;
      const bool end = left_ % 32 == 0;
      at_ += skip_[end ? 1 : 0];
      if (end) to_ += to_next_;
    }

   private:
    Packing(const float* from, Index stride, Index second, Index depth, Element* panel, Index step)
        : from_(from),
          stride_(stride),
          second_(second),
          to_(panel),
          to_next_(step - 2 * tile_size),
          left_(depth / block * 32) {}

    const float* from_ = nullptr;
    Index at_ = 0, stride_ = 0;
    Index second_ = 0;    ///< where the second elements of pairs begin
    Index skip_[2] = {};  ///< after a register, and after a block
    Element* to_ = nullptr;
    Index to_next_ = 0;  ///< after a block
    Index left_ = 0;
  };
  /// Whether a panel of so many rows or columns can be packed step by step.
  static constexpr bool in_steps(Index count, Index depth) { return count >= 32 && depth % block == 0; }

  // ---- the product

  using Beside = Alongside<Packing>;

  /// Products of one part of A and one of B, over so much of the summation.
  static constexpr Index terms(Index depth, Index parts) {
    const Index of_a_block = a_parts == 2 ? (parts == 2 ? 3 : 2) : parts == 3 ? 6 : parts == 2 ? 5 : 3;
    return ceil_div(depth, block) * of_a_block;
  }

  /// As VectorTiles::Product.
  using Product = void (*)(const Element* a, const Element* b, Index depth, float* c, Index stride, Index count_m,
                           Index count_n, const float* initial, bool add, Beside& beside);

  static constexpr Product product(Index, Index parts) {
    if constexpr (a_parts == 3) {
      if (parts == 3) return multiply<3>;
    }
    return parts == 1 ? multiply<1> : multiply<2>;
  }

  /// c = begin + a·b, of `blocks` blocks, 32 × 32 (or, with rows ≤ 16, of them the first 16 rows); `begin` is null for
  /// zeros. `beside`, if any, goes on once a term. In one of two ways, which give the same bits: all sums at once, with
  /// few loads, or half of the rows after the other, with few registers. `asks_for_b`: B goes on after the last block,
  /// and may be far from this core, unlike A, which meets all of it.
  template <Index Parts, bool asks_for_b = false>
  static void multiply_whole(const Element* a, const Element* b, Index blocks, Index rows, float* c, Index stride,
                             const float* begin, Index begin_stride, Beside* beside = nullptr) {
    amx::core_seems_shared()
        ? multiply_halves<Parts>(a, b, blocks, rows, c, stride, begin, begin_stride, beside)
        : multiply_at_once<Parts, asks_for_b>(a, b, blocks, rows, c, stride, begin, begin_stride, beside);
  }

  /// Registers 0–3 are the sums (of rows 0–15: 0, 1), 4 and 5 hold a part of A, 6 and 7 one of B, of which the same
  /// part of the next block is asked for, if that is.
  template <Index Parts, bool asks_for_b = false>
  static void multiply_at_once(const Element* a, const Element* b, Index blocks, Index rows, float* c, Index stride,
                               const float* begin, Index begin_stride, Beside* beside = nullptr) {
    const bool lower = rows > 16;
    amx::memory_fence();
    amx::begin_sums(begin, begin_stride);
    for (Index i = 0; i < blocks; ++i, a += a_step, b += b_step<Parts>) {
      add_terms<Parts>(
          [&](Index part) {
            _tile_loadd(4, a + 2 * part * tile_size, row_bytes);
            if (lower) _tile_loadd(5, a + (2 * part + 1) * tile_size, row_bytes);
          },
          [&](Index part) {
            const Element* const from = b + 2 * part * tile_size;
            _tile_loadd(6, from, row_bytes);
            _tile_loadd(7, from + tile_size, row_bytes);
            if constexpr (asks_for_b) {
#pragma GCC unroll 32
              for (Index row = 0; row < 32; ++row) __builtin_prefetch(from + b_step<Parts> + row * 16);
            }
          },
          [&] {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            if (lower) {
              _tile_dpbf16ps(2, 5, 6);
              _tile_dpbf16ps(3, 5, 7);
            }
            if (beside != nullptr) beside->next_called();
          });
    }
    amx::store_sums(c, stride, lower);
    amx::memory_fence();
  }

  /// Registers 0 and 1 are the sums, 2 holds a part of A, 3 and 4 one of B. The others are made free: zeros take none.
  template <Index Parts>
  static void multiply_halves(const Element* a, const Element* b, Index blocks, Index rows, float* c, Index stride,
                              const float* begin, Index begin_stride, Beside* beside = nullptr) {
    for (Index half = 0; half < (rows > 16 ? 2 : 1); ++half) {
      amx::memory_fence();
      _tile_zero(5);
      _tile_zero(6);
      _tile_zero(7);
      amx::begin_half_of_sums(begin != nullptr ? begin + 16 * half * begin_stride : nullptr, begin_stride);
      for (Index i = 0; i < blocks; ++i) {
        const Element *from_a = a + i * a_step + half * tile_size, *from_b = b + i * b_step<Parts>;
        const bool goes_on = beside != nullptr && (rows <= 16 || i % 2 == half);
        add_terms<Parts>([&](Index part) { _tile_loadd(2, from_a + 2 * part * tile_size, row_bytes); },
                         [&](Index part) {
                           _tile_loadd(3, from_b + 2 * part * tile_size, row_bytes);
                           _tile_loadd(4, from_b + (2 * part + 1) * tile_size, row_bytes);
                         },
                         [&] {
                           _tile_dpbf16ps(0, 2, 3);
                           _tile_dpbf16ps(1, 2, 4);
                           if (goes_on) beside->next();
                         });
      }
      amx::store_half_of_sums(c + 16 * half * stride, stride);
      amx::memory_fence();
    }
  }

 private:
  static constexpr Index row_bytes = 64;  ///< of a register
  template <Index Parts>
  static constexpr Index b_step = Parts * 2 * tile_size;  ///< a block of B

  /// The terms of a block: loads of a part of A or of B, one of them at a time, and products of what was loaded last.
  template <Index Parts, class LoadA, class LoadB, class MultiplyAdd>
  static void add_terms(LoadA&& load_a, LoadB&& load_b, MultiplyAdd&& multiply_add) {
    if constexpr (a_parts == 2) {
      load_a(0);
      if constexpr (Parts == 2) {
        load_b(1);
        multiply_add();
      }
      load_b(0);
      multiply_add();
      load_a(1);
      multiply_add();
    } else {
      if constexpr (Parts == 3) {
        load_a(0);
        load_b(2);
        multiply_add();
        load_b(1);
        multiply_add();
        load_a(1);
        multiply_add();
      } else if constexpr (Parts == 2) {
        load_a(0);
        load_b(1);
        multiply_add();
        load_a(1);
        multiply_add();
      } else {
        load_a(1);
      }
      load_b(0);
      multiply_add();
      load_a(2);
      multiply_add();
      load_a(0);
      multiply_add();
    }
  }

  using Pairs = simd::Words;
  struct Block {
    simd::Floats first{}, second{};
  };

  /// 32 columns of a row; `left` of them are inside the matrix.
  template <class Row>
  static Block load_block(const Row& row, Index column, Index left) {
    if (left >= block) return {row.load(column), row.load(column + 16)};
    if (left >= 16) {
      return {row.load(column), left > 16 ? row.load_partial(column + 16, left - 16) : simd::zero()};
    }
    return {row.load_partial(column, left), simd::zero()};
  }
  /// 16 columns of rows r and r + 16; `rows_left` and `left` of them are inside the matrix.
  template <class Rows>
  static Block load_two(const Rows& rows, Index r, Index rows_left, Index column, Index left) {
    const auto load = [&](Index number) {
      return left >= 16 ? rows.row(number).load(column) : rows.row(number).load_partial(column, left);
    };
    if (left <= 0) return {};
    return {rows_left > 0 ? load(r) : simd::zero(), rows_left > 16 ? load(r + 16) : simd::zero()};
  }

  /// store(p, part p) for each part: an element's leading 8 bits, what they leave out, and so on.
  template <Index Parts, class Store>
  static void split(Block x, Store&& store) {
    // To nearest, halves away from zero. Where all parts together are exact, there is nothing to round.
    constexpr std::uint32_t half = a_parts == 3 ? 0 : 0x8000;
#pragma GCC unroll 3
    for (Index p = 0; p < Parts; ++p) {
      const Pairs first = simd::as_words(x.first) + half, second = (simd::as_words(x.second) + half) & 0xffff0000U;
      store(p, (first >> 16) | second);
      x.first -= simd::as_floats(first & 0xffff0000U);
      x.second -= simd::as_floats(second);
    }
  }
  static void store(Element* to, Pairs x) { std::memcpy(to, &x, sizeof x); }
  static void store_transposed(Element* to, const Pairs (&rows)[16]) {
    simd::Floats v[16];
    std::memcpy(v, rows, sizeof v);
    simd::transpose(v);
    std::memcpy(to, v, sizeof v);
  }
  /// x[c] becomes column `column` + c of rows r, …, r + 15, of which `rows_left` and `left` are inside the matrix.
  static void load_columns(const PlainRows<float>& rows, Index r, Index rows_left, Index column, Index left,
                           simd::Floats* x) {
    if (rows_left >= 16 && left >= 16) {
      return simd::load_transposed(rows.data + r * rows.stride + column, rows.stride, x);
    }
#pragma GCC unroll 4
    for (Index i = 0; i < 16; ++i) {
      x[i] = i >= rows_left || left <= 0 ? simd::zero()
             : left >= 16                ? rows.row(r + i).load(column)
                                         : rows.row(r + i).load_partial(column, left);
    }
    simd::transpose(x);
  }
  /// The 16 rows of a register of each part: elements i of x and i + 16.
  template <Index Parts>
  static void split_rows(const simd::Floats* x, Element* to) {
    for (Index i = 0; i < 16; ++i) {
      split<Parts>(Block{x[i], x[i + 16]},
                   [&](Index p, Pairs pairs) { store(to + 2 * p * tile_size + i * 16, pairs); });
    }
  }

  template <Index Parts>
  static void multiply(const Element* a, const Element* b, Index depth, float* c, Index stride, Index count_m,
                       Index count_n, const float* initial, bool add, Beside& beside) {
    amx::multiply_inside(c, stride, count_m, count_n, initial, add,
                         [&](Index rows, float* to, Index to_stride, const float* begin, Index begin_stride) {
                           // Asking was measured for floats alone.
                           multiply_whole<Parts, Parts == a_parts>(a, b, ceil_div(depth, block), rows, to, to_stride,
                                                                   begin, begin_stride, &beside);
                         });
  }
};

#endif

}  // namespace xlstm::cpu
