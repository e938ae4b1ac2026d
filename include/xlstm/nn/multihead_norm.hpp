// SPDX-License-Identifier: Apache-2.0
// LayerNorm over each head's features by itself: y = (h − mean) / √(var + ε) ⊙ w (+ b), with one weight per feature of
// all heads (xLSTM 7B, Fig. 3; "multihead_norm" in the checkpoints).
#pragma once

#include "xlstm/nn/module.hpp"

namespace xlstm {

/// FLOPs of a multi-head norm over rows of `width` features, those of all heads.
constexpr double multihead_norm_flops(const Workload& work, Index width) {
  return 7.0 * static_cast<double>(width) * static_cast<double>(work.length);
}

template <Index Heads, Index Dim, bool UseBias = false, double Eps = 1e-6>
struct MultiHeadNorm {
  static_assert(Heads > 0 && Dim > 0, "xlstm: a multi-head norm needs at least one head with one feature");
  static_assert(Eps > 0, "xlstm: a norm's eps must be positive");
  static constexpr Index width = Heads * Dim;
  static constexpr Index input_dim = width;
  static constexpr Index output_dim = width;
  static constexpr Index state_size = 0;

  template <class B>
  struct Parameters {
    Vector<B, width> weight;
    OptionalVector<B, UseBias, width> bias;
  };
  template <class B>
  struct Saved {
    Input<B, width> x;
    Precise<B>* mean;   ///< (rows, Heads)
    Precise<B>* scale;  ///< (rows, Heads): 1/√(var + ε)
  };

  template <class P, class V>
  static constexpr void for_each_parameter(P& p, V&& visit) {
    visit("weight", p.weight, Initialization::constant(1));
    visit("bias", p.bias, Initialization::constant(0));
  }
  static constexpr double flops(const Workload& work) { return multihead_norm_flops(work, width); }

  template <class B>
  static void forward(B& backend, const Parameters<B>& p, const Run&, States<B>, Input<B, width> x, Output<B, width> y,
                      Saved<B>& saved) {
    using T = Precise<B>;
    Arena& arena = backend.arena();
    saved = {x, arena.template allocate<T>(x.rows() * Heads), arena.template allocate<T>(x.rows() * Heads)};
    backend.template multihead_norm<Heads>(x, p.weight, p.bias, Eps, y, saved.mean, saved.scale);
  }

  template <class B>
  static void backward(B& backend, const Parameters<B>& p, Gradients<B, MultiHeadNorm>& g, const Run&, States<B>,
                       const Saved<B>& saved, Input<B, width> dy, Output<B, width> dx) {
    backend.template multihead_norm_backward<Heads>(saved.x, p.weight, saved.mean, saved.scale, dy, dx, g.weight,
                                                    g.bias);
  }

  /// y = σ(gate) ⊙ norm(x), as one operation.
  template <class B>
  static void forward_gated(B& backend, const Parameters<B>& p, Output<B, width> gate, Input<B, width> x,
                            Output<B, width> y, Saved<B>& saved) {
    using T = Precise<B>;
    Arena& arena = backend.arena();
    saved = {x, arena.template allocate<T>(x.rows() * Heads), arena.template allocate<T>(x.rows() * Heads)};
    backend.template gated_multihead_norm<Heads>(gate, x, p.weight, p.bias, Eps, y, saved.mean, saved.scale);
  }

  /// The norm is made again from x, so that none of it is kept. What dy holds afterwards is the backend's own.
  template <class B>
  static void backward_gated(B& backend, const Parameters<B>& p, Gradients<B, MultiHeadNorm>& g, const Saved<B>& saved,
                             Output<B, width> gate, Output<B, width> dy, Output<B, width> dgate, Output<B, width> dx) {
    backend.template gated_multihead_norm_backward<Heads>(gate, saved.x, p.weight, p.bias, saved.mean, saved.scale, dy,
                                                          dgate, dx, g.weight, g.bias);
  }
};

}  // namespace xlstm
