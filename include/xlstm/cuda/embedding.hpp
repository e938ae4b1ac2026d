// SPDX-License-Identifier: Apache-2.0
// Rows of the embedding matrix on a device, and their gradient.
//
// Several rows of a batch may have one token, whose gradients are added in the order of the rows: atomic additions
// would come in another order every time. So the first row that has a token adds for all of them, and the others do
// nothing. Which is first, and which others there are, blocks find by reading the tokens: R² / 2 of 4 bytes at most,
// from the L2 cache, and far fewer in text, where a token's last occurrence is rarely far. Sorting would read fewer,
// but takes several launches and memory.
#pragma once

#include <algorithm>

#include "xlstm/core/view.hpp"
#include "xlstm/cuda/collective.hpp"
#include "xlstm/cuda/floats.hpp"
#include "xlstm/cuda/launch.hpp"

namespace xlstm::cuda {

/// A block has a row.
template <Index Features, class W, class Y, int Width>
struct EmbedKernel {
  const Token* tokens;
  const W* weight;
  MatrixView<Y, Features> y;

  static_assert(Features % Width == 0, "xlstm: a row must be whole vectors");
  static constexpr Index vectors = Features / Width;
  static constexpr int threads = static_cast<int>(std::min<Index>(256, round_up(vectors, warp_size)));

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const Index row = thread.block_index().x;
    const W* from = weight + tokens[row] * Features;
    for (Index first = thread.index() * Width; first < Features; first += threads * Width) {
      store_floats(thread, y.row(row) + first, load_floats<Width>(thread, from + first));
    }
  }
};

/// A block has a row and some columns.
template <Index Features, class T, int Width>
struct EmbedBackwardKernel {
  const Token* tokens;
  MatrixView<const T, Features> dy;
  float* dweight;

  static constexpr int threads = 256;
  static constexpr int columns = threads * Width;
  static constexpr int tiles = static_cast<int>(ceil_div(Features, columns));
  static constexpr int searched_at_once = 8;  ///< tokens that a thread looks at between barriers
  static constexpr int in_flight = 4;         ///< rows
  struct Rows : SharedArray<int, threads> {};
  using Shared = SharedLayout<Rows, BlockReduceStorage<int>, BlockScanStorage<int>>;

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const int row = thread.block_index().x / tiles;
    const Index column = Index{thread.block_index().x % tiles} * columns + thread.index() * Width;
    const Token token = tokens[row];
    if (occurs_before(thread, token, row)) return;

    const bool inside = column < Features;
    Floats<Width> sums;
    auto rows = thread.template shared<Rows>();
    for (Index base = row; base < dy.rows(); base += threads) {
      const Index at = base + thread.index();
      const bool same = at < dy.rows() && tokens[at] == token;
      int count = 0;
      const int place = block_inclusive_scan(thread, same ? 1 : 0, Sum{}, count);
      if (same) rows[place - 1] = static_cast<int>(at);
      thread.sync_block();
      for (int first = 0; inside && first < count; first += in_flight) {
        Floats<Width> values[in_flight];
        XLSTM_UNROLL
        for (int j = 0; j < in_flight; ++j) {
          if (first + j >= count) continue;
          const int from = rows[first + j];
          values[j] = load_floats<Width>(thread, dy.row(from) + column);
        }
        XLSTM_UNROLL
        for (int j = 0; j < in_flight; ++j) {
          XLSTM_UNROLL
          for (int i = 0; i < Width; ++i) sums[i] += values[j][i];
        }
      }
    }
    if (!inside) return;
    float* to = dweight + token * Features + column;
    const Floats<Width> before = load_floats<Width>(thread, to);
    XLSTM_UNROLL
    for (int i = 0; i < Width; ++i) sums[i] += before[i];
    store_floats(thread, to, sums);
  }

 private:
  /// Whether a row before `row` has the token; the nearest ones are looked at first.
  template <class Thread>
  XLSTM_DEVICE bool occurs_before(Thread& thread, Token token, int row) const {
    for (int end = row; end > 0; end -= searched_at_once * threads) {
      bool found = false;
      XLSTM_UNROLL
      for (int j = 0; j < searched_at_once; ++j) {
        const int at = end - 1 - j * threads - thread.index();
        if (at >= 0 && tokens[at] == token) found = true;
      }
      if (block_any(thread, found)) return true;
    }
    return false;
  }
};

/// y_r = weight[tokens[r]]; tokens (rows) and weight (vocabulary, Features) are in device memory.
template <Index Features, class W, class Y, Launcher L>
void embed(L& launcher, const Token* tokens, const W* weight, MatrixView<Y, Features> y) {
  const auto launch = [&]<int Width>() {
    launcher.launch({static_cast<int>(y.rows())}, EmbedKernel<Features, W, Y, Width>{tokens, weight, y});
  };
  constexpr int widest = 8;
  if constexpr (Features % widest == 0) {
    if (rows_are_aligned<widest>(weight, Features) && rows_are_aligned<widest>(y.data(), y.stride())) {
      return launch.template operator()<widest>();
    }
  }
  launch.template operator()<1>();
}

/// dweight[tokens[r]] += dy_r, the same bits every time.
template <Index Features, class T, Launcher L>
void embed_backward(L& launcher, const Token* tokens, MatrixView<const T, Features> dy, float* dweight) {
  const auto launch = [&]<int Width>() {
    using K = EmbedBackwardKernel<Features, T, Width>;
    launcher.launch({static_cast<int>(dy.rows() * K::tiles)}, K{tokens, dy, dweight});
  };
  constexpr int widest = vector_width<T>;
  if constexpr (Features % widest == 0) {
    if (rows_are_aligned<widest>(dweight, Features) && rows_are_aligned<widest>(dy.data(), dy.stride())) {
      return launch.template operator()<widest>();
    }
  }
  launch.template operator()<1>();
}

}  // namespace xlstm::cuda
