// SPDX-License-Identifier: Apache-2.0
// The blocked product C (+)= A·B of large matrices at the machine's fp32 peak, after Goto and van de Geijn, "Anatomy of
// High-Performance Matrix Multiplication" (2008): both operands are packed into panels that the innermost tile reads
// with stride one; a tile of C stays in registers over one block of the summation.
// Every element of C is one chain of multiply-adds in the order of k, cut at multiples of the block `k`: the bits do
// not depend on the number of threads, nor on which rows and columns are computed together.
#pragma once

#include <algorithm>
#include <span>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/core/view.hpp"
#include "xlstm/cpu/simd.hpp"
#include "xlstm/cpu/storage.hpp"

namespace xlstm::cpu {

/// The measured choices: the tile of C in registers (lower where that fits few rows of C better), and the blocks of A
/// (first-level cache, tile_m × k) and of B (second-level cache, k × n).
struct MatrixProductTuning {
  static constexpr Index tile_m = simd::registers == 32 ? 14 : 6;
  static constexpr Index least_tile_m = simd::registers == 32 ? 11 : 5;  ///< of the tiles for few rows
  static constexpr Index tile_n = 2 * simd::width;
  static constexpr Index k = 384;
  static constexpr Index n = 512;
  static constexpr Index m = 1024 / tile_m * tile_m;  ///< rows of C whose packed A is held at once
};

namespace detail {

using Tuning = MatrixProductTuning;

// ---- A: element (m, k) goes to panel[k · tile + m]; rows beyond the matrix are zeros

/// A(m, k) = data[m · stride + k].
struct RowsOfA {
  const float* data;
  Index stride;

  void pack(Index m, Index count, Index k, Index depth, Index tile, float* panel) const {
    const float* from = data + m * stride + k;
    Index d = 0;
    for (; d + simd::width <= depth; d += simd::width) {
      for (Index first = 0; first < tile; first += simd::width) {
        simd::Floats v[simd::width];
#pragma GCC unroll 16
        for (Index i = 0; i < simd::width; ++i) {
          v[i] = first + i < count ? simd::load(from + (first + i) * stride + d) : simd::zero();
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
      for (Index i = 0; i < tile; ++i) panel[d * tile + i] = i < count ? from[i * stride + d] : 0.0F;
    }
  }
};

/// A(m, k) = data[k · stride + m].
struct ColumnsOfA {
  const float* data;
  Index stride;

  void pack(Index m, Index count, Index k, Index depth, Index tile, float* panel) const {
    for (Index d = 0; d < depth; ++d) {
      const float* from = data + (k + d) * stride + m;
      if constexpr (simd::registers == 32 && Tuning::tile_m <= simd::width) {
        simd::store_partial(panel + d * tile, simd::load_partial(from, count), tile);
      } else {
        for (Index i = 0; i < tile; ++i) panel[d * tile + i] = i < count ? from[i] : 0.0F;
      }
    }
  }
};

// ---- B: columns [n, n + count) as panels of tile_n columns each; element (k, j) of a panel goes to
// panel[k · tile_n + j], columns beyond the matrix are zeros

/// B(k, n) = row n of the stored matrix, column k.
template <WeightRows Rows>
struct TransposedB {
  Rows rows;

  void pack(Index k, Index depth, Index n, Index count, float* panels) const {
    constexpr Index tile = Tuning::tile_n;
    for (Index first = 0; first < round_up(count, tile); first += simd::width) {
      const Index valid = std::clamp<Index>(count - first, 0, simd::width);
      float* const panel = panels + first / tile * tile * depth + first % tile;
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
        float* const to = panel + d * tile;
        if (left == simd::width) {
#pragma GCC unroll 16
          for (Index i = 0; i < simd::width; ++i) simd::store(to + i * tile, v[i]);
        } else {
          for (Index i = 0; i < left; ++i) simd::store(to + i * tile, v[i]);
        }
      }
    }
  }
};

/// B(k, n) = row k of the stored matrix, column n.
template <WeightRows Rows>
struct PlainB {
  Rows rows;

  void pack(Index k, Index depth, Index n, Index count, float* panels) const {
    constexpr Index tile = Tuning::tile_n;
    for (Index d = 0; d < depth; ++d) {
      const auto row = rows.row(k + d);
      float* to = panels + d * tile;
      Index first = 0;
      for (; first + tile <= count; first += tile, to += tile * depth) {
#pragma GCC unroll 4
        for (Index i = 0; i < tile; i += simd::width) simd::store(to + i, row.load(n + first + i));
      }
      for (Index i = 0; first + i < round_up(count, tile); i += simd::width) {
        const Index valid = count - first - i;
        simd::store(to + i, valid >= simd::width ? row.load(n + first + i)
                            : valid > 0          ? row.load_partial(n + first + i, valid)
                                                 : simd::zero());
      }
    }
  }
};

/// One tile of C: c (+)= a·b, where `count_m` × `count_n` elements are inside the matrix. Without `add` the tile begins
/// with `initial` (one value a column) or zero.
template <Index TileM>
inline void product_tile(const float* a, const float* b, Index depth, float* c, Index stride, Index count_m,
                         Index count_n, const float* initial, bool add) {
  constexpr int tile_m = TileM;
  constexpr int vectors = Tuning::tile_n / simd::width;
  simd::Floats sum[tile_m][vectors] = {};
  for (Index k = 0; k < depth; ++k) {
    simd::Floats v[vectors];
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) v[j] = simd::load(b + k * Tuning::tile_n + j * simd::width);
#pragma GCC unroll 16
    for (int i = 0; i < tile_m; ++i) {
      const simd::Floats x = simd::broadcast(a[k * tile_m + i]);
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) sum[i][j] = simd::fma(x, v[j], sum[i][j]);
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < vectors; ++j) {
    const Index first = j * simd::width;
    const Index lanes = std::min<Index>(simd::width, count_n - first);
    if (lanes <= 0) break;
    const bool whole = lanes == simd::width;
    const auto load = [&](const float* p) { return whole ? simd::load(p) : simd::load_partial(p, lanes); };
    const simd::Floats begin = !add && initial != nullptr ? load(initial + first) : simd::zero();
#pragma GCC unroll 16
    for (int i = 0; i < tile_m; ++i) {
      if (i >= count_m) break;
      float* to = c + i * stride + first;
      const simd::Floats total = sum[i][j] + (add ? load(to) : begin);
      if (whole) {
        simd::store(to, total);
      } else {
        simd::store_partial(to, total, lanes);
      }
    }
  }
}

using ProductTile = void (*)(const float*, const float*, Index, float*, Index, Index, Index, const float*, bool);

/// The tile of `height` rows.
template <Index TileM = Tuning::tile_m>
constexpr ProductTile product_tile_of(Index height) {
  if constexpr (TileM > Tuning::least_tile_m) {
    if (height < TileM) return product_tile_of<TileM - 1>(height);
  }
  return product_tile<TileM>;
}

/// The height of tiles that pads m rows least.
constexpr Index tile_height(Index m) {
  Index best = Tuning::tile_m;
  for (Index h = best - 1; h >= Tuning::least_tile_m; --h) {
    if (round_up(m, h) < round_up(m, best)) best = h;
  }
  return best;
}

}  // namespace detail

/// One right-hand side: c (m × n) = A·B, or c += A·B if `add`. `initial` (n values or null) is what every row of c
/// begins with if not `add`.
template <class B>
struct ProductTask {
  B b;
  Index n;
  const float* initial;
  MatrixView<float> c;
  bool add;
};

/// C_t (+)= A·B_t for all tasks t; A is m × depth and packed once. Scratch comes from the arena.
template <class A, class B, Executor Exec>
void matrix_products(Exec& exec, Arena& arena, const A& a, Index m, Index depth,
                     std::span<const ProductTask<B>> tasks) {
  using Tuning = MatrixProductTuning;
  if (m <= 0) return;
  const ArenaScope scope(arena);
  const Index threads = exec.size();
  Index columns = 0;
  for (const auto& task : tasks) columns += ceil_div(std::max<Index>(task.n, 0), Tuning::tile_n);
  if (columns == 0) return;
  // Slices of B narrow enough that each thread gets several, so that the last one to finish is not waited for long.
  const Index wanted = threads == 1 ? 1 : 4 * threads;
  const Index slice = std::clamp<Index>(ceil_div(columns, wanted), 1, Tuning::n / Tuning::tile_n);
  struct Slice {
    Index task, first, count;  // in tiles
  };
  Index slices = 0;
  for (const auto& task : tasks) slices += ceil_div(ceil_div(std::max<Index>(task.n, 0), Tuning::tile_n), slice);
  Slice* const list = arena.allocate<Slice>(slices);
  Index filled = 0;
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    const Index tiles = ceil_div(std::max<Index>(tasks[t].n, 0), Tuning::tile_n);
    for (Index first = 0; first < tiles; first += slice) {
      list[filled++] = {static_cast<Index>(t), first, std::min(slice, tiles - first)};
    }
  }

  const Index blocks = std::max<Index>(1, ceil_div(depth, Tuning::k));
  const Index height = detail::tile_height(std::min(m, Tuning::m));
  const Index panels_at_once = ceil_div(std::min(m, Tuning::m), height);
  const detail::ProductTile product_tile = detail::product_tile_of(height);
  float* const packed_a = arena.allocate<float>(panels_at_once * height * depth);
  const Index b_size = slice * Tuning::tile_n * std::min(depth, Tuning::k);
  float* const packed_b = arena.allocate<float>(threads * b_size);

  for (Index m0 = 0; m0 < m; m0 += Tuning::m) {
    const Index rows = std::min(m - m0, Tuning::m);
    const Index panels = ceil_div(rows, height);
    // Packed A: block after block of the summation, in each the panels one after another.
    exec.parallel_for(panels, [&](Index p, int) {
      const Index first = p * height;
      for (Index k = 0; k < depth; k += Tuning::k) {
        const Index d = std::min(Tuning::k, depth - k);
        a.pack(m0 + first, std::min(height, rows - first), k, d, height,
               packed_a + k * panels * height + p * height * d);
      }
    });
    // If there are fewer slices than threads, the panels are divided too (and such a slice is packed more than once).
    const Index parts = std::min(panels, ceil_div(wanted, slices));
    exec.parallel_for(slices * parts, [&](Index index, int thread) {
      const Slice s = list[index / parts];
      const ProductTask<B>& task = tasks[static_cast<std::size_t>(s.task)];
      const Index part = index % parts;
      const Index first_panel = panels * part / parts;
      const Index last_panel = panels * (part + 1) / parts;
      float* const my_b = packed_b + thread * b_size;
      for (Index block = 0; block < blocks; ++block) {
        const Index k = block * Tuning::k;
        const Index d = std::min(Tuning::k, depth - k);
        const Index first = s.first * Tuning::tile_n;
        task.b.pack(k, d, first, std::min(s.count * Tuning::tile_n, task.n - first), my_b);
        for (Index p = first_panel; p < last_panel; ++p) {
          const float* const my_a = packed_a + k * panels * height + p * height * d;
          const Index row = p * height;
          for (Index j = 0; j < s.count; ++j) {
            const Index n = (s.first + j) * Tuning::tile_n;
            product_tile(my_a, my_b + j * Tuning::tile_n * d, d, task.c.row(m0 + row) + n, task.c.stride(), rows - row,
                         task.n - n, task.initial != nullptr ? task.initial + n : nullptr, task.add || block > 0);
          }
        }
      }
    });
  }
}

}  // namespace xlstm::cpu
