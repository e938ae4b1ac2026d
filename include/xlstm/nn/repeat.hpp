// SPDX-License-Identifier: Apache-2.0
// N equal modules one after the other. They are one type in an array, so compile time doesn't grow with depth.
// Recomputation (activation checkpointing): with Recompute::per_block only each block's input and first state are kept
// in training, and backward runs the block's forward again; the result is the same to the bit.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>

#include "xlstm/nn/module.hpp"

namespace xlstm {

enum class Recompute { none, per_block };

template <Index N, class M, Recompute Policy = Recompute::none>
struct Repeat {
  static_assert(N > 0, "xlstm: Repeat needs at least one module; set num_blocks to 1 or more");
  static_assert(M::input_dim == M::output_dim, "xlstm: a repeated module must give back as many features as it takes");
  static constexpr Index count = N;
  static constexpr Index input_dim = M::input_dim;
  static constexpr Index output_dim = M::output_dim;
  static constexpr Index state_size = N * M::state_size;
  static constexpr Index residual_branches = N * xlstm::residual_branches<M>;

  template <class B>
  struct Parameters {
    std::array<typename M::template Parameters<B>, static_cast<std::size_t>(N)> blocks;
    constexpr auto& operator[](Index i) { return blocks[static_cast<std::size_t>(i)]; }
    constexpr const auto& operator[](Index i) const { return blocks[static_cast<std::size_t>(i)]; }
  };
  /// What backward needs of one block.
  template <class B>
  struct SavedBlock {
    Input<B, input_dim> x;
    typename B::State* first_state;  ///< (sequences, M::state_size); with Recompute::per_block
    typename M::template Saved<B> saved;
  };
  template <class B>
  struct Saved {
    SavedBlock<B>* blocks;  ///< (N) in training, (1) otherwise
  };

  template <class P, class V>
  static constexpr void for_each_parameter(P& p, V&& visit) {
    for (Index i = 0; i < N; ++i) M::for_each_parameter(p[i], visit.child(i));
  }
  template <class V>
  static void for_each_state(const V& visit, const std::string& prefix, Index base) {
    for (Index i = 0; i < N; ++i) {
      xlstm::for_each_state<M>(visit, detail::join(prefix, std::to_string(i)), base + i * M::state_size);
    }
  }
  template <class S>
  static double state_unit(const S* state, Index i) {
    return xlstm::state_unit<M>(state + i / M::state_size * M::state_size, i % M::state_size);
  }
  template <class B>
  static constexpr double flops(const Workload& work) {
    return static_cast<double>(N) * xlstm::flops<M, B>(work);
  }

  template <class B>
  static void forward(B& backend, const Parameters<B>& p, const Run& run, States<B> state, Input<B, input_dim> x,
                      Output<B, output_dim> y, Saved<B>& saved) {
    if (run.training) {
      forward_keeping(backend, p, run, state, x, y, saved);
      return;
    }
    using T = typename B::Arithmetic;
    Arena& arena = backend.arena();
    saved.blocks = arena.template records<SavedBlock<B>>(1);
    Output<B, output_dim> spare[2];
    if (N > 1) spare[0] = arena.template matrix<T, output_dim>(x.rows());
    if (N > 2) spare[1] = arena.template matrix<T, output_dim>(x.rows());
    Input<B, input_dim> in = x;
    for (Index i = 0; i < N; ++i) {
      ArenaScope scope(arena);
      const Output<B, output_dim> out = i + 1 == N ? y : spare[i % 2];
      M::template forward<B>(backend, p[i], run, state.at(i * M::state_size), in, out, saved.blocks->saved);
      in = out;
    }
  }

  template <class B>
  static void backward(B& backend, const Parameters<B>& p, Gradients<B, Repeat>& g, const Run& run, States<B> dstate,
                       const Saved<B>& saved, Input<B, output_dim> dy, Output<B, input_dim> dx) {
    ArenaScope scope(backend.arena());
    Output<B, input_dim> spare[2];
    for (auto& s : spare) s = backend.arena().template matrix<typename B::Arithmetic, input_dim>(dy.rows());
    Input<B, output_dim> dout = dy;
    for (Index i = N - 1; i >= 0; --i) {
      ArenaScope block_scope(backend.arena());
      const SavedBlock<B>& block = saved.blocks[i];
      const Output<B, input_dim> din = i == 0 ? dx : spare[i % 2];
      const States<B> block_dstate = dstate.at(i * M::state_size);
      if constexpr (Policy == Recompute::per_block) {
        typename M::template Saved<B> again;
        recompute(backend, p[i], run, block, again);
        M::template backward<B>(backend, p[i], g[i], run, block_dstate, again, dout, din);
      } else {
        M::template backward<B>(backend, p[i], g[i], run, block_dstate, block.saved, dout, din);
      }
      dout = din;
    }
  }

 private:
  template <class B>
  static void forward_keeping(B& backend, const Parameters<B>& p, const Run& run, States<B> state,
                              Input<B, input_dim> x, Output<B, output_dim> y, Saved<B>& saved) {
    using T = typename B::Arithmetic;
    using S = typename B::State;
    Arena& arena = backend.arena();
    saved.blocks = arena.template records<SavedBlock<B>>(N);
    Input<B, input_dim> in = x;
    for (Index i = 0; i < N; ++i) {
      SavedBlock<B>& block = *new (&saved.blocks[i]) SavedBlock<B>();
      block.x = in;
      const Output<B, output_dim> out = i + 1 == N ? y : arena.template matrix<T, output_dim>(x.rows());
      const States<B> block_state = state.at(i * M::state_size);
      if constexpr (Policy == Recompute::per_block) {
        block.first_state = arena.template allocate<S>(run.sequences * M::state_size);
        for (Index b = 0; b < run.sequences; ++b) {
          S* const first = block.first_state + b * M::state_size;
          if (block_state) {
            std::copy_n(block_state[b], M::state_size, first);
          } else {
            std::fill_n(first, M::state_size, S{0});  // no states are states of zeros
          }
        }
        ArenaScope scope(arena);
        M::template forward<B>(backend, p[i], run, block_state, in, out, block.saved);
      } else {
        M::template forward<B>(backend, p[i], run, block_state, in, out, block.saved);
      }
      in = out;
    }
  }

  template <class B>
  static void recompute(B& backend, const typename M::template Parameters<B>& p, const Run& run,
                        const SavedBlock<B>& block, typename M::template Saved<B>& saved) {
    using S = typename B::State;
    Arena& arena = backend.arena();
    // The state after the block is computed once more into a copy and dropped.
    S** slots = arena.template records<S*>(run.sequences);
    S* copies = arena.template allocate<S>(run.sequences * M::state_size);
    std::copy_n(block.first_state, run.sequences * M::state_size, copies);
    for (Index b = 0; b < run.sequences; ++b) slots[b] = copies + b * M::state_size;
    const auto out = arena.template matrix<typename B::Arithmetic, output_dim>(block.x.rows());
    M::template forward<B>(backend, p, run, States<B>{slots, 0}, block.x, out, saved);
  }
};

}  // namespace xlstm
