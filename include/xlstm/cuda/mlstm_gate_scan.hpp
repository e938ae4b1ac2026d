// SPDX-License-Identifier: Apache-2.0
// The gates' part of the chunkwise mLSTM on a device (TFLA, arXiv 2503.14376, §2.2): all that chunks need of them, for
// every token i of its chunk, where D is the part of i's document in the chunk up to i:
//     b_i = Σ_{u∈D} log f_u              forget_sum
//     c_i = log i_i − b_i                source; what token j adds to token i > j has the log weight b_i + c_j
//     r_i = max_{j∈D} c_j                peak
//     d_i                                document: its first token where a document starts in the chunk, else −1
// A chunk's summary (cell/scan.hpp) is that of its last token: g = b, m = g + r, and whether a document starts in it.
// Documents are not cut from their own start here, as chunks have equal lengths that the host knows; the result is
// the same.
#pragma once

#include <limits>

#include "xlstm/core/run.hpp"
#include "xlstm/cuda/collective.hpp"
#include "xlstm/cuda/gates.hpp"
#include "xlstm/cuda/launch.hpp"
#include "xlstm/cuda/mlstm_chunkwise_tuning.hpp"

namespace xlstm::cuda {

/// What the kernels hand on to each other, in device memory; N chunks of chunk_size tokens, the last may be shorter.
/// Tokens are counted from the sequence's start.
template <class Cell, class S>
struct MLSTMChunks {
  Index sequences;
  Index length;
  Index chunk_size;
  Index count;        ///< N
  float* forget_sum;  ///< (B, H, length)
  float* source;      ///< (B, H, length)
  float* peak;        ///< (B, H, length)
  int* document;      ///< (B, length), or null: no document starts anywhere
  S* c;               ///< (B, H, N, Q, V), C before each chunk
  float* n;           ///< (B, H, N, Q)
  float* m;           ///< (B, H, N)

  /// Of the arrays (B, H, length), the row of a sequence and head.
  XLSTM_HOST_DEVICE Index tokens(int sequence, int head) const { return (sequence * Cell::heads + head) * length; }
  /// Of the arrays (B, H, N, …), the place of a chunk's.
  XLSTM_HOST_DEVICE Index chunk(int sequence, int head, Index at) const {
    return (sequence * Cell::heads + head) * count + at;
  }
  /// A head's part of a token's row of q, k, v, h or their gradients.
  template <class T, Index Width>
  XLSTM_HOST_DEVICE T* row_of(const MatrixView<T, Width>& all, int sequence, int head, Index t) const {
    return all.row(sequence * length + t) + head * (Width / Cell::heads);
  }
  XLSTM_HOST_DEVICE int document_of(int sequence, Index t) const {
    return document != nullptr ? document[sequence * length + t] : -1;
  }
  XLSTM_HOST_DEVICE Index end_of(Index at) const {
    const Index end = (at + 1) * chunk_size;
    return end < length ? end : length;
  }
};

/// ρ, with which b_i + ρ_i is the stabiliser of token i: the largest log weight of what it sums, b_i aside. Without a
/// stabilised gate the stabiliser is 0.
template <class Cell>
XLSTM_HOST_DEVICE float chunk_reference(float m_before, float peak, float forget_sum) {
  return Cell::InputGate::stabilized ? max(m_before, peak) : -forget_sum;
}

/// What leads from the state before a chunk to the state after it, as the chunk's last token says.
struct ChunkPassage {
  int document;      ///< where the chunk's last document starts, −1 where it begins before the chunk
  float forget_sum;  ///< b
  float peak;        ///< r
  float reference;   ///< M
  float decay;       ///< exp(m − M), 0 where a document starts
};
/// `m`: that of the state before the chunk.
template <class Cell, class S>
XLSTM_HOST_DEVICE ChunkPassage chunk_passage(const MLSTMChunks<Cell, S>& chunks, int sequence, int head, Index chunk,
                                             float m) {
  const Index last = chunks.end_of(chunk) - 1;
  const Index at = chunks.tokens(sequence, head) + last;
  ChunkPassage passage{chunks.document_of(sequence, last), chunks.forget_sum[at], chunks.peak[at], 0.0F, 0.0F};
  const bool fresh = passage.document >= 0;
  passage.reference = chunk_reference<Cell>(fresh ? 0.0F : m, passage.peak, passage.forget_sum);
  if (!fresh) passage.decay = exp(m - passage.reference);
  return passage;
}

namespace detail {
/// A value, and the document start it is counted from, if there is one.
struct SumFrom {
  float value;
  int start;
};
struct PeakFrom {
  float value;
  int start;
};
struct JoinSums {
  XLSTM_HOST_DEVICE SumFrom operator()(SumFrom x, SumFrom y) const {
    return y.start >= 0 ? y : SumFrom{x.value + y.value, x.start};
  }
};
struct JoinPeaks {
  XLSTM_HOST_DEVICE PeakFrom operator()(PeakFrom x, PeakFrom y) const {
    return y.start >= 0 ? y : PeakFrom{max(x.value, y.value), x.start};
  }
};
}  // namespace detail

/// A block has a chunk of a head. It also takes m before the first chunk from the state.
template <class Cell, class Gate, class S, class Tuning = MLSTMChunkwiseTuning>
struct MLSTMGateScanKernel {
  MatrixView<const Gate, Cell::heads> igate;
  MatrixView<const Gate, Cell::heads> fgate;
  const std::uint8_t* starts;  ///< (B, length), or null
  StateSlots<float> state;     ///< or null: zeros
  MLSTMChunks<Cell, S> chunks;

  static constexpr int threads = Tuning::gate_threads;
  using Shared = SharedLayout<BlockScanStorage<detail::SumFrom>, BlockScanStorage<detail::PeakFrom>>;

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const int count = static_cast<int>(chunks.count);
    const int chunk = thread.block_index().x % count;
    const int head = thread.block_index().x / count % static_cast<int>(Cell::heads);
    const int sequence = thread.block_index().x / count / static_cast<int>(Cell::heads);
    const Index first = chunk * chunks.chunk_size;
    const Index end = chunks.end_of(chunk);
    const Index row = chunks.tokens(sequence, head);

    if (chunk == 0 && thread.index() == 0) {
      chunks.m[chunks.chunk(sequence, head, 0)] = state ? state[sequence][Cell::m_offset + head] : 0.0F;
    }
    constexpr float nothing = -std::numeric_limits<float>::infinity();
    detail::SumFrom sum_before{0.0F, -1};
    detail::PeakFrom peak_before{nothing, -1};
    for (Index base = first; base < end; base += threads) {
      const Index t = base + thread.index();
      const bool inside = t < end;
      float log_f = 0.0F;
      float log_i = nothing;
      int start = -1;
      if (inside) {
        const Index token = sequence * chunks.length + t;
        log_f = log_forget<Cell>(to_float(fgate.row(token)[head]));
        log_i = log_input<Cell>(to_float(igate.row(token)[head]));
        if (starts != nullptr && starts[token] != 0) start = static_cast<int>(t);
      }
      const detail::SumFrom sum =
          block_inclusive_scan(thread, detail::SumFrom{log_f, start}, detail::JoinSums{}, sum_before);
      const float source = log_i - sum.value;
      const detail::PeakFrom peak =
          block_inclusive_scan(thread, detail::PeakFrom{source, start}, detail::JoinPeaks{}, peak_before);
      if (inside) {
        chunks.forget_sum[row + t] = sum.value;
        chunks.source[row + t] = source;
        chunks.peak[row + t] = peak.value;
        if (chunks.document != nullptr && head == 0) chunks.document[sequence * chunks.length + t] = sum.start;
      }
    }
  }
};

}  // namespace xlstm::cuda
