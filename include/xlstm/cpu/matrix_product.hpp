// SPDX-License-Identifier: Apache-2.0
// The blocked product C (+)= A·B of large matrices at the machine's peak, after Goto and van de Geijn, "Anatomy of
// High-Performance Matrix Multiplication" (2008): both operands are packed into panels that the innermost tile reads
// with stride one; a tile of C stays in registers over one block of the summation. The tile is VectorTiles, or AmxTiles
// where the machine has them; tiled_products.hpp divides the work.
// Every element of C is one chain of multiply-adds in the order of k, cut at multiples of `block_k`: the bits do
// not depend on the number of threads, nor on which rows and columns are computed together.
#pragma once

#include <algorithm>
#include <new>
#include <span>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/cpu/amx_tiles.hpp"
#include "xlstm/cpu/matrix_operands.hpp"
#include "xlstm/cpu/precision.hpp"
#include "xlstm/cpu/tiled_products.hpp"
#include "xlstm/cpu/vector_tiles.hpp"

namespace xlstm::cpu {

/// C_t (+)= A·B_t for all tasks t; A is m × depth and packed once. Scratch comes from the arena.
template <class Precision = HighestPrecision, class A, class B, Executor Exec>
void matrix_products(Exec& exec, Arena& arena, const A& a, Index m, Index depth,
                     std::span<const ProductTask<B>> tasks) {
  if (m <= 0) return;
#if defined(XLSTM_SIMD_AMX)
  if (m >= AmxTiles<Precision>::least_rows && amx::permitted()) {
    return detail::tiled_products<AmxTiles<Precision>>(exec, arena, a, m, depth, tasks);
  }
#endif
  detail::tiled_products<VectorTiles>(exec, arena, a, m, depth, tasks);
}

/// One of several products that are made in turn.
template <class B>
struct Product {
  RowsOfA a;
  Index m, depth;
  ProductTask<B> task;
};

namespace detail {

/// Whether all could be made in one go, which is done then, beside the other tasks.
template <class Tiles, class B, Executor Exec>
bool together(Exec& exec, Arena& arena, std::span<const Product<B>> products, const Tasks& meanwhile) {
  using Tiled = TiledProducts<Tiles, RowsOfA, B, Exec>;
  const ArenaScope scope(arena);
  Tiled* const tiled = arena.allocate<Tiled>(static_cast<Index>(products.size()));
  for (std::size_t i = 0; i < products.size(); ++i) {
    const Product<B>& p = products[i];
    new (&tiled[i]) Tiled(exec, arena, p.a, p.m, p.depth, std::span<const ProductTask<B>>(&p.task, 1));
  }
  const std::span<Tiled> all(tiled, products.size());
  if (!Tiled::divides_rows(all)) return false;
  Tiled::by_rows(all, meanwhile);
  return true;
}

}  // namespace detail

/// Products in turn, whose C have as many rows, and may be the same matrix; and, in any order, other tasks that do not
/// touch what the products write.
template <class Precision = HighestPrecision, class B, Executor Exec>
void matrix_products(Exec& exec, Arena& arena, std::span<const Product<B>> products, const Tasks& meanwhile = {}) {
  const auto made_together = [&](std::span<const Product<B>> some, const Tasks& others) {
#if defined(XLSTM_SIMD_AMX)
    if (!some.empty() && some[0].m >= AmxTiles<Precision>::least_rows && amx::permitted()) {
      return detail::together<AmxTiles<Precision>>(exec, arena, some, others);
    }
#endif
    return !some.empty() && detail::together<VectorTiles>(exec, arena, some, others);
  };
  if (made_together(products, meanwhile)) return;
  const bool first_together = made_together(products.first(std::min<std::size_t>(1, products.size())), meanwhile);
  if (!first_together) exec.parallel_for(meanwhile.count(), meanwhile);
  for (const Product<B>& p : products.subspan(first_together ? 1 : 0)) {
    matrix_products<Precision>(exec, arena, p.a, p.m, p.depth, std::span<const ProductTask<B>>(&p.task, 1));
  }
}

}  // namespace xlstm::cpu
