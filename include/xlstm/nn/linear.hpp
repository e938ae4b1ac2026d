// SPDX-License-Identifier: Apache-2.0
// y = W x + b, with W (Out, In) as published.
#pragma once

#include <type_traits>

#include "xlstm/nn/module.hpp"

namespace xlstm {

/// One of several matrices applied to the same rows: backend.linear(x, {w1, b1, y1}, {w2, b2, y2}) reads x once and
/// leaves the backend free to do all of them in one go.
template <class W, class T, class Bias = T>
struct LinearTerm {
  const W& weight;   ///< (Out, In)
  const Bias* bias;  ///< (Out), or null
  MatrixView<T, W::rows> y;
};

template <class W, class T, class Bias, Index N>
LinearTerm(const W&, const VectorParameter<Bias, N>&, MatrixView<T, W::rows>) -> LinearTerm<W, T, Bias>;

/// The term y = W x + b of a grouped product.
template <class W, class T, class Bias, Index N>
LinearTerm<W, T, Bias> linear_term(const W& weight, const VectorParameter<Bias, N>& bias, MatrixView<T, W::rows> y) {
  static_assert(N == 0 || N == W::rows, "xlstm: a linear layer's bias has one value per output");
  return {weight, N == 0 ? nullptr : bias.data(), y};
}

/// Back through one of several matrices applied to the same rows.
template <class W, class T, class Gradient, class Bias>
struct LinearBackwardTerm {
  using Matrix = W;
  MatrixView<const T, W::rows> dy;
  const W& weight;    ///< (Out, In)
  Gradient& dweight;  ///< (Out, In)
  Bias& dbias;        ///< (Out), or without values
};

template <class T, class W, class Gradient, class Bias>
LinearBackwardTerm<W, std::remove_const_t<T>, Gradient, Bias> linear_backward_term(MatrixView<T, W::rows> dy,
                                                                                   const W& weight, Gradient& dweight,
                                                                                   Bias& dbias) {
  return {dy, weight, dweight, dbias};
}

/// Back through y_t = x W_tᵀ + bias_t: dx = Σ_t dy_t W_t; for each term dW_t += dy_tᵀ x, dbias_t += Σ_rows dy_t. One
/// operation where the backend has such a one, linear_backward. dx is other memory than x and dy_t.
template <class B, Index In, class... Terms>
void linear_backward(B& backend, MatrixView<const typename B::Arithmetic, In> x,
                     MatrixView<typename B::Arithmetic, In> dx, Terms... terms) {
  if constexpr (requires { backend.linear_backward(x, dx, terms...); }) {
    backend.linear_backward(x, dx, terms...);
  } else {
    bool add = false;
    const auto go_back = [&](auto& term) {
      backend.linear_backward_weight(x, term.dy, term.dweight, term.dbias);
      backend.linear_backward_input(term.dy, term.weight, dx, add);
      add = true;
    };
    (go_back(terms), ...);
  }
}

/// A linear layer. `Init` is how its weight starts; its bias starts at 0.
template <Index In, Index Out, bool UseBias = false, Initialization::Kind Init = Initialization::Kind::small>
struct Linear {
  static_assert(In > 0 && Out > 0, "xlstm: a linear layer has at least one input and one output");
  static constexpr Index input_dim = In;
  static constexpr Index output_dim = Out;
  static constexpr Index state_size = 0;

  template <class B>
  struct Parameters {
    Weight<B, Out, In> weight;
    OptionalVector<B, UseBias, Out> bias;
  };
  template <class B>
  struct Saved {
    Input<B, In> x;
  };

  template <class P, class V>
  static constexpr void for_each_parameter(P& p, V&& visit) {
    visit("weight", p.weight, Initialization{Init, 0, 0});
    visit("bias", p.bias, Initialization::constant(0));
  }

  template <class B>
  static void forward(B& backend, const Parameters<B>& p, const Run&, States<B>, Input<B, In> x, Output<B, Out> y,
                      Saved<B>& saved) {
    saved.x = x;
    backend.linear(x, linear_term(p.weight, p.bias, y));
  }

  template <class B>
  static void backward(B& backend, const Parameters<B>& p, Gradients<B, Linear>& g, const Run&, States<B>,
                       const Saved<B>& saved, Input<B, Out> dy, Output<B, In> dx) {
    linear_backward(backend, saved.x, dx, linear_backward_term(dy, p.weight, g.weight, g.bias));
  }
};

}  // namespace xlstm
