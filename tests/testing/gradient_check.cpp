// SPDX-License-Identifier: Apache-2.0
// The checker must find out what is wrong: tests that use it are worth no more than that.
#include "xlstm/testing/gradient_check.hpp"

#include <cmath>
#include <limits>

#include "catch.hpp"
#include "xlstm/nn/identity.hpp"
#include "xlstm/nn/linear.hpp"

using namespace xlstm;

namespace {

/// y = x with a gradient of `Percent` hundredths of the right one; below 0: no number at all.
template <int Percent>
struct Off : Identity<3> {
  template <class B>
  static void backward(B&, const Parameters<B>&, Gradients<B, Identity<3>>&, const Run&, States<B>, const Saved<B>&,
                       Input<B, 3> dy, Output<B, 3> dx) {
    using T = typename B::Arithmetic;
    const T factor = Percent < 0 ? std::numeric_limits<T>::quiet_NaN() : T(Percent) / T{100};
    for (Index r = 0; r < dy.rows(); ++r) {
      for (Index c = 0; c < 3; ++c) dx(r, c) = factor * dy(r, c);
    }
  }
};

enum class Mistake { none, ignores_last, leaves_last, crosses_borders, tells_no_units };

/// y_t = s_t = s_{t−1}/2 + x_t. The state is s·exp(−m) and m, and m becomes s: any m would do.
template <Mistake mistake>
struct Halving : Identity<1> {
  static constexpr Index state_size = 2;
  template <class B>
  struct Saved {
    typename B::Arithmetic* m;  // (sequences, 2): of the first state and of the last
  };
  template <class S>
  static double state_unit(const S* state, Index i) {
    if (mistake == Mistake::tells_no_units) return 1;
    return i == 0 ? std::exp(state[1]) : 0;
  }
  template <class B>
  static void forward(B& backend, const Parameters<B>&, const Run& run, States<B> state, Input<B, 1> x, Output<B, 1> y,
                      Saved<B>& saved) {
    saved.m = backend.arena().template allocate<typename B::Arithmetic>(2 * run.sequences);
    for (Index b = 0; b < run.sequences; ++b) {
      auto* const values = state[b];
      saved.m[2 * b] = values[1];
      auto s = values[0] * std::exp(values[1]);
      for (Index t = 0; t < run.length; ++t) {
        if (run.starts_document(b, t)) s = 0;
        s = s / 2 + x(b * run.length + t, 0);
        y(b * run.length + t, 0) = s;
      }
      values[0] = s * std::exp(-s);
      saved.m[2 * b + 1] = values[1] = s;
    }
  }
  template <class B>
  static void backward(B&, const Parameters<B>&, Gradients<B, Identity<1>>&, const Run& run, States<B> dstate,
                       const Saved<B>& saved, Input<B, 1> dy, Output<B, 1> dx) {
    for (Index b = 0; b < run.sequences; ++b) {
      auto ds = mistake == Mistake::ignores_last ? 0 : dstate[b][0] * std::exp(-saved.m[2 * b + 1]);
      for (Index t = run.length - 1; t >= 0; --t) {
        ds += dy(b * run.length + t, 0);
        dx(b * run.length + t, 0) = ds;
        ds = run.starts_document(b, t) && mistake != Mistake::crosses_borders ? 0 : ds / 2;
      }
      if (mistake != Mistake::leaves_last) dstate[b][0] = ds * std::exp(saved.m[2 * b]);
    }
  }
};

/// How far off the gradients are, with borders of documents in the run or without.
template <Mistake mistake>
double off(bool documents) {
  return testing::check_gradients<Halving<mistake>>({.documents = documents}).worst().relative();
}

/// A backend whose products are no numbers.
struct Broken : reference::Backend<float> {
  template <Index In, class... Ws>
  void linear(MatrixView<const float, In>, LinearTerm<Ws, float>... terms) {
    const auto spoil = [](auto y) {
      for (Index r = 0; r < y.rows(); ++r) std::fill_n(y.row(r), y.cols(), std::numeric_limits<float>::quiet_NaN());
    };
    (spoil(terms.y), ...);
  }
};

}  // namespace

TEST_CASE("a right gradient passes, one that is off by a hundredth does not", "[gradient_check]") {
  CHECK(testing::check_gradients<Off<100>>().worst().relative() < 1e-9);
  CHECK(testing::check_gradients<Off<101>>().worst().relative() == Approx(0.01).epsilon(1e-3));
}

TEST_CASE("the gradient from the last state and into the first is checked, in the units of the state") {
  for (const bool documents : {false, true}) {
    CHECK(off<Mistake::none>(documents) < 1e-9);
    CHECK(off<Mistake::ignores_last>(documents) > 0.1);
    CHECK(off<Mistake::leaves_last>(documents) > 0.1);
    CHECK(off<Mistake::tells_no_units>(documents) > 0.1);
  }
  CHECK(off<Mistake::crosses_borders>(false) < 1e-9);
  CHECK(off<Mistake::crosses_borders>(true) > 0.1);
}

TEST_CASE("states count in their units in the comparison with the reference too") {
  // As much as fp32 sums and exponentials of a few terms round.
  CHECK(testing::compare_with_reference<Halving<Mistake::none>, reference::Backend<float>>().worst().relative() < 1e-5);
}

TEST_CASE("what is no number is infinitely far from right", "[gradient_check]") {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  CHECK(testing::check_gradients<Off<-1>>().worst().relative() == infinity);
  CHECK(testing::compare_with_reference<Linear<4, 2>, Broken>().worst().relative() == infinity);
  testing::TensorDifference d{"d"};
  d.compare(1, infinity);
  d.compare(2, 2);
  CHECK(d.relative() == infinity);
}
