// SPDX-License-Identifier: Apache-2.0
// The blocked product C (+)= A·B of large matrices at the machine's peak, after Goto and van de Geijn, "Anatomy of
// High-Performance Matrix Multiplication" (2008): both operands are packed into panels that the innermost tile reads
// with stride one; a tile of C stays in registers over one block of the summation. The tile is VectorTiles, or AmxTiles
// where the machine has them.
// Every element of C is one chain of multiply-adds in the order of k, cut at multiples of `block_k`: the bits do
// not depend on the number of threads, nor on which rows and columns are computed together.
#pragma once

#include <algorithm>
#include <span>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/core/view.hpp"
#include "xlstm/cpu/amx_tiles.hpp"
#include "xlstm/cpu/vector_tiles.hpp"

namespace xlstm::cpu {

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

namespace detail {

/// Rows [k, k + depth) and columns [n, n + count) of B as panels; AnyWeightRows packs itself.
template <class Tiles, class B>
void pack_b(const B& b, Index k, Index depth, Index n, Index count, typename Tiles::Element* panels) {
  if constexpr (requires { b.pack(k, depth, n, count, panels); }) {
    b.pack(k, depth, n, count, panels);
  } else {
    Tiles::pack_b(b, k, depth, n, count, panels);
  }
}

/// C_t (+)= A·B_t for all tasks t with the tiles named.
template <class Tiles, class A, class B, Executor Exec>
void tiled_products(Exec& exec, Arena& arena, const A& a, Index m, Index depth, std::span<const ProductTask<B>> tasks) {
  using Element = typename Tiles::Element;
  const ArenaScope scope(arena);
  const Index threads = exec.size();
  Index columns = 0, most_parts = 1;
  for (const auto& task : tasks) {
    columns += ceil_div(std::max<Index>(task.n, 0), Tiles::tile_n);
    most_parts = std::max(most_parts, Tiles::parts(task.b));
  }
  if (columns == 0) return;
  // Slices of B narrow enough that each thread gets several, so that the last one to finish is not waited for long.
  const Index wanted = threads == 1 ? 1 : 4 * threads;
  const Index slice = std::clamp<Index>(ceil_div(columns, wanted), 1, Tiles::block_n / Tiles::tile_n);
  struct Slice {
    Index task, first, count;  // in tiles
  };
  Index slices = 0;
  for (const auto& task : tasks) slices += ceil_div(ceil_div(std::max<Index>(task.n, 0), Tiles::tile_n), slice);
  Slice* const list = arena.allocate<Slice>(slices);
  Index filled = 0;
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    const Index tiles = ceil_div(std::max<Index>(tasks[t].n, 0), Tiles::tile_n);
    for (Index first = 0; first < tiles; first += slice) {
      list[filled++] = {static_cast<Index>(t), first, std::min(slice, tiles - first)};
    }
  }

  const Index height = Tiles::height(std::min(m, Tiles::block_m));
  const Index panels_at_once = ceil_div(std::min(m, Tiles::block_m), height);
  const Index depth_at_once = std::clamp<Index>(depth, 1, Tiles::packed_k);
  Element* const packed_a = arena.allocate<Element>(panels_at_once * Tiles::a_size(height, depth_at_once));
  const Index b_size = slice * Tiles::b_size(std::min(depth, Tiles::block_k), most_parts);
  Element* const packed_b = arena.allocate<Element>(threads * b_size);

  for (Index m0 = 0; m0 < m; m0 += Tiles::block_m) {
    const Index rows = std::min(m - m0, Tiles::block_m);
    const Index panels = ceil_div(rows, height);
    for (Index k0 = 0; k0 == 0 || k0 < depth; k0 += depth_at_once) {
      const Index last_k = std::min(depth, k0 + depth_at_once);
      // Packed A: block after block of the summation, in each the panels one after another.
      exec.parallel_for(panels, [&](Index p, int) {
        const Index first = p * height;
        for (Index k = k0; k < last_k; k += Tiles::block_k) {
          const Index d = std::min(Tiles::block_k, last_k - k);
          Tiles::pack_a(a, m0 + first, std::min(height, rows - first), k, d, height,
                        packed_a + panels * Tiles::a_size(height, k - k0) + p * Tiles::a_size(height, d));
        }
      });
      // If there are fewer slices than threads, the panels are divided too (and such a slice is packed more than once).
      const Index parts = std::min(panels, ceil_div(wanted, slices));
      exec.parallel_for(slices * parts, [&](Index index, int thread) {
        [[maybe_unused]] const typename Tiles::Session session;
        const Slice s = list[index / parts];
        const ProductTask<B>& task = tasks[static_cast<std::size_t>(s.task)];
        const auto product = Tiles::product(height, Tiles::parts(task.b));
        const Index part = index % parts;
        const Index first_panel = panels * part / parts;
        const Index last_panel = panels * (part + 1) / parts;
        Element* const my_b = packed_b + thread * b_size;
        for (Index k = k0; k == k0 || k < last_k; k += Tiles::block_k) {
          const Index d = std::min(Tiles::block_k, last_k - k);
          const Index first = s.first * Tiles::tile_n;
          pack_b<Tiles>(task.b, k, d, first, std::min(s.count * Tiles::tile_n, task.n - first), my_b);
          const Index b_step = Tiles::b_size(d, Tiles::parts(task.b));
          for (Index p = first_panel; p < last_panel; ++p) {
            const Element* const my_a =
                packed_a + panels * Tiles::a_size(height, k - k0) + p * Tiles::a_size(height, d);
            const Index row = p * height;
            for (Index j = 0; j < s.count; ++j) {
              const Index n = (s.first + j) * Tiles::tile_n;
              product(my_a, my_b + j * b_step, d, task.c.row(m0 + row) + n, task.c.stride(), rows - row, task.n - n,
                      task.initial != nullptr ? task.initial + n : nullptr, task.add || k > 0);
            }
          }
        }
      });
    }
  }
}

}  // namespace detail

/// C_t (+)= A·B_t for all tasks t; A is m × depth and packed once. Scratch comes from the arena.
template <class A, class B, Executor Exec>
void matrix_products(Exec& exec, Arena& arena, const A& a, Index m, Index depth,
                     std::span<const ProductTask<B>> tasks) {
  if (m <= 0) return;
#if defined(XLSTM_SIMD_AMX)
  if (m >= AmxTiles::least_rows && amx::permitted()) {
    return detail::tiled_products<AmxTiles>(exec, arena, a, m, depth, tasks);
  }
#endif
  detail::tiled_products<VectorTiles>(exec, arena, a, m, depth, tasks);
}

}  // namespace xlstm::cpu
