// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "xlstm/nn/module.hpp"

namespace xlstm {

/// y = x: stands where a composition leaves a part out, such as the norm before the head.
template <Index D>
struct Identity {
  static constexpr Index input_dim = D;
  static constexpr Index output_dim = D;
  static constexpr Index state_size = 0;
  template <class B>
  struct Parameters {};
  template <class B>
  struct Saved {};
  template <class P, class V>
  static constexpr void for_each_parameter(P&, V&&) {}
  static constexpr double flops(const Workload&) { return 0; }

  template <class B>
  static void forward(B& backend, const Parameters<B>&, const Run&, States<B>, Input<B, D> x, Output<B, D> y,
                      Saved<B>&) {
    backend.copy(x, y);
  }
  template <class B>
  static void backward(B& backend, const Parameters<B>&, Gradients<B, Identity>&, const Run&, States<B>,
                       const Saved<B>&, Input<B, D> dy, Output<B, D> dx) {
    backend.copy(dy, dx);
  }
};

}  // namespace xlstm
