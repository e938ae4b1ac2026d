// SPDX-License-Identifier: Apache-2.0
// The reference's gradient of the mLSTM: that of automatic differentiation of the published code, and that which
// differences of the forward pass show.
#include "xlstm/reference/mlstm_backward.hpp"

#include "catch.hpp"
#include "cell_cases.hpp"
#include "xlstm/reference/mlstm_recurrent.hpp"

using namespace xlstm;
using namespace xlstm::tests;

namespace {

struct Uncapped : MLSTMPolicy {
  using GateCap = NoSoftCap;
};

template <class Cell, class T = double>
CellGradient<T, Cell> backward(const CellCase<T, Cell>& c) {
  return backward_of(c, c.run(), [](auto... a) { reference::mlstm_backward<Cell, T>(a...); });
}

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
