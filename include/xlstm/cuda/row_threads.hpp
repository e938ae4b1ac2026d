// SPDX-License-Identifier: Apache-2.0
// How the threads of a block share the features of a row that they keep in registers: neighbours take neighbouring
// vectors.
#pragma once

#include "xlstm/cuda/thread.hpp"

namespace xlstm::cuda {

/// How a block of at most LargestBlock threads shares a row of Features, of which a thread takes Width at a time.
template <Index Features, int Width, int LargestBlock>
struct RowThreads {
  static_assert(Features % Width == 0, "xlstm: a row must be whole vectors");
  static constexpr Index vectors = Features / Width;
  static constexpr int threads = static_cast<int>(vectors < LargestBlock ? round_up(vectors, warp_size) : LargestBlock);
  static constexpr int vectors_per_thread = static_cast<int>(ceil_div(vectors, threads));

  /// Calls f(j, first feature) for each of the thread's vectors.
  template <class Thread, class F>
  XLSTM_DEVICE static void for_each_vector(Thread& thread, F&& f) {
    XLSTM_UNROLL
    for (int j = 0; j < vectors_per_thread; ++j) {
      const Index feature = (Index{j} * threads + thread.index()) * Width;
      if (feature < Features) f(j, feature);
    }
  }
};

}  // namespace xlstm::cuda
