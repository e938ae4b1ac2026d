// SPDX-License-Identifier: Apache-2.0
// One module after the other: y = Mₙ(… M₂(M₁(x))).
#pragma once

#include <array>
#include <tuple>
#include <utility>

#include "xlstm/nn/module.hpp"
#include "xlstm/nn/named.hpp"

namespace xlstm {

template <class... Ms>
struct Sequential {
  static_assert(sizeof...(Ms) > 0, "xlstm: Sequential<> needs at least one module");
  static constexpr std::size_t count = sizeof...(Ms);
  template <std::size_t I>
  using Child = std::tuple_element_t<I, std::tuple<Ms...>>;

  static constexpr bool fits = [] {
    constexpr std::array<Index, count> in{Ms::input_dim...};
    constexpr std::array<Index, count> out{Ms::output_dim...};
    for (std::size_t i = 0; i + 1 < count; ++i) {
      if (out[i] != in[i + 1]) return false;
    }
    return true;
  }();
  static_assert(fits, "xlstm: in Sequential<…> a module must take as many features as the one before it gives");

  static constexpr Index input_dim = Child<0>::input_dim;
  static constexpr Index output_dim = Child<count - 1>::output_dim;
  static constexpr Index state_size = (Ms::state_size + ...);
  static constexpr Index residual_branches = (xlstm::residual_branches<Ms> + ...);

  template <class B>
  struct Parameters {
    std::tuple<typename Ms::template Parameters<B>...> children;
  };
  template <class B>
  struct Saved {
    std::tuple<typename Ms::template Saved<B>...> children;
  };

  template <class P, class V>
  static constexpr void for_each_parameter(P& p, V&& visit) {
    for_each_child([&]<std::size_t I>() {
      detail::Children<Ms...>::template visit<Child<I>>(static_cast<Index>(I), std::get<I>(p.children), visit);
    });
  }
  template <class V>
  static void for_each_state(const V& visit, const std::string& prefix, Index base) {
    for_each_child([&]<std::size_t I>() {
      detail::Children<Ms...>::template visit_state<Child<I>>(static_cast<Index>(I), visit, prefix,
                                                              base + state_offset(I));
    });
  }
  template <class S>
  static double state_unit(const S* state, Index i) {
    double unit = 1;
    for_each_child([&]<std::size_t I>() {
      const Index own = i - state_offset(I);
      if (own >= 0 && own < Child<I>::state_size) unit = xlstm::state_unit<Child<I>>(state + state_offset(I), own);
    });
    return unit;
  }
  template <class B>
  static constexpr double flops(const Workload& work) {
    return (xlstm::flops<Ms, B>(work) + ...);
  }

  template <class B>
  static void forward(B& backend, const Parameters<B>& p, const Run& run, States<B> state, Input<B, input_dim> x,
                      Output<B, output_dim> y, Saved<B>& saved) {
    forward_from<0>(backend, p, run, state, x, y, saved);
  }

  template <class B>
  static void backward(B& backend, const Parameters<B>& p, Gradients<B, Sequential>& g, const Run& run,
                       States<B> dstate, const Saved<B>& saved, Input<B, output_dim> dy, Output<B, input_dim> dx) {
    ArenaScope scope(backend.arena());
    backward_from<count - 1>(backend, p, g, run, dstate, saved, dy, dx);
  }

 private:
  template <class F>
  static constexpr void for_each_child(F&& f) {
    [&]<std::size_t... I>(std::index_sequence<I...>) { (f.template operator()<I>(), ...); }
    (std::make_index_sequence<count>{});
  }

  static constexpr Index state_offset(std::size_t child) {
    constexpr std::array<Index, count> sizes{Ms::state_size...};
    Index offset = 0;
    for (std::size_t i = 0; i < child; ++i) offset += sizes[i];
    return offset;
  }

  template <std::size_t I, class B>
  static void forward_from(B& backend, const Parameters<B>& p, const Run& run, States<B> state,
                           Input<B, Child<I>::input_dim> x, Output<B, output_dim> y, Saved<B>& saved) {
    using M = Child<I>;
    if constexpr (I + 1 == count) {
      M::template forward<B>(backend, std::get<I>(p.children), run, state.at(state_offset(I)), x, y,
                             std::get<I>(saved.children));
    } else {
      const auto out = backend.arena().template matrix<typename B::Arithmetic, M::output_dim>(x.rows());
      const Arena::Mark mark = backend.arena().mark();
      M::template forward<B>(backend, std::get<I>(p.children), run, state.at(state_offset(I)), x, out,
                             std::get<I>(saved.children));
      if (!run.training) backend.arena().release(mark);
      forward_from<I + 1>(backend, p, run, state, Input<B, M::output_dim>(out), y, saved);
    }
  }

  template <std::size_t I, class B>
  static void backward_from(B& backend, const Parameters<B>& p, Gradients<B, Sequential>& g, const Run& run,
                            States<B> dstate, const Saved<B>& saved, Input<B, Child<I>::output_dim> dy,
                            Output<B, input_dim> dx) {
    using M = Child<I>;
    const auto step = [&](Output<B, M::input_dim> din) {
      M::template backward<B>(backend, std::get<I>(p.children), std::get<I>(g.children), run,
                              dstate.at(state_offset(I)), std::get<I>(saved.children), dy, din);
    };
    if constexpr (I == 0) {
      step(dx);
    } else {
      const auto din = backend.arena().template matrix<typename B::Arithmetic, M::input_dim>(dy.rows());
      step(din);
      backward_from<I - 1>(backend, p, g, run, dstate, saved, Input<B, M::input_dim>(din), dx);
    }
  }
};

template <class... Ms>
inline constexpr auto own_names<Sequential<Ms...>> = detail::names_of_children<Ms...>();

}  // namespace xlstm
