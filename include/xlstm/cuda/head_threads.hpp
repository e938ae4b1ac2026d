// SPDX-License-Identifier: Apache-2.0
// How the threads of a block share the heads of a norm: a warp has one where its features fit into the registers, so
// that no thread waits for another warp, or else the block has one.
#pragma once

#include <algorithm>

#include "xlstm/cuda/collective.hpp"

namespace xlstm::cuda {

/// Heads of Features features, of which a thread takes Width at a time.
template <Index Features, int Width>
struct HeadThreads {
  static_assert(Features % Width == 0, "xlstm: a head must be whole vectors");
  static constexpr Index vectors = Features / Width;
  static constexpr int largest_in_a_warp = 16;  ///< features of a lane
  static constexpr bool warp_has_a_head = Features <= warp_size * largest_in_a_warp;
  /// Of a block.
  static constexpr int threads =
      static_cast<int>(warp_has_a_head ? 256 : std::min<Index>(256, round_up(vectors, warp_size)));
  static constexpr int together = warp_has_a_head ? warp_size : threads;  ///< threads that have a head together
  static constexpr int heads = threads / together;                        ///< of a block
  static constexpr int vectors_per_thread = static_cast<int>(ceil_div(vectors, together));

  /// The thread's head, counted over the whole grid.
  template <class Thread>
  XLSTM_DEVICE static Index head(Thread& thread) {
    return Index{thread.block_index().x} * heads + thread.index() / together;
  }
  /// Whether it is the first of those that have a head together.
  template <class Thread>
  XLSTM_DEVICE static bool is_first(Thread& thread) {
    return thread.index() % together == 0;
  }
  /// Calls f(j, first feature) for each of the thread's vectors.
  template <class Thread, class F>
  XLSTM_DEVICE static void for_each_vector(Thread& thread, F&& f) {
    XLSTM_UNROLL
    for (int j = 0; j < vectors_per_thread; ++j) {
      const Index feature = (Index{j} * together + thread.index() % together) * Width;
      if (feature < Features) f(j, feature);
    }
  }
  /// Of all who have the head; they get it.
  template <class Thread>
  XLSTM_DEVICE static float sum(Thread& thread, float x) {
    if constexpr (warp_has_a_head) {
      return warp_reduce(thread, x, Sum{});
    } else {
      return block_reduce(thread, x, Sum{});
    }
  }
};

}  // namespace xlstm::cuda
