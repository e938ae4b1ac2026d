// SPDX-License-Identifier: Apache-2.0
// Is a gradient right? Compares a module's backward with central differences of its forward, in double on the reference
// backend, and any backend's results with the reference's. For people who write modules or kernels of their own.
// What is differentiated is Σ a ⊙ y + Σ b ⊙ last state with random a and b, by the input, the first state, and every
// parameter. Values of a state count in the units of state_unit (nn/module.hpp): b weighs C·exp(m), with m as it was
// before anything was varied; what has no unit, as m, is given a gradient that backward must not read, and not varied.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "xlstm/core/random.hpp"
#include "xlstm/model/weights.hpp"
#include "xlstm/nn/module.hpp"
#include "xlstm/reference/backend.hpp"

namespace xlstm::testing {

/// How far two tensors are apart, relative to the largest absolute value of the expected one.
struct TensorDifference {
  std::string name;
  double difference = 0;  ///< largest absolute difference
  double largest = 0;     ///< largest absolute expected value
  double floor = 0;       ///< of the scale: a thousandth of the largest value of all tensors of the check
  /// Takes one more pair of values in. A pair that has no difference, such as one with a NaN, is infinitely far apart.
  void compare(double found, double expected) {
    const double distance = std::abs(found - expected);
    difference = std::isnan(distance) ? std::numeric_limits<double>::infinity() : std::max(difference, distance);
    largest = std::max(largest, std::abs(expected));
  }
  /// A gradient that is zero, such as the forget gate's at a first token, is measured by the floor.
  double relative() const {
    if (std::isinf(difference)) return difference;
    const double scale = std::max(largest, floor);
    return scale > 0 ? difference / scale : difference;
  }
};

struct Differences {
  std::vector<TensorDifference> tensors;
  void add(TensorDifference d) {
    tensors.push_back(std::move(d));
    double largest = 0;
    for (const auto& t : tensors) largest = std::max(largest, t.largest);
    for (auto& t : tensors) t.floor = 1e-3 * largest;
  }
  /// The tensor that is furthest off.
  const TensorDifference& worst() const {
    return *std::max_element(tensors.begin(), tensors.end(),
                             [](const auto& a, const auto& b) { return a.relative() < b.relative(); });
  }
};

struct GradientCheckOptions {
  Index sequences = 2;
  Index length = 5;
  Form form = Form::chunkwise;
  Index chunk_size = 0;
  bool documents = false;        ///< let documents start inside the sequences, in the middle of the first at least
  double parameter_scale = 0.5;  ///< parameters are uniform in ± this (a norm's weights around 1)
  double step = 1e-4;            ///< of the differences; a fourth-order formula, error about step⁴
  Index samples = 200;           ///< entries checked of each tensor, spread evenly; fewer if it is smaller
  std::uint64_t seed = 1;
};

/// Central difference of fourth order of `loss()` in x.
template <class Loss>
double central_difference(double& x, Loss&& loss, double step) {
  const double middle = x;
  const auto at = [&](double offset) {
    x = middle + offset;
    return loss();
  };
  const double slope = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
  x = middle;
  return slope;
}

/// Central differences of `loss()` in `variables`, against `gradient`, at up to `samples` entries.
template <class Loss>
TensorDifference compare_with_differences(std::string name, std::span<double> variables,
                                          std::span<const double> gradient, Loss&& loss, double step, Index samples) {
  TensorDifference result{std::move(name), 0, 0, 0};
  const auto count = static_cast<Index>(variables.size());
  const Index stride = std::max<Index>(1, count / std::max<Index>(1, samples));
  for (Index i = 0; i < count; i += stride) {
    const auto at = static_cast<std::size_t>(i);
    result.compare(gradient[at], central_difference(variables[at], loss, step));
  }
  return result;
}

namespace detail {

/// A state's part of which differences are told.
struct StatePart {
  std::string name;
  Index offset = 0;
  Index count = 0;
};

/// The named parts of a module's state, or the state as one where they are not all of it.
template <class M>
std::vector<StatePart> state_parts() {
  std::vector<StatePart> parts;
  Index named = 0;
  for_each_state<M>([&](const std::string& name, Index offset, Index rows, Index cols) {
    parts.push_back({"state " + name, offset, rows * cols});
    named += rows * cols;
  });
  if (named != M::state_size) parts = {{"state", 0, M::state_size}};
  return parts;
}

/// The states of a case's sequences, one after another.
template <class S, Index Size>
struct CaseStates {
  explicit CaseStates(Index sequences) : values(static_cast<std::size_t>(sequences * Size)) {
    for (Index b = 0; b < sequences; ++b) slots.push_back(values.data() + b * Size);
  }
  CaseStates(const CaseStates&) = delete;
  CaseStates& operator=(const CaseStates&) = delete;
  /// None where the module has none.
  StateSlots<S> view() const { return {Size > 0 ? slots.data() : nullptr, 0}; }

  std::vector<S> values;
  std::vector<S*> slots;
};

/// Random parameters, input, states and loss weights for a module, the same numbers for every backend.
template <class M, class B>
struct Case {
  using T = typename B::Arithmetic;
  using S = typename B::State;

  explicit Case(const GradientCheckOptions& options)
      : weights(allocate_weights<M, B>()),
        gradients(allocate_weights<M, typename B::GradientBackend>()),
        starts(static_cast<std::size_t>(options.sequences * options.length)),
        first(options.sequences),
        last(options.sequences),
        dstate(options.sequences) {
    Random random(options.seed);
    const auto uniform = [&] { return 2 * random.uniform() - 1; };
    for_each_parameter<M>(weights.parameters, [&](std::string_view, auto& handle, Initialization start) {
      using Element = typename std::remove_cvref_t<decltype(handle)>::Element;
      const bool around_one = start.kind == Initialization::Kind::constant && start.first == 1;
      for (Index i = 0; i < handle.count; ++i) {
        handle.data()[i] = static_cast<Element>((around_one ? 1.0 : 0.0) + options.parameter_scale * uniform());
      }
    });
    run = Run{.sequences = options.sequences,
              .length = options.length,
              .form = options.form,
              .chunk_size = options.chunk_size,
              .training = true};
    if (options.documents) {
      for (auto& start : starts) start = random.uniform() < 0.3 ? 1 : 0;
      starts[starts.size() - static_cast<std::size_t>(options.length)] =
          1;  // the last sequence forgets its first state
      starts[static_cast<std::size_t>(options.length / 2)] = 1;
      starts[0] = 0;  // the first one does not
      run.starts = starts.data();
    }
    x.resize(static_cast<std::size_t>(run.rows() * M::input_dim));
    for (auto& value : x) value = static_cast<T>(uniform());
    for (Index i = 0; i < run.rows() * M::output_dim; ++i) weight_of_output.push_back(uniform());
    y.resize(weight_of_output.size());
    dy.assign(weight_of_output.begin(), weight_of_output.end());
    dx.resize(x.size());
    for (auto& value : first.values) value = static_cast<S>(uniform());
    for (std::size_t i = 0; i < first.values.size(); ++i) weight_of_state.push_back(uniform());
  }

  /// y and the last state from x and the first state; the arena is left as it was unless `saved` is to be used.
  void forward(B& backend, typename M::template Saved<B>& saved) {
    std::copy(first.values.begin(), first.values.end(), last.values.begin());
    M::template forward<B>(backend, weights.parameters, run, last.view(), {x.data(), run.rows(), M::input_dim},
                           {y.data(), run.rows(), M::output_dim}, saved);
  }
  /// The units of the last state's values.
  std::vector<double> units() const {
    std::vector<double> all;
    for (const S* state : last.slots) {
      for (Index i = 0; i < M::state_size; ++i) all.push_back(state_unit<M>(state, i));
    }
    return all;
  }
  /// Σ weight ⊙ y + Σ weight ⊙ last state, that in `base` units.
  double loss(B& backend, const std::vector<double>& base) {
    ArenaScope scope(backend.arena());
    typename M::template Saved<B> saved;
    forward(backend, saved);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += weight_of_output[i] * static_cast<double>(y[i]);
    const std::vector<double> now = units();
    for (std::size_t i = 0; i < now.size(); ++i) {
      if (base[i] > 0) sum += weight_of_state[i] * static_cast<double>(last.values[i]) * (now[i] / base[i]);
    }
    return sum;
  }
  /// Gradients of the loss, in the units of the last state; `base`: in those, if there are any.
  void backward(B& backend, const std::vector<double>& base = {}) {
    ArenaScope scope(backend.arena());
    typename M::template Saved<B> saved;
    forward(backend, saved);
    const std::vector<double> now = units();
    for (std::size_t i = 0; i < now.size(); ++i) {
      const double factor = base.empty() || base[i] == 0 ? 1 : now[i] / base[i];
      dstate.values[i] = static_cast<S>(weight_of_state[i] * factor);
    }
    M::template backward<B>(backend, weights.parameters, gradients.parameters, run, dstate.view(), saved,
                            {dy.data(), run.rows(), M::output_dim}, {dx.data(), run.rows(), M::input_dim});
  }
  /// Where the values of a part lie in the states, those that have a gradient.
  std::vector<std::size_t> entries(const StatePart& part) const {
    const std::vector<double> unit = units();
    std::vector<std::size_t> all;
    for (Index b = 0; b < run.sequences; ++b) {
      for (Index i = part.offset; i < part.offset + part.count; ++i) {
        const auto entry = static_cast<std::size_t>(b * M::state_size + i);
        if (unit[entry] > 0) all.push_back(entry);
      }
    }
    return all;
  }

  Weights<M, B> weights;
  Weights<M, typename B::GradientBackend> gradients;
  Run run;
  std::vector<std::uint8_t> starts;
  std::vector<T> x, y, dx, dy;
  std::vector<double> weight_of_output, weight_of_state;
  CaseStates<S, M::state_size> first, last, dstate;
};

template <class P>
std::vector<double> values(const P* data, Index count) {
  return std::vector<double>(data, data + count);
}

}  // namespace detail

/// A module's gradients of its input, first state and every parameter against central differences, in double on the
/// reference backend (or on a backend derived from it, for operations of one's own).
template <class M, class B = reference::Backend<double>>
Differences check_gradients(const GradientCheckOptions& options = {}) {
  static_assert(std::is_same_v<typename B::Arithmetic, double>,
                "xlstm: differences need double; use xlstm::reference::Backend<double> or a backend derived from it");
  detail::Case<M, B> c(options);
  B backend;
  c.backward(backend);
  const std::vector<double> base = c.units();
  const auto loss = [&] { return c.loss(backend, base); };
  Differences result;
  result.add(compare_with_differences("x", c.x, c.dx, loss, options.step, options.samples));
  for (const detail::StatePart& part : detail::state_parts<M>()) {
    TensorDifference d{part.name, 0, 0, 0};
    const std::vector<std::size_t> entries = c.entries(part);
    const std::size_t stride = entries.size() / static_cast<std::size_t>(std::max<Index>(1, options.samples)) + 1;
    for (std::size_t i = 0; i < entries.size(); i += stride) {
      const std::size_t at = entries[i];
      d.compare(c.dstate.values[at], central_difference(c.first.values[at], loss, options.step));
    }
    result.add(std::move(d));
  }
  std::vector<std::span<const double>> gradients;
  for_each_parameter<M>(c.gradients.parameters, [&](std::string_view, auto& handle, Initialization) {
    gradients.emplace_back(handle.data(), static_cast<std::size_t>(handle.count));
  });
  std::size_t next = 0;
  for_each_parameter<M>(c.weights.parameters, [&](std::string_view name, auto& handle, Initialization) {
    const std::span<double> variables(handle.data(), static_cast<std::size_t>(handle.count));
    result.add(
        compare_with_differences(std::string(name), variables, gradients[next++], loss, options.step, options.samples));
  });
  return result;
}

/// A backend's forward and backward of a module against the reference in double, on the same random case: its output
/// and last state, the gradient of its input, of its first state, and of every parameter. Weights are rounded to the
/// backend's storage in both.
template <class M, class B>
Differences compare_with_reference(const GradientCheckOptions& options = {}) {
  using R = reference::Backend<double>;
  detail::Case<M, B> ours(options);
  detail::Case<M, R> theirs(options);
  std::vector<std::vector<double>> parameters;
  for_each_parameter<M>(ours.weights.parameters, [&](std::string_view, auto& handle, Initialization) {
    parameters.push_back(detail::values(handle.data(), handle.count));
  });
  std::size_t next = 0;
  for_each_parameter<M>(theirs.weights.parameters, [&](std::string_view, auto& handle, Initialization) {
    std::copy(parameters[next].begin(), parameters[next].end(), handle.data());
    ++next;
  });
  std::copy(ours.x.begin(), ours.x.end(), theirs.x.begin());
  std::copy(ours.dy.begin(), ours.dy.end(), theirs.dy.begin());
  std::copy(ours.first.values.begin(), ours.first.values.end(), theirs.first.values.begin());
  B backend;
  R reference;
  theirs.backward(reference);
  const std::vector<double> base = theirs.units();
  ours.backward(backend, base);
  const std::vector<double> units = ours.units();

  Differences result;
  const auto compare = [&](std::string name, const auto* found, const double* expected, Index count) {
    TensorDifference d{std::move(name), 0, 0, 0};
    for (Index i = 0; i < count; ++i) d.compare(static_cast<double>(found[i]), expected[i]);
    result.add(std::move(d));
  };
  compare("y", ours.y.data(), theirs.y.data(), static_cast<Index>(ours.y.size()));
  compare("dx", ours.dx.data(), theirs.dx.data(), static_cast<Index>(ours.dx.size()));
  for (const detail::StatePart& part : detail::state_parts<M>()) {
    TensorDifference last{part.name, 0, 0, 0}, gradient{"d " + part.name, 0, 0, 0};
    for (const std::size_t at : theirs.entries(part)) {
      last.compare(static_cast<double>(ours.last.values[at]) * (units[at] / base[at]), theirs.last.values[at]);
      gradient.compare(static_cast<double>(ours.dstate.values[at]), theirs.dstate.values[at]);
    }
    result.add(std::move(last));
    result.add(std::move(gradient));
  }
  std::vector<const double*> expected;
  for_each_parameter<M>(theirs.gradients.parameters,
                        [&](std::string_view, auto& handle, Initialization) { expected.push_back(handle.data()); });
  next = 0;
  for_each_parameter<M>(ours.gradients.parameters, [&](std::string_view name, auto& handle, Initialization) {
    compare("d " + std::string(name), handle.data(), expected[next++], handle.count);
  });
  return result;
}

}  // namespace xlstm::testing
