// SPDX-License-Identifier: Apache-2.0
// What a module is. A module is a type without data; everything it works on is handed to it:
//
//     template <Index D> struct MyModule {
//       static constexpr Index input_dim = D, output_dim = D;   // features of a row
//       static constexpr Index state_size = 0;                  // values of recurrent state per sequence
//       template <class B> struct Parameters { Vector<B, D> scale; };
//       template <class B> struct Saved { ... };                // what backward needs: plain views into the arena
//       template <class P, class V> static constexpr void for_each_parameter(P& p, V&& visit) {
//         visit("scale", p.scale, Initialization::constant(1));
//       }
//       template <class B> static void forward(B&, const Parameters<B>&, const Run&, States<B>, Input<B, D> x,
//                                              Output<B, D> y, Saved<B>&);
//       template <class B> static void backward(B&, const Parameters<B>&, Gradients<B, MyModule>&, const Run&,
//                                               States<B> dstate, const Saved<B>&, Input<B, D> dy, Output<B, D> dx);
//     };
//
// forward writes y; what it allocates from backend.arena() stays until its caller gives it back, so `saved` may point
// there; x and y stay as they are until backward when run.training is set. backward adds to the gradients, writes dx,
// and turns dstate from the gradient of the last state into that of the first (dstate may be empty). A module whose
// state holds a stabiliser has a function state_unit too (below).
// x and y never overlap. Source of the design: docs/architecture.md.
#pragma once

#include <concepts>
#include <memory>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/run.hpp"
#include "xlstm/core/view.hpp"
#include "xlstm/nn/parameter.hpp"

namespace xlstm {

/// Rows that a module reads.
template <class B, Index D>
using Input = MatrixView<const typename B::Arithmetic, D>;

/// Rows that a module writes.
template <class B, Index D>
using Output = MatrixView<typename B::Arithmetic, D>;

/// The recurrent states of the sequences of a run.
template <class B>
using States = StateSlots<typename B::State>;

/// Gradients have the type of the parameters, in the backend's gradient precision.
template <class B, class M>
using Gradients = typename M::template Parameters<typename B::GradientBackend>;

/// What every backend offers to modules and models, besides its operations.
template <class B>
concept Backend = requires(B& b) {
  typename B::Arithmetic;
  typename B::State;
  typename B::GradientBackend;
  typename B::template Weight<1, 1>;
  { b.arena() } -> std::same_as<Arena&>;
};

/// A backend that computes in the memory of a device, which the host cannot read. What crosses, crosses in Model,
/// Session and Trainer: weights, states, logits. `DeviceMemory(resources, bytes, what)` is memory there, zeroed and
/// copyable. A pass begins with upload(run) and upload(states, sequences): the same for the device, until the arena's
/// next release; download(rows) are rows that the host may read, until the next; synchronize() returns when all is
/// done. One token for each of some sequences is a step: upload_step(tokens, states), and repeated(key, work) does
/// work() with step_tokens(sequences) and step_states(), or repeats what it did the last time.
template <class B>
concept DeviceBackend = Backend<B> && requires(B& b, const Run& run, MatrixView<Precise<B>, 1> rows) {
  requires std::constructible_from < typename B::DeviceMemory, const std::shared_ptr<typename B::Resources>
  &, Index, const char* > ;
  { b.upload(run) } -> std::same_as<Run>;
  { b.upload(States<B>{}, Index{}) } -> std::same_as<States<B>>;
  { b.download(rows) } -> std::same_as<MatrixView<Precise<B>, 1>>;
  b.upload_step(b.step_tokens(Index{}), b.step_states());
  b.synchronize();
};

/// What a type must have to take part in a composition.
template <class M, class B>
concept Module = requires(typename M::template Parameters<B>& p, const typename M::template Parameters<B>& cp,
                          typename M::template Saved<B>& saved, B& b, const Run& run, States<B> states,
                          Input<B, M::input_dim> x, Output<B, M::output_dim> y) {
  { M::input_dim + M::output_dim + M::state_size } -> std::convertible_to<Index>;
  M::for_each_parameter(p, detail::CountingVisitor{nullptr});
  M::forward(b, cp, run, states, x, y, saved);
};

/// Size of the work for which FLOPs are counted: one sequence of `length` tokens.
struct Workload {
  Index length = 1;
  Index chunk_size = 64;
  bool recurrent = false;  ///< token by token, as in decoding
};

/// FLOPs (a multiplication and an addition are two) of a module's forward pass over a workload.
/// A module says it with `static constexpr double flops(const Workload&)`; one that doesn't is counted
/// by its weight matrices, two FLOPs a weight and token.
template <class M, class B>
constexpr double flops(const Workload& work) {
  if constexpr (requires { M::template flops<B>(work); }) {
    return M::template flops<B>(work);
  } else if constexpr (requires { M::flops(work); }) {
    return M::flops(work);
  } else {
    return 2.0 * static_cast<double>(count_parameters<M, B>().matrix) * static_cast<double>(work.length);
  }
}

/// Calls visit(name, offset, rows, cols) for every named part of a module's state; `base` is the module's own offset.
template <class M, class V>
void for_each_state(const V& visit, const std::string& prefix = {}, Index base = 0) {
  if constexpr (requires { M::for_each_state(visit, prefix, base); }) M::for_each_state(visit, prefix, base);
}

/// The unit of value i of a module's state. The mLSTM's C and n are multiples of exp(m), where m is a stabiliser: any m
/// will do, so only C·exp(m) means anything, and gradients hold for the m that is there. A module with such a state
/// says so with `template <class S> static double state_unit(const S* state, Index i)`, which is 0 for a value that has
/// no gradient, such as m. Where a module says nothing, units are 1. Its containers pass this on; the gradient check
/// asks.
template <class M, class S>
double state_unit(const S* state, Index i) {
  if constexpr (M::state_size > 0 && requires { M::state_unit(state, i); }) {
    return M::state_unit(state, i);
  } else {
    return 1;
  }
}

/// How many branches a module adds to a residual stream; of a module of one's own that is not made of the library's, 0.
template <class M>
inline constexpr Index residual_branches = [] {
  if constexpr (requires { M::residual_branches; }) return Index{M::residual_branches};
  return Index{0};
}();

namespace detail {
inline std::string join(const std::string& prefix, std::string_view name) {
  return name.empty() ? prefix : prefix + std::string(name) + '.';
}
}  // namespace detail

}  // namespace xlstm
