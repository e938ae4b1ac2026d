// SPDX-License-Identifier: Apache-2.0
// y = x / √(mean(x²) + ε) ⊙ w (+ b); the mean in fp32 or better (xLSTM 7B, §3.1).
#pragma once

#include "xlstm/nn/module.hpp"

namespace xlstm {

/// FLOPs of an RMS norm over rows of `width` features.
constexpr double rms_norm_flops(const Workload& work, Index width) {
  return 4.0 * static_cast<double>(width) * static_cast<double>(work.length);
}

template <Index D, bool UseBias = false, double Eps = 1e-6>
struct RMSNorm {
  static_assert(D > 0, "xlstm: a norm needs at least one feature");
  static_assert(Eps > 0, "xlstm: a norm's eps must be positive");
  static constexpr Index input_dim = D;
  static constexpr Index output_dim = D;
  static constexpr Index state_size = 0;

  template <class B>
  struct Parameters {
    Vector<B, D> weight;
    OptionalVector<B, UseBias, D> bias;
  };
  template <class B>
  struct Saved {
    Input<B, D> x;
    Precise<B>* scale;  ///< (rows): 1/√(mean(x²) + ε)
  };

  template <class P, class V>
  static constexpr void for_each_parameter(P& p, V&& visit) {
    visit("weight", p.weight, Initialization::constant(1));
    visit("bias", p.bias, Initialization::constant(0));
  }
  static constexpr double flops(const Workload& work) { return rms_norm_flops(work, D); }

  template <class B>
  static void forward(B& backend, const Parameters<B>& p, const Run&, States<B>, Input<B, D> x, Output<B, D> y,
                      Saved<B>& saved) {
    saved = {x, backend.arena().template allocate<Precise<B>>(x.rows())};
    backend.rms_norm(x, p.weight, p.bias, Eps, y, saved.scale);
  }

  /// The norm, and backend.linear(y, terms...): one operation where the backend has such a one, rms_norm_linear.
  template <class B, class... Terms>
  static void forward_linear(B& backend, const Parameters<B>& p, Input<B, D> x, Output<B, D> y, Saved<B>& saved,
                             Terms... terms) {
    saved = {x, backend.arena().template allocate<Precise<B>>(x.rows())};
    if constexpr (requires { backend.rms_norm_linear(x, p.weight, p.bias, Eps, y, saved.scale, terms...); }) {
      backend.rms_norm_linear(x, p.weight, p.bias, Eps, y, saved.scale, terms...);
    } else {
      backend.rms_norm(x, p.weight, p.bias, Eps, y, saved.scale);
      backend.linear(Input<B, D>(y), terms...);
    }
  }

  template <class B>
  static void backward(B& backend, const Parameters<B>& p, Gradients<B, RMSNorm>& g, const Run&, States<B>,
                       const Saved<B>& saved, Input<B, D> dy, Output<B, D> dx) {
    backend.rms_norm_backward(saved.x, p.weight, saved.scale, dy, dx, g.weight, g.bias);
  }
};

}  // namespace xlstm
