// SPDX-License-Identifier: Apache-2.0
// The reference's gradient of the mLSTM: that of automatic differentiation of the published code, and that which
// differences of the forward pass show.
#include "xlstm/reference/mlstm_backward.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "cell_cases.hpp"
#include "xlstm/reference/mlstm_recurrent.hpp"

using namespace xlstm;
using namespace xlstm::tests;

namespace {

struct WithoutEps : MLSTMPolicy {
  static constexpr double eps = 0;
};
struct UncappedWithoutEps : WithoutEps {
  using GateCap = NoSoftCap;
};
struct TightCapWithoutEps : WithoutEps {
  using GateCap = SoftCap<1.5>;
};
struct ConstantDenominator : MLSTMPolicy {
  static constexpr bool denominator_gradient = false;
};
struct SigmoidGateConstantDenominator : SigmoidGate {
  static constexpr bool denominator_gradient = false;
};

template <class Cell, class T = double>
CellGradient<T, Cell> backward(const CellCase<T, Cell>& c) {
  return backward_of(c, c.run(), [](auto... a) { reference::mlstm_backward<Cell, T>(a...); });
}

template <class Cell>
CellOutput<double, Cell> forward(const CellCase<double, Cell>& c) {
  return forward_of(c, c.run(), [](auto... a) { reference::mlstm_recurrent<Cell, double>(a...); });
}

// What the gradient is of: ⟨dh, h⟩ + ⟨dC, C⟩ + ⟨dn, n⟩ with the last state taken at the scale m of `unperturbed`, since
// exp(m)·C is what a state means.
template <class Cell>
double loss(const CellCase<double, Cell>& c, const CellOutput<double, Cell>& unperturbed) {
  const auto out = forward(c);
  double sum = 0;
  for (std::size_t i = 0; i < out.h.size(); ++i) sum += c.dh[i] * out.h[i];
  for (Index b = 0; b < c.sequences; ++b) {
    const double* state = out.state[b];
    for (Index head = 0; head < Cell::heads; ++head) {
      const Index m = Cell::m_offset + head;
      double part = 0;
      const auto add = [&](Index first, Index count) {
        for (Index i = first; i < first + count; ++i) part += c.dstate[b][i] * state[i];
      };
      add(head * Cell::qk_dim * Cell::v_dim, Cell::qk_dim * Cell::v_dim);
      add(Cell::n_offset + head * Cell::qk_dim, Cell::qk_dim);
      sum += part * std::exp(state[m] - unperturbed.state[b][m]);
    }
  }
  return sum;
}

// Central differences of the loss by every entry of `values`, which belongs to `c`.
template <class Cell>
std::vector<double> differences(const CellCase<double, Cell>& c, std::vector<double>& values,
                                const CellOutput<double, Cell>& unperturbed) {
  constexpr double step = 1e-5;
  std::vector<double> slopes;
  for (double& x : values) {
    const double middle = x;
    x = middle + step;
    const double above = loss(c, unperturbed);
    x = middle - step;
    const double below = loss(c, unperturbed);
    x = middle;
    slopes.push_back((above - below) / (2 * step));
  }
  return slopes;
}

template <class Cell>
std::vector<double> without_m(const CellStates<double, Cell>& states) {
  std::vector<double> values;
  for (const double* state : states.pointers) values.insert(values.end(), state, state + Cell::m_offset);
  return values;
}

// The largest difference over the largest slope, or over 0.01 where all slopes are smaller: where the exact slope is 0,
// as by f̃ of a sequence's only token, differences show their rounding, 1e-16 of the loss over the step.
double distance_from_slopes(const std::vector<double>& gradient, const std::vector<double>& slopes) {
  double largest = 0;
  for (double x : slopes) largest = std::max(largest, std::abs(x));
  return relative_difference(gradient, slopes) * std::min(largest / 0.01, 1.0);
}

template <class Cell>
void check_differences(CellCase<double, Cell> c, double tolerance) {
  const auto gradient = backward(c);
  const auto unperturbed = forward(c);
  CHECK(distance_from_slopes(gradient.input.q, differences(c, c.input.q, unperturbed)) <= tolerance);
  CHECK(distance_from_slopes(gradient.input.k, differences(c, c.input.k, unperturbed)) <= tolerance);
  CHECK(distance_from_slopes(gradient.input.v, differences(c, c.input.v, unperturbed)) <= tolerance);
  // Without a normalizer the output of an exponential gate is scaled by exp(−m), and m moves with the gates.
  if (Cell::Normalizer::active || !Cell::InputGate::stabilized) {
    CHECK(distance_from_slopes(gradient.input.igate, differences(c, c.input.igate, unperturbed)) <= tolerance);
    CHECK(distance_from_slopes(gradient.input.fgate, differences(c, c.input.fgate, unperturbed)) <= tolerance);
  }
  CellStates<double, Cell> slopes(differences(c, c.first_state.values, unperturbed));
  CHECK(distance_from_slopes(without_m(gradient.state), without_m(slopes)) <= tolerance);
  for (const double* state : gradient.state.pointers)
    for (Index head = 0; head < Cell::heads; ++head) CHECK(state[Cell::m_offset + head] == 0);
}

// The denominator max(|s|, exp(−m)) has a kink where both are equal, and differences across it mean nothing. All tests
// that compare gradients of random inputs therefore take inputs where |s|/exp(−m) is at least this factor from 1
// (in its logarithm), far more than the step of the differences, or rounding, can move it.
constexpr double off_kink = 5e-3;

// Double precision and another order of sums; the gradients are products of a few more factors than the outputs.
template <class Cell>
void check_published(const char* name) {
  INFO(name);
  const ReferenceData data(std::string("cell/") + name);
  const auto gradient = backward(reference_case<double, Cell>(data));
  CHECK(relative_difference(gradient.input.q, data["dq"]) <= 1e-9);
  CHECK(relative_difference(gradient.input.k, data["dk"]) <= 1e-9);
  CHECK(relative_difference(gradient.input.v, data["dv"]) <= 1e-9);
  CHECK(relative_difference(gradient.input.igate, data["di"]) <= 1e-9);
  CHECK(relative_difference(gradient.input.fgate, data["df"]) <= 1e-9);
  if (data.has("dc0")) CHECK(state_difference(gradient.state, reference_states<Cell>(data, "dc0", "dn0", "")) <= 1e-9);
}

}  // namespace

TEST_CASE("the gradients are those of automatic differentiation of the published code", "[reference][mlstm]") {
  check_published<MLSTMCell<3, 8, 16, Uncapped>>("plain");
  check_published<MLSTMCell<2, 16, 8, Uncapped>>("one_token");
  check_published<MLSTMCell<2, 16, 24, Uncapped>>("state_in_and_out");
  check_published<MLSTMCell<2, 8, 8>>("documents");
  check_published<MLSTMCell<2, 8, 8, Uncapped>>("forgetting");
  check_published<MLSTMCell<2, 16, 16>>("gates_at_the_caps");
  check_published<MLSTMCell<2, 16, 16, Uncapped>>("large_values");
  check_published<MLSTMCell<4, 32, 64>>("trained_like");
}

TEMPLATE_TEST_CASE("the gradients are the differences of the forward pass", "[reference][mlstm]",
                   (MLSTMCell<3, 5, 3, WithoutEps>), (MLSTMCell<2, 3, 4, UncappedWithoutEps>),
                   (MLSTMCell<2, 3, 4, TightCapWithoutEps>), (MLSTMCell<1, 1, 1, WithoutEps>),
                   (MLSTMCell<2, 4, 3, SigmoidGate>), (MLSTMCell<2, 4, 3, SigmoidGateUnnormalized>),
                   (MLSTMCell<2, 3, 4, OwnGates>), (MLSTMCell<2, 4, 3, Unnormalized>)) {
  // Central differences err by step² times a third derivative and by 1e-16 / step: 1e-6 covers both. With ε = 0, or m
  // fixed at 0, m is exactly without influence.
  using Cell = TestType;
  CaseOptions options;
  options.sequences = 2;
  options.length = GENERATE(1, 9);
  options.state_scale = GENERATE(0.0, 1.0);
  options.dstate_scale = GENERATE(0.0, 1.0);
  options.document_probability = GENERATE(0.0, 0.2);
  options.fgate_mean = 1;
  check_differences(random_case_off_kink<double, Cell>(options, off_kink), 1e-6);
}

TEST_CASE("with the published eps the gradients leave out how eps depends on m", "[reference][mlstm]") {
  // h/(1 + ε exp(m)/max(…)) moves with m by ε = 1e-6 relative, which the gradient ignores by definition: 1e-5.
  using Cell = MLSTMCell<3, 5, 3>;
  CaseOptions options;
  options.sequences = 2;
  options.length = 9;
  options.state_scale = 1;
  options.dstate_scale = 1;
  check_differences(random_case_off_kink<double, Cell>(options, off_kink), 1e-5);
}

namespace {

// With a constant denominator d the gradient is that of the cell without a normalizer for dh/d.
template <class Constant, class Plain, class Full>
void check_constant_denominator() {
  CaseOptions options;
  options.length = 12;
  options.state_scale = 1;
  options.dstate_scale = 1;
  const auto constant = random_case_off_kink<double, Constant>(options, off_kink);
  const auto full = random_case_off_kink<double, Full>(options, off_kink);
  CellCase<double, Plain> plain(1, options.length);
  plain.input = CellArrays<double, Plain>(options.length);
  plain.input.q = constant.input.q;
  plain.input.k = constant.input.k;
  plain.input.v = constant.input.v;
  plain.input.igate = constant.input.igate;
  plain.input.fgate = constant.input.fgate;
  plain.first_state.values = constant.first_state.values;
  plain.dstate.values = constant.dstate.values;
  const auto h = forward(constant).h;
  const auto numerator = forward(plain).h;
  for (std::size_t i = 0; i < h.size(); ++i) plain.dh[i] = constant.dh[i] * h[i] / numerator[i];

  const auto actual = backward(constant);
  const auto expected = backward(plain);
  // The quotient h/numerator is 1/d to a few roundings.
  CHECK(relative_difference(actual.input.q, expected.input.q) <= 1e-12);
  CHECK(relative_difference(actual.input.k, expected.input.k) <= 1e-12);
  CHECK(relative_difference(actual.input.v, expected.input.v) <= 1e-12);
  CHECK(relative_difference(actual.input.igate, expected.input.igate) <= 1e-12);
  CHECK(relative_difference(actual.input.fgate, expected.input.fgate) <= 1e-12);
  CHECK(relative_difference(actual.state.values, expected.state.values) <= 1e-12);
  CHECK(actual.input.v == backward(full).input.v);
  CHECK(actual.input.q != backward(full).input.q);
}

}  // namespace

TEST_CASE("denominator_gradient = false takes the denominator as a constant", "[reference][mlstm]") {
  check_constant_denominator<MLSTMCell<2, 4, 3, ConstantDenominator>, MLSTMCell<2, 4, 3, Unnormalized>,
                             MLSTMCell<2, 4, 3>>();
  check_constant_denominator<MLSTMCell<2, 4, 3, SigmoidGateConstantDenominator>,
                             MLSTMCell<2, 4, 3, SigmoidGateUnnormalized>, MLSTMCell<2, 4, 3, SigmoidGate>>();
}

namespace {

template <class T, class Cell>
MLSTMInput<T, Cell> rows_of(const MLSTMInput<T, Cell>& in, Index first, Index count) {
  return {in.q.middle_rows(first, count), in.k.middle_rows(first, count), in.v.middle_rows(first, count),
          in.igate.middle_rows(first, count), in.fgate.middle_rows(first, count)};
}

// The gradient of `c` (one sequence) computed in two parts, the later one first, the state's gradient handed on.
template <class Cell>
CellGradient<double, Cell> backward_in_parts(const CellCase<double, Cell>& c, Index cut) {
  const auto in = c.input.views();
  Run early = c.run();
  early.length = cut;
  CellStates<double, Cell> middle = c.first_state;
  std::vector<double> h(c.dh.size());
  reference::mlstm_recurrent<Cell, double>(early, rows_of<const double, Cell>(in, 0, cut), middle.slots(),
                                           {h.data(), cut});
  Run late = c.run();
  late.length = c.length - cut;
  if (late.starts != nullptr) late.starts += cut;

  CellGradient<double, Cell> gradient{CellArrays<double, Cell>(c.length), c.dstate};
  const auto out = gradient.input.views();
  reference::mlstm_backward<Cell, double>(late, rows_of<const double, Cell>(in, cut, late.length),
                                          std::as_const(middle).slots(), c.dh_view().middle_rows(cut, late.length),
                                          rows_of<double, Cell>(out, cut, late.length), gradient.state.slots());
  reference::mlstm_backward<Cell, double>(early, rows_of<const double, Cell>(in, 0, cut), c.first_state.slots(),
                                          c.dh_view().middle_rows(0, cut), rows_of<double, Cell>(out, 0, cut),
                                          gradient.state.slots());
  return gradient;
}

}  // namespace

TEST_CASE("the gradient of a sequence in two parts is that of the whole", "[reference][mlstm]") {
  using Cell = MLSTMCell<2, 5, 3>;
  CaseOptions options;
  options.length = 17;
  options.state_scale = 1;
  options.dstate_scale = 1;
  options.document_probability = GENERATE(0.0, 0.1);
  const auto c = random_case<double, Cell>(options);
  // The very same steps in the same order.
  for (Index cut = 1; cut < c.length; ++cut) CHECK(gradient_difference(backward_in_parts(c, cut), backward(c)) == 0);
}

TEST_CASE("no gradient crosses a document's start", "[reference][mlstm]") {
  using Cell = MLSTMCell<2, 5, 3>;
  CaseOptions options;
  options.length = 20;
  options.state_scale = 1;
  options.dstate_scale = 1;
  auto c = random_case<double, Cell>(options);
  c.starts.assign(20, 0);
  c.starts[8] = 1;
  const auto expected = backward(c);

  SECTION("forwards: what comes later does not reach what was before") {
    auto other = c;
    for (std::size_t i = 8 * Cell::v_width; i < other.dh.size(); ++i) other.dh[i] = 0;
    for (double& x : other.dstate.values) x = 0;
    const auto actual = backward(other);
    const auto same = [](const std::vector<double>& a, const std::vector<double>& b, Index width) {
      return std::equal(a.begin(), a.begin() + 8 * width, b.begin());
    };
    CHECK(same(actual.input.q, expected.input.q, Cell::qk_width));
    CHECK(same(actual.input.k, expected.input.k, Cell::qk_width));
    CHECK(same(actual.input.v, expected.input.v, Cell::v_width));
    CHECK(same(actual.input.igate, expected.input.igate, Cell::heads));
    CHECK(same(actual.input.fgate, expected.input.fgate, Cell::heads));
    CHECK(actual.state.values == expected.state.values);
    CHECK(actual.input.q != expected.input.q);
  }
  SECTION("the forget gate of a document's first token has none") {
    for (Index head = 0; head < Cell::heads; ++head) {
      CHECK(expected.input.fgate[static_cast<std::size_t>(8 * Cell::heads + head)] == 0);
      CHECK(expected.input.igate[static_cast<std::size_t>(8 * Cell::heads + head)] != 0);
    }
  }
  SECTION("a document is a sequence of its own") {
    CellCase<double, Cell> own(1, 12);
    const auto take = [](std::vector<double>& to, const std::vector<double>& from, Index width) {
      to.assign(from.begin() + 8 * width, from.end());
    };
    take(own.input.q, c.input.q, Cell::qk_width);
    take(own.input.k, c.input.k, Cell::qk_width);
    take(own.input.v, c.input.v, Cell::v_width);
    take(own.input.igate, c.input.igate, Cell::heads);
    take(own.input.fgate, c.input.fgate, Cell::heads);
    take(own.dh, c.dh, Cell::v_width);
    own.dstate.values = c.dstate.values;
    const auto actual = backward(own);
    const auto same = [](const std::vector<double>& a, const std::vector<double>& b, Index width) {
      return std::equal(a.begin(), a.end(), b.begin() + 8 * width, b.end());
    };
    CHECK(same(actual.input.q, expected.input.q, Cell::qk_width));
    CHECK(same(actual.input.k, expected.input.k, Cell::qk_width));
    CHECK(same(actual.input.v, expected.input.v, Cell::v_width));
    CHECK(same(actual.input.igate, expected.input.igate, Cell::heads));
    CHECK(same(actual.input.fgate, expected.input.fgate, Cell::heads));
  }
}

TEST_CASE("without state slots the first state is zeros, and no gradient comes in", "[reference][mlstm]") {
  using Cell = MLSTMCell<2, 5, 3>;
  CaseOptions options;
  options.sequences = 2;
  options.length = 10;
  const auto c = random_case<double, Cell>(options);
  const auto actual = backward_of(c, c.run(), [](const Run& run, auto in, auto, auto dh, auto gradient, auto) {
    reference::mlstm_backward<Cell, double>(run, in, {}, dh, gradient, {});
  });
  const auto expected = backward(c);
  CHECK(actual.input.q == expected.input.q);
  CHECK(actual.input.k == expected.input.k);
  CHECK(actual.input.v == expected.input.v);
  CHECK(actual.input.igate == expected.input.igate);
  CHECK(actual.input.fgate == expected.input.fgate);
}

TEMPLATE_TEST_CASE("gates of any size give finite gradients", "[reference][mlstm]", float, double) {
  using Cell = MLSTMCell<2, 4, 3, Uncapped>;
  CaseOptions options;
  options.length = 40;
  options.igate_mean = GENERATE(-1e4, -200.0, 200.0, 1e4);
  options.igate_scale = 10;
  options.fgate_mean = GENERATE(-1e4, -50.0, 50.0, 1e4);
  options.state_scale = 1;
  options.dstate_scale = 1;
  options.document_probability = 0.05;
  const auto gradient = backward<Cell, TestType>(random_case<TestType, Cell>(options));
  CHECK(gradient_difference(gradient, gradient) == 0);  // infinite where anything is not finite
}

TEST_CASE("in float the gradient is the same computation with rounding of 6e-8", "[reference][mlstm]") {
  using Cell = MLSTMCell<2, 8, 8>;
  CaseOptions options;
  options.length = 60;
  options.igate_mean = -2;
  options.state_scale = 1;
  options.dstate_scale = 1;
  // Some hundred roundings in a row: 1e-5; inputs off the kink, where a rounding would decide about δs.
  const auto actual = backward<Cell, float>(random_case_off_kink<float, Cell>(options, 1e-3));
  const auto expected = backward(random_case_off_kink<double, Cell>(options, 1e-3));
  CHECK(gradient_difference(actual, expected) <= 1e-5);
}
