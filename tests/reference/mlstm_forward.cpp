// SPDX-License-Identifier: Apache-2.0
// The reference's three forms of the mLSTM: equal to the published code's numbers and to each other.
#include "catch.hpp"
#include "cell_cases.hpp"
#include "xlstm/reference/mlstm_chunkwise.hpp"
#include "xlstm/reference/mlstm_parallel.hpp"
#include "xlstm/reference/mlstm_recurrent.hpp"

using namespace xlstm;
using namespace xlstm::tests;

namespace {

struct Uncapped : MLSTMPolicy {
  using GateCap = NoSoftCap;
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

template <class Cell, class T = double>
CellOutput<T, Cell> recurrent(const CellCase<T, Cell>& c) {
  return forward_of(c, c.run(), [](auto... a) { reference::mlstm_recurrent<Cell, T>(a...); });
}
template <class Cell, class T = double>
CellOutput<T, Cell> parallel(const CellCase<T, Cell>& c) {
  return forward_of(c, c.run(), [](auto... a) { reference::mlstm_parallel<Cell, T>(a...); });
}
template <class Cell, class T = double>
CellOutput<T, Cell> chunkwise(const CellCase<T, Cell>& c, Index chunk_size) {
  return forward_of(c, c.run(chunk_size), [](auto... a) { reference::mlstm_chunkwise<Cell, T>(a...); });
}

template <class T, class Cell>
void check_equal(const CellOutput<T, Cell>& actual, const CellOutput<T, Cell>& expected, double tolerance) {
  CHECK(relative_difference(actual.h, expected.h) <= tolerance);
  CHECK(state_difference(actual.state, expected.state) <= tolerance);
}

// The files' numbers are those of another order of the same sums in double: 1e-16 a rounding, some hundred of them
// in a row, and factors that cancel; 1e-10 leaves room for that and for nothing else.
template <class Cell>
void check_published(const char* name) {
  INFO(name);
  const ReferenceData data(std::string("cell/") + name);
  const auto c = reference_case<double, Cell>(data);
  const CellOutput<double, Cell> expected{data["h"], reference_states<Cell>(data, "c", "n", "m")};
  {
    INFO("recurrent");
    check_equal(recurrent(c), expected, 1e-10);
  }
  {
    INFO("parallel");
    check_equal(parallel(c), expected, 1e-10);
  }
  for (Index chunk_size : {Index{1}, Index{16}, Index{64}, Index{100}, c.length + 1}) {
    INFO("chunks of " << chunk_size);
    check_equal(chunkwise(c, chunk_size), expected, 1e-10);
  }
}

}  // namespace

TEST_CASE("all forms give the published code's outputs and last states", "[reference][mlstm]") {
  check_published<MLSTMCell<3, 8, 16, Uncapped>>("plain");
  check_published<MLSTMCell<2, 16, 8, Uncapped>>("one_token");
  check_published<MLSTMCell<2, 16, 24, Uncapped>>("state_in_and_out");
  check_published<MLSTMCell<2, 8, 8>>("documents");
  check_published<MLSTMCell<2, 8, 8, Uncapped>>("forgetting");
  check_published<MLSTMCell<2, 16, 16>>("gates_at_the_caps");
  check_published<MLSTMCell<2, 16, 16, Uncapped>>("large_values");
  check_published<MLSTMCell<4, 32, 64>>("trained_like");
}
