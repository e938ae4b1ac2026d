// SPDX-License-Identifier: Apache-2.0
// Is a gradient right? Compares a module's backward with central differences of its forward, in double on the reference
// backend, and any backend's results with the reference's. For people who write modules or kernels of their own.
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
  bool documents = false;        ///< let documents start inside the sequences
  double parameter_scale = 0.5;  ///< parameters are uniform in ± this (a norm's weights around 1)
  double step = 1e-4;            ///< of the differences; a fourth-order formula, error about step⁴
  Index samples = 200;           ///< entries checked of each tensor, spread evenly; fewer if it is smaller
  std::uint64_t seed = 1;
};

/// Central differences of fourth order of `loss()` in `variables`, against `gradient`, at up to `samples` entries.
template <class Loss>
TensorDifference compare_with_differences(std::string name, std::span<double> variables,
                                          std::span<const double> gradient, Loss&& loss, double step, Index samples) {
  TensorDifference result{std::move(name), 0, 0, 0};
  const auto count = static_cast<Index>(variables.size());
  const Index stride = std::max<Index>(1, count / std::max<Index>(1, samples));
  for (Index i = 0; i < count; i += stride) {
    double& x = variables[static_cast<std::size_t>(i)];
    const double middle = x;
    const auto at = [&](double offset) {
      x = middle + offset;
      return loss();
    };
    const double numeric = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
    x = middle;
    result.compare(gradient[static_cast<std::size_t>(i)], numeric);
  }
  return result;
}

namespace detail {

/// Random parameters, input, states and loss weights for a module, the same numbers for every backend.
template <class M, class B>
struct Case {
  using T = typename B::Arithmetic;
  using S = typename B::State;

  explicit Case(const GradientCheckOptions& options)
      : weights(allocate_weights<M, B>()),
        gradients(allocate_weights<M, typename B::GradientBackend>()),
        starts(static_cast<std::size_t>(options.sequences * options.length)),
        states(static_cast<std::size_t>(options.sequences)) {
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
      run.starts = starts.data();
    }
    x.resize(static_cast<std::size_t>(run.rows() * M::input_dim));
    for (auto& value : x) value = static_cast<T>(uniform());
    for (Index i = 0; i < run.rows() * M::output_dim; ++i) weight_of_output.push_back(uniform());
    y.resize(weight_of_output.size());
    dy.assign(weight_of_output.begin(), weight_of_output.end());
    dx.resize(x.size());
    for (auto& state : states) state.resize(static_cast<std::size_t>(M::state_size));
  }

  /// y from x, from zero states; the arena is left as it was unless `saved` is to be used.
  void forward(B& backend, typename M::template Saved<B>& saved) {
    std::vector<S*> slots;
    for (auto& state : states) {
      std::fill(state.begin(), state.end(), S{0});
      slots.push_back(state.data());
    }
    M::template forward<B>(backend, weights.parameters, run, States<B>{slots.data(), 0},
                           {x.data(), run.rows(), M::input_dim}, {y.data(), run.rows(), M::output_dim}, saved);
  }
  /// Σ weight ⊙ y.
  double loss(B& backend) {
    ArenaScope scope(backend.arena());
    typename M::template Saved<B> saved;
    forward(backend, saved);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += weight_of_output[i] * static_cast<double>(y[i]);
    return sum;
  }
  void backward(B& backend) {
    ArenaScope scope(backend.arena());
    typename M::template Saved<B> saved;
    forward(backend, saved);
    M::template backward<B>(backend, weights.parameters, gradients.parameters, run, States<B>{}, saved,
                            {dy.data(), run.rows(), M::output_dim}, {dx.data(), run.rows(), M::input_dim});
  }

  Weights<M, B> weights;
  Weights<M, typename B::GradientBackend> gradients;
  Run run;
  std::vector<std::uint8_t> starts;
  std::vector<T> x, y, dx, dy;
  std::vector<double> weight_of_output;
  std::vector<std::vector<S>> states;
};

template <class P>
std::vector<double> values(const P* data, Index count) {
  return std::vector<double>(data, data + count);
}

}  // namespace detail

/// A module's gradients of its input and of every parameter against central differences, in double on the reference
/// backend (or on a backend derived from it, for operations of one's own).
template <class M, class B = reference::Backend<double>>
Differences check_gradients(const GradientCheckOptions& options = {}) {
  static_assert(std::is_same_v<typename B::Arithmetic, double>,
                "xlstm: differences need double; use xlstm::reference::Backend<double> or a backend derived from it");
  detail::Case<M, B> c(options);
  B backend;
  c.backward(backend);
  const auto loss = [&] { return c.loss(backend); };
  Differences result;
  result.add(compare_with_differences("x", c.x, c.dx, loss, options.step, options.samples));
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

/// A backend's forward and backward of a module against the reference in double, on the same random case: its output,
/// the gradient of its input, and of every parameter. Weights are rounded to the backend's storage in both.
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
  B backend;
  R reference;
  ours.backward(backend);
  theirs.backward(reference);

  Differences result;
  const auto compare = [&](std::string name, const auto* found, const double* expected, Index count) {
    TensorDifference d{std::move(name), 0, 0, 0};
    for (Index i = 0; i < count; ++i) d.compare(static_cast<double>(found[i]), expected[i]);
    result.add(std::move(d));
  };
  compare("y", ours.y.data(), theirs.y.data(), static_cast<Index>(ours.y.size()));
  compare("dx", ours.dx.data(), theirs.dx.data(), static_cast<Index>(ours.dx.size()));
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
