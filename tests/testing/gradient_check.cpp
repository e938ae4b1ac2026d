// SPDX-License-Identifier: Apache-2.0
// The checker must find out what is wrong: tests that use it are worth no more than that.
#include "xlstm/testing/gradient_check.hpp"

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

TEST_CASE("what is no number is infinitely far from right", "[gradient_check]") {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  CHECK(testing::check_gradients<Off<-1>>().worst().relative() == infinity);
  CHECK(testing::compare_with_reference<Linear<4, 2>, Broken>().worst().relative() == infinity);
  testing::TensorDifference d{"d"};
  d.compare(1, infinity);
  d.compare(2, 2);
  CHECK(d.relative() == infinity);
}
