// SPDX-License-Identifier: Apache-2.0
// Inputs for tests of the mLSTM cell: random ones of a given size and character, or the reference cases on disk; what
// a computation gives for them; and how far two results lie apart.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "reference_data.hpp"
#include "xlstm/cell/mlstm.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/core/run.hpp"

namespace xlstm::tests {

/// Cells that differ from the published one in a policy.
struct Uncapped : MLSTMPolicy {
  using GateCap = NoSoftCap;
};
/// Gates of a user's own, of which backends know nothing but their functions.
struct OwnGates : MLSTMPolicy {
  static constexpr double eps = 0;
  struct GateCap {
    static constexpr bool active = true;
    static constexpr double limit = 4;
    template <class T>
    static constexpr T apply(T x) {
      return x / std::sqrt(T(1) + x * x / T(limit * limit));
    }
    template <class T>
    static constexpr T derivative(T y) {
      const T r = T(1) - y * y / T(limit * limit);
      return r * std::sqrt(r);
    }
  };
  struct InputGate {  // half of an exponential gate's log
    static constexpr bool stabilized = true;
    template <class T>
    static constexpr T log_gate(T x) {
      return x / T(2);
    }
    template <class T>
    static constexpr T derivative(T) {
      return T(0.5);
    }
  };
};
struct SigmoidGate : MLSTMPolicy {
  using InputGate = SigmoidInputGate;
};
struct SigmoidGateUnnormalized : SigmoidGate {
  using Normalizer = NoNormalizer;
};
struct Unnormalized : MLSTMPolicy {
  using Normalizer = NoNormalizer;
};

/// What random inputs are like. A gate's pre-activations are normal with this mean and deviation.
struct CaseOptions {
  Index sequences = 1;
  Index length = 1;
  double igate_mean = 0;
  double igate_scale = 1;
  double fgate_mean = 3;
  double fgate_scale = 1;
  double value_scale = 1;           ///< deviation of q, k and v
  double document_probability = 0;  ///< that a token starts a document
  double state_scale = 0;           ///< deviation of the first state's C and n; 0: C, n and m are zero
  double dstate_scale = 0;          ///< deviation of the gradient that comes in on the last state
  std::uint64_t seed = 1;
};

/// One state a sequence, all in one array.
template <class T, class Cell>
struct CellStates {
  std::vector<T> values;
  std::vector<T*> pointers;

  explicit CellStates(Index sequences) : values(static_cast<std::size_t>(sequences * Cell::state_size)) { point(); }
  explicit CellStates(std::vector<T> v) : values(std::move(v)) { point(); }
  CellStates(const CellStates& other) : values(other.values) { point(); }
  CellStates& operator=(const CellStates& other) {
    values = other.values;
    point();
    return *this;
  }

  StateSlots<T> slots() { return {pointers.data(), 0}; }
  StateSlots<const T> slots() const { return {pointers.data(), 0}; }
  T* operator[](Index b) { return pointers[static_cast<std::size_t>(b)]; }
  const T* operator[](Index b) const { return pointers[static_cast<std::size_t>(b)]; }

 private:
  void point() {
    pointers.clear();
    for (T* p = values.data(); p != values.data() + values.size(); p += Cell::state_size) pointers.push_back(p);
  }
};

/// The arrays that an MLSTMInput views: inputs, or their gradients.
template <class T, class Cell>
struct CellArrays {
  Index rows;
  std::vector<T> q, k, v, igate, fgate;

  explicit CellArrays(Index count)
      : rows(count),
        q(size(Cell::qk_width)),
        k(size(Cell::qk_width)),
        v(size(Cell::v_width)),
        igate(size(Cell::heads)),
        fgate(size(Cell::heads)) {}

  MLSTMInput<T, Cell> views() { return views_of<T>(*this); }
  MLSTMInput<const T, Cell> views() const { return views_of<const T>(*this); }

 private:
  std::size_t size(Index width) const { return static_cast<std::size_t>(rows * width); }
  template <class U, class Self>
  static MLSTMInput<U, Cell> views_of(Self& a) {
    return {MatrixView<U, Cell::qk_width>(a.q.data(), a.rows), MatrixView<U, Cell::qk_width>(a.k.data(), a.rows),
            MatrixView<U, Cell::v_width>(a.v.data(), a.rows), MatrixView<U, Cell::heads>(a.igate.data(), a.rows),
            MatrixView<U, Cell::heads>(a.fgate.data(), a.rows)};
  }
};

/// Everything that goes into a forward and a backward pass of a cell.
template <class T, class Cell>
struct CellCase {
  Index sequences;
  Index length;
  CellArrays<T, Cell> input;
  std::vector<T> dh;                 ///< gradient of h
  std::vector<std::uint8_t> starts;  ///< empty: no documents start
  CellStates<T, Cell> first_state;
  CellStates<T, Cell> dstate;  ///< gradient of the last state's C and n

  CellCase(Index B, Index S)
      : sequences(B),
        length(S),
        input(B * S),
        dh(static_cast<std::size_t>(B * S * Cell::v_width)),
        first_state(B),
        dstate(B) {}

  Run run(Index chunk_size = 0, Form form = Form::chunkwise) const {
    Run r;
    r.sequences = sequences;
    r.length = length;
    r.starts = starts.empty() ? nullptr : starts.data();
    r.form = form;
    r.chunk_size = chunk_size;
    return r;
  }
  MatrixView<const T, Cell::v_width> dh_view() const { return {dh.data(), sequences * length}; }
};

/// Random inputs; the same numbers for every T, exact in float.
template <class T, class Cell>
CellCase<T, Cell> random_case(const CaseOptions& options) {
  Random random(options.seed);
  const auto fill = [&random](auto begin, auto end, double mean, double scale) {
    for (auto p = begin; p != end; ++p) *p = static_cast<T>(static_cast<float>(mean + scale * random.normal()));
  };
  const auto fill_all = [&fill](std::vector<T>& x, double mean, double scale) {
    fill(x.begin(), x.end(), mean, scale);
  };

  CellCase<T, Cell> c(options.sequences, options.length);
  fill_all(c.input.q, 0, options.value_scale);
  fill_all(c.input.k, 0, options.value_scale);
  fill_all(c.input.v, 0, options.value_scale);
  fill_all(c.input.igate, options.igate_mean, options.igate_scale);
  fill_all(c.input.fgate, options.fgate_mean, options.fgate_scale);
  fill_all(c.dh, 0, 1);
  for (Index b = 0; b < options.sequences; ++b) {
    T* state = c.first_state[b];
    fill(state, state + Cell::m_offset, 0, options.state_scale);
    if (Cell::InputGate::stabilized && options.state_scale > 0)
      fill(state + Cell::m_offset, state + Cell::state_size, 0.5, 1);
    fill(c.dstate[b], c.dstate[b] + Cell::m_offset, 0, options.dstate_scale);
  }
  if (options.document_probability > 0)
    for (Index i = 0; i < options.sequences * options.length; ++i)
      c.starts.push_back(random.uniform() < options.document_probability ? 1 : 0);
  return c;
}

/// The inputs of tests/data/cell/<name>, which must be of the cell's sizes.
template <class T, class Cell>
CellCase<T, Cell> reference_case(const ReferenceData& data) {
  if (data.number("H") != Cell::heads || data.number("Q") != Cell::qk_dim || data.number("V") != Cell::v_dim ||
      data.number("soft_cap") != Cell::GateCap::value || data.number("eps") != Cell::eps)
    fail("reference case: of other sizes than the test's cell");
  const auto to = [](const std::vector<double>& from, std::vector<T>& x) {
    x.assign(from.size(), T{0});
    std::transform(from.begin(), from.end(), x.begin(), [](double y) { return static_cast<T>(y); });
  };
  const auto state_part = [&data](const char* name, CellStates<T, Cell>& states, Index offset, Index size) {
    if (!data.has(name)) return;
    const double* from = data[name].data();
    for (T* state : states.pointers)
      for (Index i = 0; i < size; ++i) state[offset + i] = static_cast<T>(*from++);
  };

  CellCase<T, Cell> c(static_cast<Index>(data.number("B")), static_cast<Index>(data.number("S")));
  to(data["q"], c.input.q);
  to(data["k"], c.input.k);
  to(data["v"], c.input.v);
  to(data["i"], c.input.igate);
  to(data["f"], c.input.fgate);
  to(data["dh"], c.dh);
  state_part("c0", c.first_state, 0, Cell::c_size);
  state_part("n0", c.first_state, Cell::n_offset, Cell::m_offset - Cell::n_offset);
  state_part("m0", c.first_state, Cell::m_offset, Cell::heads);
  state_part("dc", c.dstate, 0, Cell::c_size);
  state_part("dn", c.dstate, Cell::n_offset, Cell::m_offset - Cell::n_offset);
  if (data.has("starts"))
    for (double x : data["starts"]) c.starts.push_back(x != 0 ? 1 : 0);
  return c;
}

/// The states in a reference case: parts c, n and (where named) m; "" for m leaves zeros.
template <class Cell>
CellStates<double, Cell> reference_states(const ReferenceData& data, const char* c, const char* n, const char* m) {
  CellStates<double, Cell> states(static_cast<Index>(data.number("B")));
  const auto copy = [&](const char* name, Index offset, Index size) {
    if (*name == '\0') return;
    const double* from = data[name].data();
    for (double* state : states.pointers) state = std::copy_n(from, size, state + offset), from += size;
  };
  copy(c, 0, Cell::c_size);
  copy(n, Cell::n_offset, Cell::m_offset - Cell::n_offset);
  copy(m, Cell::m_offset, Cell::heads);
  return states;
}

/// What a forward pass gives.
template <class T, class Cell>
struct CellOutput {
  std::vector<T> h;
  CellStates<T, Cell> state;
};

/// Runs `forward(run, input, state, h)`, which has the signature of reference::mlstm_recurrent, from the first state.
template <class T, class Cell, class Forward>
CellOutput<T, Cell> forward_of(const CellCase<T, Cell>& c, const Run& run, Forward&& forward) {
  CellOutput<T, Cell> out{std::vector<T>(c.dh.size()), c.first_state};
  forward(run, c.input.views(), out.state.slots(), MatrixView<T, Cell::v_width>(out.h.data(), run.rows()));
  return out;
}

/// What a backward pass gives.
template <class T, class Cell>
struct CellGradient {
  CellArrays<T, Cell> input;
  CellStates<T, Cell> state;
};

/// Runs `backward(run, input, first_state, dh, gradient, dstate)`, which has the signature of
/// reference::mlstm_backward. The gradients hold rubbish before, as they are to be written and not added to.
template <class T, class Cell, class Backward>
CellGradient<T, Cell> backward_of(const CellCase<T, Cell>& c, const Run& run, Backward&& backward) {
  CellGradient<T, Cell> out{CellArrays<T, Cell>(run.rows()), c.dstate};
  for (auto* x : {&out.input.q, &out.input.k, &out.input.v, &out.input.igate, &out.input.fgate})
    std::fill(x->begin(), x->end(), T(1e3));
  backward(run, c.input.views(), c.first_state.slots(), c.dh_view(), out.input.views(), out.state.slots());
  return out;
}

/// The largest difference over the largest value expected; infinite where anything is not finite or sizes differ.
template <class A, class E>
double relative_difference(const std::vector<A>& actual, const std::vector<E>& expected) {
  if (actual.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double difference = 0;
  double largest = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double a = static_cast<double>(actual[i]);
    const double e = static_cast<double>(expected[i]);
    if (!std::isfinite(a) || !std::isfinite(e)) return std::numeric_limits<double>::infinity();
    difference = std::max(difference, std::abs(a - e));
    largest = std::max(largest, std::abs(e));
  }
  return difference == 0 ? 0 : difference / largest;
}

/// The same for states: exp(m)·C and exp(m)·n are compared, as they alone are determined, C and n each over all
/// sequences and heads at the scale of the expected m.
template <class A, class E, class Cell>
double state_difference(const CellStates<A, Cell>& actual, const CellStates<E, Cell>& expected) {
  std::vector<double> c[2];
  std::vector<double> n[2];
  for (std::size_t b = 0; b < expected.pointers.size(); ++b) {
    const A* a = actual.pointers[b];
    const E* e = expected.pointers[b];
    for (Index head = 0; head < Cell::heads; ++head) {
      const double scale =
          std::exp(static_cast<double>(a[Cell::m_offset + head]) - static_cast<double>(e[Cell::m_offset + head]));
      for (Index i = head * Cell::qk_dim * Cell::v_dim; i < (head + 1) * Cell::qk_dim * Cell::v_dim; ++i) {
        c[0].push_back(static_cast<double>(a[i]) * scale);
        c[1].push_back(static_cast<double>(e[i]));
      }
      for (Index i = Cell::n_offset + head * Cell::qk_dim; i < Cell::n_offset + (head + 1) * Cell::qk_dim; ++i) {
        n[0].push_back(static_cast<double>(a[i]) * scale);
        n[1].push_back(static_cast<double>(e[i]));
      }
    }
  }
  return std::max(relative_difference(c[0], c[1]), relative_difference(n[0], n[1]));
}

/// The largest of the relative differences of dq, dk, dv, dĩ, df̃ and of the first state's dC and dn.
template <class A, class E, class Cell>
double gradient_difference(const CellGradient<A, Cell>& actual, const CellGradient<E, Cell>& expected) {
  return std::max(
      {relative_difference(actual.input.q, expected.input.q), relative_difference(actual.input.k, expected.input.k),
       relative_difference(actual.input.v, expected.input.v),
       relative_difference(actual.input.igate, expected.input.igate),
       relative_difference(actual.input.fgate, expected.input.fgate), state_difference(actual.state, expected.state)});
}

/// How near the inputs come to the kink of the denominator max(|s|, exp(−m)): the smallest |log|s| + m| over all tokens
/// and heads. At 0 the gradient jumps, so tests that compare gradients use inputs that keep a distance.
template <class T, class Cell>
double distance_from_kink(const CellCase<T, Cell>& c) {
  double nearest = std::numeric_limits<double>::infinity();
  if (!Cell::Normalizer::active) return nearest;
  const auto in = c.input.views();
  for (Index b = 0; b < c.sequences; ++b) {
    for (Index head = 0; head < Cell::heads; ++head) {
      const T* state = c.first_state[b];
      std::vector<double> n(state + Cell::n_offset + head * Cell::qk_dim,
                            state + Cell::n_offset + (head + 1) * Cell::qk_dim);
      double m = static_cast<double>(state[Cell::m_offset + head]);
      for (Index t = 0; t < c.length; ++t) {
        const Index row = b * c.length + t;
        if (c.run().starts_document(b, t)) std::fill(n.begin(), n.end(), m = 0);
        const double log_f = log_sigmoid(Cell::GateCap::apply(static_cast<double>(in.fgate(row, head))));
        const double log_i = Cell::InputGate::log_gate(Cell::GateCap::apply(static_cast<double>(in.igate(row, head))));
        const double next_m = Cell::InputGate::stabilized ? std::max(log_f + m, log_i) : 0;
        double s = 0;
        for (Index a = 0; a < Cell::qk_dim; ++a) {
          double& x = n[static_cast<std::size_t>(a)];
          x = std::exp(log_f + m - next_m) * x +
              std::exp(log_i - next_m) * static_cast<double>(in.k(row, head * Cell::qk_dim + a));
          s += x * static_cast<double>(in.q(row, head * Cell::qk_dim + a)) /
               std::sqrt(static_cast<double>(Cell::qk_dim));
        }
        m = next_m;
        nearest = std::min(nearest, std::abs(std::log(std::abs(s)) + m));
      }
    }
  }
  return nearest;
}

/// Random inputs with the first seed from options.seed on that keeps `distance` from the denominator's kink.
template <class T, class Cell>
CellCase<T, Cell> random_case_off_kink(CaseOptions options, double distance) {
  for (const std::uint64_t last = options.seed + 1000; options.seed < last; ++options.seed) {
    auto c = random_case<T, Cell>(options);
    if (distance_from_kink(c) >= distance) return c;
  }
  fail("random_case_off_kink: no inputs that keep ", distance, " from the kink; ask for fewer tokens or less distance");
}

}  // namespace xlstm::tests
