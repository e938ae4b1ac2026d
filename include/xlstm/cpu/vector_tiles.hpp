// SPDX-License-Identifier: Apache-2.0
// The tile of a blocked product (matrix_product.hpp) in vector registers, and the panels that it reads: one broadcast
// element of A times a row of B, tile_m × tile_n sums. For every machine.
#pragma once

#include <algorithm>
#include <cstddef>

#include "xlstm/core/index.hpp"
#include "xlstm/cpu/alongside.hpp"
#include "xlstm/cpu/matrix_operands.hpp"
#include "xlstm/cpu/register_tile.hpp"
#include "xlstm/cpu/simd.hpp"
#include "xlstm/cpu/storage.hpp"

namespace xlstm::cpu {

/// What a tile does with elements: sum + a·b.
struct FloatArithmetic {
  static simd::Floats multiply_add(simd::Floats a, simd::Floats b, simd::Floats sum) { return simd::fma(a, b, sum); }
};

/// Panels of A: element (m, k) at [k · height + m]; of B: (k, j) at [k · tile_n + j]; zeros beyond the matrix.
/// The measured choices: the tile of C in registers (lower where that fits few rows of C better), a strip of B in the
/// first-level cache (block_k × strip_n), while panels of A come by from the second level, which has block_k × block_m
/// of A; or less of A, and all of B, where there are rows enough for each thread.
template <class Arithmetic>
struct VectorTilesOf {
  static constexpr Index tile_m = simd::registers == 32 ? 14 : 6;
  static constexpr Index least_tile_m = simd::registers == 32 ? 11 : 5;  ///< of the tiles for few rows
  static constexpr Index tile_n = 2 * simd::width;
  static constexpr Index block_k = simd::registers == 32 ? 256 : 384;
  static constexpr Index gradient_k = 384;  ///< the same for gradients of weights in parts (weight_gradients.hpp)
  static constexpr Index strip_n = tile_n;  ///< columns of B that meet all panels of A before others do
  static constexpr Index block_n = 512;
  static constexpr Index packed_k = 3840;  ///< of the summation, for which A is packed at once; blocks divide it
  static constexpr Index block_m = round_up(1024, tile_m);     ///< rows of C whose packed A is held at once
  static constexpr Index least_own_m = 1022;                   ///< of rows for each thread, to have rows of its own
  static constexpr Index most_own_n = 2560;                    ///< columns of C, of products in own rows
  static constexpr Index most_own_b = near_b_bytes;            ///< bytes of B's panels, which each thread has then
  static constexpr Index near_task_m = 128 / tile_m * tile_m;  ///< rows of C whose packed A a thread holds then
  static constexpr Index task_m = near_task_m;
  static constexpr bool packs_alongside = false;  ///< rows of A, while it multiplies
  static constexpr bool asks_ahead = true;        ///< for memory, while it multiplies

  using Element = float;  ///< of panels
  /// What a thread needs around its products: nothing here.
  struct Session {};
  template <class B>
  static constexpr Index parts(const B&) {
    return 1;
  }
  static constexpr Index a_size(Index height, Index depth) { return height * depth; }
  static constexpr Index b_size(Index depth, Index) { return tile_n * depth; }

  /// The height of tiles that pads m rows least.
  static constexpr Index height(Index m) { return tile_height(m, least_tile_m, tile_m); }

  // ---- packing

  /// Rows [m, m + count) and columns [k, k + depth) of A.
  static void pack_a(const RowsOfA& a, Index m, Index count, Index k, Index depth, Index tile, float* panel) {
    const float* from = a.data + m * a.stride + k;
    Index d = 0;
    for (; d + simd::width <= depth; d += simd::width) {
      for (Index first = 0; first < tile; first += simd::width) {
        simd::Floats v[simd::width];
#pragma GCC unroll 16
        for (Index i = 0; i < simd::width; ++i) {
          v[i] = first + i < count ? simd::load(from + (first + i) * a.stride + d) : simd::zero();
        }
        simd::transpose(v);
        const Index lanes = std::min<Index>(simd::width, tile - first);
#pragma GCC unroll 16
        for (Index i = 0; i < simd::width; ++i) {
          float* to = panel + (d + i) * tile + first;
          if (lanes == simd::width) {
            simd::store(to, v[i]);
          } else {
            simd::store_partial(to, v[i], lanes);
          }
        }
      }
    }
    for (; d < depth; ++d) {
      for (Index i = 0; i < tile; ++i) panel[d * tile + i] = i < count ? from[i * a.stride + d] : 0.0F;
    }
  }
  static void pack_a(const ColumnsOfA& a, Index m, Index count, Index k, Index depth, Index tile, float* panel) {
    for (Index d = 0; d < depth; ++d) {
      const float* from = a.data + (k + d) * a.stride + m;
      if constexpr (simd::registers == 32 && tile_m <= simd::width) {
        simd::store_partial(panel + d * tile, simd::load_partial(from, count), tile);
      } else {
        for (Index i = 0; i < tile; ++i) panel[d * tile + i] = i < count ? from[i] : 0.0F;
      }
    }
  }

  /// Rows [k, k + depth) and columns [n, n + count) of B as panels of tile_n columns each.
  template <class Rows>
  static void pack_b(const TransposedB<Rows>& b, Index k, Index depth, Index n, Index count, float* panels) {
    const Rows& rows = b.rows;
    for (Index first = 0; first < round_up(count, tile_n); first += simd::width) {
      const Index valid = std::clamp<Index>(count - first, 0, simd::width);
      float* const panel = panels + first / tile_n * tile_n * depth + first % tile_n;
      for (Index d = 0; d < depth; d += simd::width) {
        const Index left = std::min<Index>(simd::width, depth - d);
        simd::Floats v[simd::width];
        if (valid == simd::width && left == simd::width) {
#pragma GCC unroll 16
          for (Index i = 0; i < simd::width; ++i) v[i] = rows.row(n + first + i).load(k + d);
        } else {
          for (Index i = 0; i < simd::width; ++i) {
            v[i] = i >= valid            ? simd::zero()
                   : left == simd::width ? rows.row(n + first + i).load(k + d)
                                         : rows.row(n + first + i).load_partial(k + d, left);
          }
        }
        simd::transpose(v);
        float* const to = panel + d * tile_n;
        if (left == simd::width) {
#pragma GCC unroll 16
          for (Index i = 0; i < simd::width; ++i) simd::store(to + i * tile_n, v[i]);
        } else {
          for (Index i = 0; i < left; ++i) simd::store(to + i * tile_n, v[i]);
        }
      }
    }
  }
  template <class Rows>
  static void pack_b(const PlainB<Rows>& b, Index k, Index depth, Index n, Index count, float* panels) {
    for (Index d = 0; d < depth; ++d) {
      const auto row = b.rows.row(k + d);
      float* to = panels + d * tile_n;
      Index first = 0;
      for (; first + tile_n <= count; first += tile_n, to += tile_n * depth) {
#pragma GCC unroll 4
        for (Index i = 0; i < tile_n; i += simd::width) simd::store(to + i, row.load(n + first + i));
      }
      for (Index i = 0; first + i < round_up(count, tile_n); i += simd::width) {
        const Index valid = count - first - i;
        simd::store(to + i, valid >= simd::width ? row.load(n + first + i)
                            : valid > 0          ? row.load_partial(n + first + i, valid)
                                                 : simd::zero());
      }
    }
  }

  // ---- the product

  using Beside = Alongside<NoWork>;
  /// `beside` goes on once for so many multiply-adds of each sum (measured: 32 are as good, 64 too many).
  static constexpr Index term_k = 16;
  static constexpr Index terms(Index depth, Index) { return ceil_div(depth, term_k); }
  /// How far ahead A is asked for, floats: some 60 steps of the summation, also those of the panel after this one,
  /// which a core's own prefetchers find too late (measured).
  static constexpr Index a_ahead = 768;

  /// One tile of C: c (+)= a·b, where `count_m` × `count_n` elements are inside the matrix. Without `add` the tile
  /// begins with `initial` (one value a column) or zero. `beside`: what happens meanwhile.
  using Product = void (*)(const float* a, const float* b, Index depth, float* c, Index stride, Index count_m,
                           Index count_n, const float* initial, bool add, Beside& beside);

  /// For tiles of `height` rows.
  template <Index TileM = tile_m>
  static constexpr Product product(Index height, Index parts) {
    if constexpr (TileM > least_tile_m) {
      if (height < TileM) return product<TileM - 1>(height, parts);
    }
    return multiply<TileM>;
  }

 private:
  template <Index TileM>
  static void multiply(const float* a, const float* b, Index depth, float* c, Index stride, Index count_m,
                       Index count_n, const float* initial, bool add, Beside& beside) {
    constexpr int rows = TileM;
    constexpr int vectors = tile_n / simd::width;
    simd::Floats sum[rows][vectors] = {};
    for (Index first = 0; first < depth; first += term_k) {
      const Index end = std::min(depth, first + term_k);
      for (Index x = first; x < end; ++x) {
        __builtin_prefetch(a + x * rows + a_ahead);
        simd::Floats v[vectors];
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) v[j] = simd::load(b + x * tile_n + j * simd::width);
#pragma GCC unroll 16
        for (int i = 0; i < rows; ++i) {
          const simd::Floats of_a = simd::broadcast(a[x * rows + i]);
#pragma GCC unroll 4
          for (int j = 0; j < vectors; ++j) sum[i][j] = Arithmetic::multiply_add(of_a, v[j], sum[i][j]);
        }
      }
      beside.next();
    }
    store_tile(sum, c, stride, count_m, count_n, initial, add);
  }
};

using VectorTiles = VectorTilesOf<FloatArithmetic>;

}  // namespace xlstm::cpu
