// SPDX-License-Identifier: Apache-2.0
// The chunkwise mLSTM on a device (TFLA, arXiv 2503.14376): three kernels, after each other.
//     gate scan      what the chunks need of the gates            a block for a chunk of a head
//     chunk states   C, n and m before each chunk, and the last   a block for a tile of a head's C, through all chunks
//     chunk outputs  h                                            a block for some tokens of a chunk, some columns
#pragma once

#include <cstddef>

#include "xlstm/cuda/mlstm_chunk_outputs.hpp"
#include "xlstm/cuda/mlstm_chunk_states.hpp"

namespace xlstm::cuda {

/// The chunk size of a run on a device.
template <class Tuning = MLSTMChunkwiseTuning>
Index mlstm_chunk_size(const Run& run) {
  return run.chunk_size > 0 ? run.chunk_size : Tuning::chunk_size;
}

/// Lays the arrays between the kernels out in `memory`, aligned to 256 bytes as all device memory is. `bytes`, if
/// wanted, is how much they take; with null memory that is all there is to learn.
template <class Cell, class S>
MLSTMChunks<Cell, S> mlstm_chunks(const Run& run, Index chunk_size, void* memory, Index* bytes = nullptr) {
  Index used = 0;
  const auto take = [&]<class U>(U*& array, Index count) {
    array = memory == nullptr ? nullptr : reinterpret_cast<U*>(static_cast<std::byte*>(memory) + used);
    used += round_up(count * static_cast<Index>(sizeof(U)), 256);
  };
  MLSTMChunks<Cell, S> chunks{};
  chunks.sequences = run.sequences;
  chunks.length = run.length;
  chunks.chunk_size = chunk_size < run.length ? chunk_size : run.length;
  chunks.count = ceil_div(run.length, chunks.chunk_size);
  const Index heads = run.sequences * Cell::heads;
  take(chunks.c, heads * chunks.count * Cell::qk_dim * Cell::v_dim);
  take(chunks.n, heads * chunks.count * Cell::qk_dim);
  take(chunks.m, heads * chunks.count);
  take(chunks.forget_sum, heads * run.length);
  take(chunks.source, heads * run.length);
  take(chunks.peak, heads * run.length);
  if (run.starts != nullptr) take(chunks.document, run.rows());
  if (bytes != nullptr) *bytes = used;
  return chunks;
}

/// Bytes of device memory that mlstm_chunkwise needs for inputs of T.
template <class Cell, class T, class Tuning = MLSTMChunkwiseTuning>
Index mlstm_chunkwise_bytes(const Run& run) {
  Index bytes = 0;
  mlstm_chunks<Cell, MLSTMChunkState<T>>(run, mlstm_chunk_size<Tuning>(run), nullptr, &bytes);
  return bytes;
}

/// h (B·S, H·V) from the inputs and the first state, in chunks of run.chunk_size or else the tuning's, whatever
/// run.form is. run.starts and `state.slots` are in device memory. `state`: the first states in, the last ones out;
/// null: zeros in, and the last ones are not kept. `memory`: mlstm_chunkwise_bytes of device memory, aligned to 256.
/// `denominators`: written, if there are arrays for them, for mlstm_chunkwise_backward.
template <class Cell, class T, class Gate, class H, class Tuning = MLSTMChunkwiseTuning, Launcher L>
void mlstm_chunkwise(L& launcher, const Run& run, MatrixView<const T, Cell::qk_width> q,
                     MatrixView<const T, Cell::qk_width> k, MatrixView<const T, Cell::v_width> v,
                     MatrixView<const Gate, Cell::heads> igate, MatrixView<const Gate, Cell::heads> fgate,
                     StateSlots<float> state, MatrixView<H, Cell::v_width> h, void* memory,
                     const MLSTMDenominators& denominators = {}) {
  using S = MLSTMChunkState<T>;
  if (run.rows() == 0) return;
  const auto chunks = mlstm_chunks<Cell, S>(run, mlstm_chunk_size<Tuning>(run), memory);
  const Index heads = run.sequences * Cell::heads;
  launcher.launch({static_cast<int>(heads * chunks.count)},
                  MLSTMGateScanKernel<Cell, Gate, S, Tuning>{igate, fgate, run.starts, state, chunks});
  const auto launch = [&]<int Width>() {
    using States = MLSTMChunkStatesKernel<Cell, T, S, Width, Tuning>;
    using Outputs = MLSTMChunkOutputsKernel<Cell, T, H, S, Width, Tuning>;
    launcher.launch({static_cast<int>(heads * States::blocks_per_head)}, States{k, v, state, chunks});
    launcher.launch({static_cast<int>(Outputs::blocks(chunks))},
                    Outputs{q, k, v, h, chunks, state.slots == nullptr, denominators});
  };
  constexpr int widest = vector_width<T>;
  if constexpr (Cell::qk_dim % widest == 0 && Cell::v_dim % widest == 0) {
    if (rows_are_aligned<widest>(q.data(), q.stride()) && rows_are_aligned<widest>(k.data(), k.stride()) &&
        rows_are_aligned<widest>(v.data(), v.stride())) {
      return launch.template operator()<widest>();
    }
  }
  launch.template operator()<1>();
}

}  // namespace xlstm::cuda
