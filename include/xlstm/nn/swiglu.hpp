// SPDX-License-Identifier: Apache-2.0
// SwiGLU(x) = W_down( silu(W_gate x) ⊙ W_up x )  (xLSTM 7B, Fig. 3; the block's feed-forward part).
#pragma once

#include "xlstm/nn/linear.hpp"
#include "xlstm/nn/module.hpp"

namespace xlstm {

/// FLOPs of SwiGLU from `width` features over `inner` ones back to `width`.
constexpr double swiglu_flops(const Workload& work, Index width, Index inner) {
  const double d = static_cast<double>(width), f = static_cast<double>(inner);
  return (6.0 * d * f + 6.0 * f) * static_cast<double>(work.length);
}

template <Index D, Index F, bool UseBias = false>
struct SwiGLU {
  static_assert(D > 0, "xlstm: SwiGLU needs at least one feature");
  static_assert(F > 0, "xlstm: SwiGLU's inner width is zero; raise ffn_proj_factor");
  static constexpr Index input_dim = D;
  static constexpr Index output_dim = D;
  static constexpr Index state_size = 0;

  template <class B>
  struct Parameters {
    Weight<B, F, D> gate;
    OptionalVector<B, UseBias, F> gate_bias;
    Weight<B, F, D> up;
    OptionalVector<B, UseBias, F> up_bias;
    Weight<B, D, F> down;
    OptionalVector<B, UseBias, D> down_bias;
  };
  template <class B>
  struct Saved {
    Input<B, D> x;
    Output<B, F> gate, up, product;
  };

  template <class P, class V>
  static constexpr void for_each_parameter(P& p, V&& visit) {
    visit("proj_up_gate.weight", p.gate, Initialization::small());
    visit("proj_up_gate.bias", p.gate_bias, Initialization::constant(0));
    visit("proj_up.weight", p.up, Initialization::small());
    visit("proj_up.bias", p.up_bias, Initialization::constant(0));
    visit("proj_down.weight", p.down, Initialization::wang());
    visit("proj_down.bias", p.down_bias, Initialization::constant(0));
  }
  static constexpr double flops(const Workload& work) { return swiglu_flops(work, D, F); }

  template <class B>
  static void forward(B& backend, const Parameters<B>& p, const Run&, States<B>, Input<B, D> x, Output<B, D> y,
                      Saved<B>& saved) {
    using T = typename B::Arithmetic;
    Arena& arena = backend.arena();
    saved = {x, arena.template matrix<T, F>(x.rows()), arena.template matrix<T, F>(x.rows()),
             arena.template matrix<T, F>(x.rows())};
    backend.linear(x, linear_term(p.gate, p.gate_bias, saved.gate), linear_term(p.up, p.up_bias, saved.up));
    backend.swiglu(saved.gate, saved.up, saved.product);
    backend.linear(Input<B, F>(saved.product), linear_term(p.down, p.down_bias, y));
  }

  template <class B>
  static void backward(B& backend, const Parameters<B>& p, Gradients<B, SwiGLU>& g, const Run&, States<B>,
                       const Saved<B>& saved, Input<B, D> dy, Output<B, D> dx) {
    using T = typename B::Arithmetic;
    ArenaScope scope(backend.arena());
    const Output<B, F> dproduct = backend.arena().template matrix<T, F>(dy.rows());
    linear_backward(backend, Input<B, F>(saved.product), dproduct,
                    linear_backward_term(dy, p.down, g.down, g.down_bias));
    const Output<B, F> dgate = backend.arena().template matrix<T, F>(dy.rows());
    backend.swiglu_backward(saved.gate, saved.up, dproduct, dgate, dproduct);
    linear_backward(backend, saved.x, dx, linear_backward_term(dgate, p.gate, g.gate, g.gate_bias),
                    linear_backward_term(dproduct, p.up, g.up, g.up_bias));
  }
};

}  // namespace xlstm
