// SPDX-License-Identifier: Apache-2.0
// y = x + Layer(Norm(x)): the pre-norm residual branch of which every block consists (xLSTM 7B, Fig. 3).
//
// A layer that begins with products of its rows may leave them to the norm before it, so that a backend can make both
// in one go. It has, besides forward,
//     forward_after(backend, p, run, state, x, y, saved, products_of_x)
// where x is memory that products_of_x(terms…) fills, which it calls once, before anything else, and which does what
// backend.linear(x, terms…) would. The norm has forward_linear, as RMSNorm does. (Who derives from such a layer or norm
// and replaces its forward replaces that too.)
#pragma once

#include "xlstm/nn/module.hpp"
#include "xlstm/nn/named.hpp"

namespace xlstm {

/// FLOPs of adding a branch to rows of `width` features.
constexpr double residual_flops(const Workload& work, Index width) {
  return static_cast<double>(width) * static_cast<double>(work.length);
}

namespace detail {
struct AnyProducts {
  template <class... Terms>
  void operator()(Terms...) const;
};
}  // namespace detail

template <class Norm, class Layer>
struct Residual {
  static_assert(Norm::input_dim == Norm::output_dim && Norm::output_dim == Layer::input_dim,
                "xlstm: in Residual<Norm, Layer> the layer must take as many features as the norm gives");
  static_assert(
      Layer::output_dim == Norm::input_dim,
      "xlstm: in Residual<Norm, Layer> the layer must give back as many features as come in, or they can't be added");
  static constexpr Index input_dim = Norm::input_dim;
  static constexpr Index output_dim = Layer::output_dim;
  static constexpr Index state_size = Norm::state_size + Layer::state_size;
  static constexpr Index residual_branches = 1 + xlstm::residual_branches<Norm> + xlstm::residual_branches<Layer>;

  template <class B>
  struct Parameters {
    typename Norm::template Parameters<B> norm;
    typename Layer::template Parameters<B> layer;
  };
  template <class B>
  struct Saved {
    typename Norm::template Saved<B> norm;
    typename Layer::template Saved<B> layer;
  };

  template <class P, class V>
  static constexpr void for_each_parameter(P& p, V&& visit) {
    detail::Children<Norm, Layer>::template visit<Norm>(0, p.norm, visit);
    detail::Children<Norm, Layer>::template visit<Layer>(1, p.layer, visit);
  }
  template <class V>
  static void for_each_state(const V& visit, const std::string& prefix, Index base) {
    detail::Children<Norm, Layer>::template visit_state<Norm>(0, visit, prefix, base);
    detail::Children<Norm, Layer>::template visit_state<Layer>(1, visit, prefix, base + Norm::state_size);
  }
  template <class S>
  static double state_unit(const S* state, Index i) {
    return i < Norm::state_size ? xlstm::state_unit<Norm>(state, i)
                                : xlstm::state_unit<Layer>(state + Norm::state_size, i - Norm::state_size);
  }
  template <class B>
  static constexpr double flops(const Workload& work) {
    return xlstm::flops<Norm, B>(work) + xlstm::flops<Layer, B>(work) + residual_flops(work, input_dim);
  }

  /// Whether the norm can make the layer's first products.
  template <class B, Index D = input_dim>  // nvcc compares sizes here only if they are a parameter
  static constexpr bool norm_makes_products = requires(B& backend, const Parameters<B>& p, const Run& run,
                                                       States<B> state, Input<B, D> x, Output<B, D> normed,
                                                       Saved<B>& saved, detail::AnyProducts products) {
    Norm::template forward_linear<B>(backend, p.norm, x, normed, saved.norm);
    Layer::template forward_after<B>(backend, p.layer, run, state, x, normed, saved.layer, products);
  };

  template <class B>
  static void forward(B& backend, const Parameters<B>& p, const Run& run, States<B> state, Input<B, input_dim> x,
                      Output<B, output_dim> y, Saved<B>& saved) {
    const auto normed = backend.arena().template matrix<typename B::Arithmetic, input_dim>(x.rows());
    const States<B> layer_state = state.at(Norm::state_size);
    if constexpr (norm_makes_products<B>) {
      Layer::template forward_after<B>(backend, p.layer, run, layer_state, normed, y, saved.layer, [&](auto... terms) {
        Norm::template forward_linear<B>(backend, p.norm, x, normed, saved.norm, terms...);
      });
    } else {
      Norm::template forward<B>(backend, p.norm, run, state, x, normed, saved.norm);
      Layer::template forward<B>(backend, p.layer, run, layer_state, normed, y, saved.layer);
    }
    backend.add(x, y);
  }

  template <class B>
  static void backward(B& backend, const Parameters<B>& p, Gradients<B, Residual>& g, const Run& run, States<B> dstate,
                       const Saved<B>& saved, Input<B, output_dim> dy, Output<B, input_dim> dx) {
    ArenaScope scope(backend.arena());
    const auto dnormed = backend.arena().template matrix<typename B::Arithmetic, input_dim>(dy.rows());
    Layer::template backward<B>(backend, p.layer, g.layer, run, dstate.at(Norm::state_size), saved.layer, dy, dnormed);
    Norm::template backward<B>(backend, p.norm, g.norm, run, dstate, saved.norm, dnormed, dx);
    backend.add(dy, dx);
  }
};

template <class Norm, class Layer>
inline constexpr auto own_names<Residual<Norm, Layer>> = detail::names_of_children<Norm, Layer>();

}  // namespace xlstm
