// SPDX-License-Identifier: Apache-2.0
// A model's parameters are handles into memory that somebody else owns (an arena or a mapped file), visited by name.
// Loading, saving, counting, initialising, optimising and quantising are all that one visit.
#pragma once

#include <string>
#include <string_view>
#include <type_traits>

#include "xlstm/core/index.hpp"

namespace xlstm {

/// A vector of N values in the backend's arithmetic type: a norm's weight, a bias. N = 0: there is none.
template <class T, Index N>
class VectorParameter {
 public:
  using Element = T;
  static constexpr Index rows = N;
  static constexpr Index cols = 1;
  static constexpr Index count = N;
  static constexpr Index bytes = N * static_cast<Index>(sizeof(T));
  static constexpr bool is_matrix = false;

  constexpr T* data() { return data_; }
  constexpr const T* data() const { return data_; }
  constexpr void bind(void* memory) { data_ = static_cast<T*>(memory); }
  constexpr T operator[](Index i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
};

/// An Out × In matrix, row-major, one T per weight: how the published checkpoints store it.
template <class T, Index Out, Index In>
class DenseWeight {
 public:
  using Element = T;
  static constexpr Index rows = Out;
  static constexpr Index cols = In;
  static constexpr Index count = Out * In;
  static constexpr Index bytes = count * static_cast<Index>(sizeof(T));
  static constexpr bool is_matrix = true;

  constexpr T* data() { return data_; }
  constexpr const T* data() const { return data_; }
  constexpr void bind(void* memory) { data_ = static_cast<T*>(memory); }

 private:
  T* data_ = nullptr;
};

/// Calls f(memory, bytes) for each array that a parameter consists of: a quantised one's codes and scales.
template <class Handle, class F>
void for_each_array(const Handle& handle, F&& f) {
  if constexpr (requires { handle.codes(); }) {
    f(static_cast<const void*>(handle.codes()), Handle::code_bytes);
    f(static_cast<const void*>(handle.scales()), Handle::scale_bytes);
  } else {
    f(static_cast<const void*>(handle.data()), Handle::bytes);
  }
}

/// The backend's matrix of Out × In weights: `Weight<B, Out, In> q;` in a module's Parameters.
template <class B, Index Out, Index In>
using Weight = typename B::template Weight<Out, In>;

namespace detail {
template <class B, Index Out, Index In>
struct HeadWeightOf {
  using type = Weight<B, Out, In>;
};
template <class B, Index Out, Index In>
requires requires { typename B::template HeadWeight<Out, In>; }
struct HeadWeightOf<B, Out, In> {
  using type = typename B::template HeadWeight<Out, In>;
};
}  // namespace detail

/// The backend's matrix for a language model's head: B::HeadWeight where there is one, B::Weight otherwise.
template <class B, Index Out, Index In>
using HeadWeight = typename detail::HeadWeightOf<B, Out, In>::type;

namespace detail {
template <class B>
struct PreciseOf {
  using type = typename B::Arithmetic;
};
template <class B>
requires requires { typename B::Precise; }
struct PreciseOf<B> {
  using type = typename B::Precise;
};
}  // namespace detail

/// The type of what needs more precision than the activations: vectors of parameters, the gates' pre-activations,
/// norms' statistics, logits. B::Precise where there is one, B::Arithmetic otherwise.
template <class B>
using Precise = typename detail::PreciseOf<B>::type;

/// The backend's vector of N parameters.
template <class B, Index N>
using Vector = VectorParameter<Precise<B>, N>;

/// A bias of N values where `Has` is true, and nothing otherwise.
template <class B, bool Has, Index N>
using OptionalVector = Vector<B, Has ? N : 0>;

/// How a parameter starts (xLSTM 7B, Table of the training recipe; spec in docs/training.md).
struct Initialization {
  enum class Kind { constant, linspace, small, wang };
  Kind kind = Kind::constant;
  double first = 0;  ///< the constant, or linspace's first value
  double last = 0;   ///< linspace's last value

  static constexpr Initialization constant(double value) { return {Kind::constant, value, value}; }
  static constexpr Initialization linspace(double first, double last) { return {Kind::linspace, first, last}; }
  /// Normal with standard deviation √(2/(5D)), D the embedding dimension.
  static constexpr Initialization small() { return {Kind::small, 0, 0}; }
  /// Normal with standard deviation 2/(N√D), N the number of blocks: projections back into the residual stream.
  static constexpr Initialization wang() { return {Kind::wang, 0, 0}; }
};

/// Visits parameters with their full names. `visit(name, handle, initialization)`; `child(name)` goes one level down.
/// F is called as f(std::string_view full_name, handle, Initialization).
template <class F>
class NamedVisitor {
 public:
  explicit NamedVisitor(F& f, std::string prefix = {}) : f_(&f), prefix_(std::move(prefix)) {}

  template <class Handle>
  void operator()(std::string_view name, Handle& handle, Initialization initialization) {
    if constexpr (std::remove_const_t<Handle>::count > 0) {
      const std::string full = prefix_ + std::string(name);
      (*f_)(std::string_view(full), handle, initialization);
    }
  }
  /// Names below get "name." in front; an empty name adds nothing.
  NamedVisitor child(std::string_view name) const {
    return NamedVisitor(*f_, name.empty() ? prefix_ : prefix_ + std::string(name) + '.');
  }
  NamedVisitor child(Index i) const { return NamedVisitor(*f_, prefix_ + std::to_string(i) + '.'); }

 private:
  F* f_;
  std::string prefix_;
};

/// Calls f(name, handle, initialization) for every parameter of module M, in a fixed order.
template <class M, class P, class F>
void for_each_parameter(P& parameters, F&& f) {
  NamedVisitor<std::remove_reference_t<F>> visitor(f);
  M::for_each_parameter(parameters, visitor);
}

/// What a composition consists of, known to the compiler.
struct ParameterCount {
  Index total = 0;
  Index matrix = 0;  ///< of these, in weight matrices (embedding and head among them)
  Index bytes = 0;   ///< in the backend's storage
};

namespace detail {
struct CountingVisitor {
  ParameterCount* sum;
  template <class Handle>
  constexpr void operator()(std::string_view, Handle&, Initialization) const {
    sum->total += Handle::count;
    if (Handle::is_matrix) sum->matrix += Handle::count;
    sum->bytes += Handle::bytes;
  }
  constexpr CountingVisitor child(std::string_view) const { return *this; }
  constexpr CountingVisitor child(Index) const { return *this; }
};
}  // namespace detail

/// Counts the parameters of any module, a user's own too, at compile time.
template <class M, class B>
constexpr ParameterCount count_parameters() {
  ParameterCount sum;
  typename M::template Parameters<B> parameters{};
  M::for_each_parameter(parameters, detail::CountingVisitor{&sum});
  return sum;
}

}  // namespace xlstm
