// SPDX-License-Identifier: Apache-2.0
// The backward pass of the chunkwise mLSTM on a device, exact, the denominator included (TFLA, arXiv 2503.14376, App.
// B, and what its kernels leave out; cpu/mlstm_backward.hpp). After the forward's first two kernels once more, unless
// what they made was kept:
//     token gradients    what a token needs of its denominator and δh            a warp for a token of a head
//     backward states    δC and δn after each chunk, and before the first        a block for a tile of a head's δC
//     chunk gradients    δq, δk, δv, each by itself                              a block for some tokens and columns
//     gate gradients     δĩ and δf̃                                               a warp for a chunk of a head
// bf16 is multiplied as bf16; f16 as fp32, as gradients have more exponents than it has.
#pragma once

#include "xlstm/cuda/mlstm_chunk_gradients.hpp"
#include "xlstm/cuda/mlstm_chunkwise.hpp"
#include "xlstm/cuda/mlstm_gate_gradients.hpp"

namespace xlstm::cuda {

namespace detail {
/// Lays the backward's own arrays out in `memory`, which may be null, and adds their bytes to `used`.
template <class Cell, class T, class S, class Tuning>
MLSTMChunkGradients<Cell, S> mlstm_chunk_gradients(const MLSTMChunks<Cell, S>& chunks, void* memory, Index& used) {
  const auto take = [&]<class U>(U*& array, Index count) {
    array = memory == nullptr ? nullptr : reinterpret_cast<U*>(static_cast<std::byte*>(memory) + used);
    used += round_up(count * static_cast<Index>(sizeof(U)), 256);
  };
  using States = MLSTMBackwardStatesKernel<Cell, T, S, 1, Tuning>;
  using Keys = MLSTMChunkGradientsKernel<Cell, T, S, GradientOf::key, 1, Tuning>;
  const Index heads = chunks.sequences * Cell::heads;
  const Index tokens = heads * chunks.length;
  MLSTMChunkGradients<Cell, S> gradients{};
  take(gradients.dc, heads * chunks.count * Cell::qk_dim * Cell::v_dim);
  take(gradients.dn, heads * chunks.count * Cell::qk_dim);
  for (float** array : {&gradients.reference, &gradients.scale, &gradients.carried, &gradients.through_sum}) {
    take(*array, tokens);
  }
  take(gradients.through, heads * chunks.count * States::blocks_per_head);
  for (double** array : {&gradients.row_sum, &gradients.column_sum, &gradients.diagonal}) take(*array, tokens);
  for (double** array : {&gradients.from_state, &gradients.to_state}) take(*array, tokens * Keys::blocks_of_columns);
  return gradients;
}
}  // namespace detail

/// Bytes of device memory that mlstm_chunkwise_backward needs for inputs of T. `kept`: it gets the forward's memory.
template <class Cell, class T, class Tuning = MLSTMChunkwiseTuning>
Index mlstm_chunkwise_backward_bytes(const Run& run, bool kept = false) {
  using S = MLSTMChunkState<T>;
  Index bytes = 0;
  const auto chunks = mlstm_chunks<Cell, S>(run, mlstm_chunk_size<Tuning>(run), nullptr, &bytes);
  if (kept) bytes = 0;
  detail::mlstm_chunk_gradients<Cell, T, S, Tuning>(chunks, nullptr, bytes);
  return bytes;
}

/// The gradients of the cell's input from dh, the gradient of h; `gradient` is written, not added to. The run's forward
/// pass with the same chunks made h and `denominators`. `first_state`: what it began with, null: zeros; only read.
/// `dstate`: in, the gradients of the last states' C and n; out, of the first states', their entries of m 0; null:
/// zeros in and nothing out. run.starts and the slots are in device memory. `memory`: mlstm_chunkwise_backward_bytes of
/// device memory, aligned to 256. `kept`: the forward pass's memory as that left it, or null: chunks' states are
/// computed again. A result's bits depend on nothing but the inputs.
template <class Cell, class T, class Gate, class Tuning = MLSTMChunkwiseTuning, Launcher L>
void mlstm_chunkwise_backward(L& launcher, const Run& run, const MLSTMInput<const T, Cell, const Gate>& in,
                              StateSlots<float> first_state, MatrixView<const T, Cell::v_width> h,
                              const MLSTMDenominators& denominators, MatrixView<const T, Cell::v_width> dh,
                              const MLSTMInput<T, Cell, Gate>& gradient, StateSlots<float> dstate, void* memory,
                              void* kept = nullptr) {
  using S = MLSTMChunkState<T>;
  if (run.rows() == 0) return;
  const bool again = kept == nullptr;
  Index used = 0;
  const auto chunks = mlstm_chunks<Cell, S>(run, mlstm_chunk_size<Tuning>(run), again ? memory : kept, &used);
  if (!again) used = 0;
  const auto sums = detail::mlstm_chunk_gradients<Cell, T, S, Tuning>(chunks, memory, used);
  const Index heads = run.sequences * Cell::heads;
  const auto launch = [&]<class K>(Index blocks, const K& kernel) {
    launcher.launch({static_cast<int>(blocks)}, kernel);
  };

  if (again)
    launch(heads * chunks.count,
           MLSTMGateScanKernel<Cell, Gate, S, Tuning>{in.igate, in.fgate, run.starts, first_state, chunks});
  const auto launch_all = [&]<int Width>() {
    using States = MLSTMChunkStatesKernel<Cell, T, S, Width, Tuning>;
    using Tokens = MLSTMTokenGradientsKernel<Cell, T, S>;
    using BackwardStates = MLSTMBackwardStatesKernel<Cell, T, S, Width, Tuning>;
    using Queries = MLSTMChunkGradientsKernel<Cell, T, S, GradientOf::query, Width, Tuning>;
    using Keys = MLSTMChunkGradientsKernel<Cell, T, S, GradientOf::key, Width, Tuning>;
    using Values = MLSTMChunkGradientsKernel<Cell, T, S, GradientOf::value, Width, Tuning>;
    if (again) launch(heads * States::blocks_per_head, States{in.k, in.v, first_state, chunks, false});
    launch(Tokens::blocks(chunks), Tokens{h, dh, denominators, chunks, sums});
    launch(heads * BackwardStates::blocks_per_head, BackwardStates{in.q, dh, dstate, chunks, sums});
    launch(Queries::blocks(chunks), Queries{in.q, in.k, in.v, dh, gradient.q, chunks, sums});
    launch(Keys::blocks(chunks), Keys{in.q, in.k, in.v, dh, gradient.k, chunks, sums});
    launch(Values::blocks(chunks), Values{in.q, in.k, in.v, dh, gradient.v, chunks, sums});
    launch(heads * chunks.count,
           MLSTMGateGradientsKernel<Cell, Gate, S>{in.igate, in.fgate, gradient.igate, gradient.fgate, chunks, sums,
                                                   Keys::blocks_of_columns, BackwardStates::blocks_per_head});
  };
  constexpr int widest = vector_width<S>;  // wider ones of f16 would need registers for twice as many floats
  if constexpr (Cell::qk_dim % widest == 0 && Cell::v_dim % widest == 0) {
    if (rows_are_aligned<widest>(in.q.data(), in.q.stride()) && rows_are_aligned<widest>(in.k.data(), in.k.stride()) &&
        rows_are_aligned<widest>(in.v.data(), in.v.stride()) && rows_are_aligned<widest>(dh.data(), dh.stride())) {
      return launch_all.template operator()<widest>();
    }
  }
  launch_all.template operator()<1>();
}

}  // namespace xlstm::cuda
