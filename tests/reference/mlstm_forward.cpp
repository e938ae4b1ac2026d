// SPDX-License-Identifier: Apache-2.0
// The reference's three forms of the mLSTM: equal to the published code's numbers and to each other.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "cell_cases.hpp"
#include "xlstm/reference/mlstm_chunkwise.hpp"
#include "xlstm/reference/mlstm_parallel.hpp"
#include "xlstm/reference/mlstm_recurrent.hpp"

using namespace xlstm;
using namespace xlstm::tests;

namespace {

struct Sevens : MLSTMPolicy {
  static constexpr Index chunk_size = 7;
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

TEMPLATE_TEST_CASE("the forms agree, for every policy and awkward sizes", "[reference][mlstm]", (MLSTMCell<3, 5, 7>),
                   (MLSTMCell<1, 1, 1>), (MLSTMCell<2, 3, 4, Uncapped>), (MLSTMCell<2, 4, 3, SigmoidGate>),
                   (MLSTMCell<2, 4, 3, SigmoidGateUnnormalized>), (MLSTMCell<2, 4, 3, Unnormalized>)) {
  // Exponents of a sum over S tokens err by S·|f̃|·1e-16 and appear relative in the result: 1e-12 for a hundred tokens.
  using Cell = TestType;
  CaseOptions options;
  options.sequences = GENERATE(1, 3);
  options.length = GENERATE(1, 2, 47);
  options.document_probability = GENERATE(0.0, 0.1);
  options.state_scale = GENERATE(0.0, 1.0);
  options.seed = static_cast<std::uint64_t>(options.length);
  const auto c = random_case<double, Cell>(options);
  const auto expected = recurrent(c);
  check_equal(parallel(c), expected, 1e-12);
  for (Index chunk_size : {1, 2, 7, 16, 64}) check_equal(chunkwise(c, chunk_size), expected, 1e-12);
}

TEST_CASE("the chunk size is the cell's where the run does not say", "[reference][mlstm]") {
  using Cell = MLSTMCell<2, 3, 4, Sevens>;
  CaseOptions options;
  options.length = 30;
  const auto c = random_case<double, Cell>(options);
  CHECK(chunkwise(c, 0).h == chunkwise(c, 7).h);
  CHECK(chunkwise(c, 0).h != chunkwise(c, 8).h);
}

TEMPLATE_TEST_CASE("cutting a sequence and handing the state on changes nothing", "[reference][mlstm]",
                   (MLSTMCell<2, 5, 3>), (MLSTMCell<2, 5, 3, SigmoidGate>)) {
  using Cell = TestType;
  CaseOptions options;
  options.length = 33;
  options.state_scale = 1;
  options.document_probability = 0.05;
  const auto c = random_case<double, Cell>(options);
  const auto h_until = [&c](auto&& form, Index cut) {
    CellOutput<double, Cell> out{std::vector<double>(c.dh.size()), c.first_state};
    const auto in = c.input.views();
    const MatrixView<double, Cell::v_width> h(out.h.data(), c.length);
    for (const auto& [first, count] : {std::pair{Index{0}, cut}, std::pair{cut, c.length - cut}}) {
      Run run = c.run(8);
      run.length = count;
      run.starts += first;
      const MLSTMInput<const double, Cell> part{in.q.middle_rows(first, count), in.k.middle_rows(first, count),
                                                in.v.middle_rows(first, count), in.igate.middle_rows(first, count),
                                                in.fgate.middle_rows(first, count)};
      form(run, part, out.state.slots(), h.middle_rows(first, count));
    }
    return out;
  };
  for (Index cut = 1; cut < c.length; ++cut) {
    INFO("cut at " << cut);
    // The recurrence takes the very same steps; the others sum in another order (1e-12 as above).
    const auto stepwise = h_until([](auto... a) { reference::mlstm_recurrent<Cell, double>(a...); }, cut);
    CHECK(stepwise.h == recurrent(c).h);
    CHECK(stepwise.state.values == recurrent(c).state.values);
    check_equal(h_until([](auto... a) { reference::mlstm_chunkwise<Cell, double>(a...); }, cut), recurrent(c), 1e-12);
    check_equal(h_until([](auto... a) { reference::mlstm_parallel<Cell, double>(a...); }, cut), recurrent(c), 1e-12);
  }
}

TEST_CASE("documents in a row are separate sequences, to the bit", "[reference][mlstm]") {
  using Cell = MLSTMCell<2, 5, 3>;
  CaseOptions options;
  options.length = 40;
  options.state_scale = 1;
  options.fgate_mean = 0;
  auto row = random_case<double, Cell>(options);
  row.starts.assign(40, 0);
  const Index borders[] = {11, 12, 29};
  for (Index border : borders) row.starts[static_cast<std::size_t>(border)] = 1;

  const auto check = [&](auto&& form) {
    const auto all = forward_of(row, row.run(8), form);
    const auto in = row.input.views();
    for (std::size_t d = 0; d < 3; ++d) {
      const Index first = borders[d];
      const Index count = (d < 2 ? borders[d + 1] : row.length) - first;
      Run run;
      run.length = count;
      run.chunk_size = 8;
      const MLSTMInput<const double, Cell> part{in.q.middle_rows(first, count), in.k.middle_rows(first, count),
                                                in.v.middle_rows(first, count), in.igate.middle_rows(first, count),
                                                in.fgate.middle_rows(first, count)};
      std::vector<double> h(static_cast<std::size_t>(count * Cell::v_width));
      CellStates<double, Cell> state(1);
      form(run, part, state.slots(), MatrixView<double, Cell::v_width>(h.data(), count));
      CHECK(std::equal(h.begin(), h.end(), all.h.begin() + first * Cell::v_width));
      if (d == 2) CHECK(state.values == all.state.values);
    }
  };
  check([](auto... a) { reference::mlstm_recurrent<Cell, double>(a...); });
  check([](auto... a) { reference::mlstm_parallel<Cell, double>(a...); });
  check([](auto... a) { reference::mlstm_chunkwise<Cell, double>(a...); });
}

TEST_CASE("without state slots the state is zeros, and is not kept", "[reference][mlstm]") {
  using Cell = MLSTMCell<2, 5, 3>;
  CaseOptions options;
  options.sequences = 2;
  options.length = 20;
  const auto c = random_case<double, Cell>(options);
  std::vector<double> h(c.dh.size());
  const MatrixView<double, Cell::v_width> view(h.data(), 40);
  reference::mlstm_recurrent<Cell, double>(c.run(), c.input.views(), {}, view);
  CHECK(h == recurrent(c).h);
  reference::mlstm_parallel<Cell, double>(c.run(), c.input.views(), {}, view);
  CHECK(h == parallel(c).h);
  reference::mlstm_chunkwise<Cell, double>(c.run(5), c.input.views(), {}, view);
  CHECK(h == chunkwise(c, 5).h);
}

TEMPLATE_TEST_CASE("a state's place among others is its slot and offset", "[reference][mlstm]", float, double) {
  using Cell = MLSTMCell<2, 3, 4>;
  CaseOptions options;
  options.sequences = 2;
  options.length = 9;
  options.state_scale = 1;
  const auto c = random_case<TestType, Cell>(options);
  std::vector<TestType> storage[2];
  TestType* slots[2];
  for (Index b = 0; b < 2; ++b) {
    storage[b].assign(5, TestType{7});
    storage[b].insert(storage[b].end(), c.first_state[b], c.first_state[b] + Cell::state_size);
    storage[b].push_back(TestType{8});
    slots[b] = storage[b].data();
  }
  std::vector<TestType> h(c.dh.size());
  reference::mlstm_recurrent<Cell, TestType>(c.run(), c.input.views(), {slots, 5},
                                             MatrixView<TestType, Cell::v_width>(h.data(), 18));
  const auto expected = recurrent<Cell, TestType>(c);
  CHECK(h == expected.h);
  for (Index b = 0; b < 2; ++b) {
    CHECK(std::equal(storage[b].begin() + 5, storage[b].end() - 1, expected.state[b]));
    CHECK(storage[b][4] == TestType{7});
    CHECK(storage[b].back() == TestType{8});
  }
}

TEMPLATE_TEST_CASE("gates of any size give finite outputs", "[reference][mlstm]", float, double) {
  using Cell = MLSTMCell<2, 4, 3, Uncapped>;
  const double large = GENERATE(-1e4, -200.0, 200.0, 1e4);
  const double fgate = GENERATE(-1e4, -50.0, 50.0, 1e4);
  CaseOptions options;
  options.length = 40;
  options.igate_mean = large;
  options.igate_scale = 10;
  options.fgate_mean = fgate;
  options.state_scale = 1;
  options.document_probability = 0.05;
  const auto c = random_case<TestType, Cell>(options);
  const auto expected = recurrent<Cell, TestType>(c);
  // Sums of 40 numbers of size 1e4 are exponents that err by 4e5 times a rounding. In double that is 1e-10, with the
  // rest 1e-9 relative; in float the exponents themselves are rounded to 0.03, so there only finiteness is asked.
  const double tolerance = std::is_same_v<TestType, double> ? 1e-9 : std::numeric_limits<double>::max();
  check_equal(parallel<Cell, TestType>(c), expected, tolerance);
  for (Index chunk_size : {1, 16, 64}) check_equal(chunkwise<Cell, TestType>(c, chunk_size), expected, tolerance);
}

TEMPLATE_TEST_CASE("a state before which all was forgotten has no influence", "[reference][mlstm]",
                   (MLSTMCell<2, 4, 3, Uncapped>), (MLSTMCell<2, 4, 3, SigmoidGate>)) {
  using Cell = TestType;
  CaseOptions options;
  options.length = 12;
  options.state_scale = 1;
  auto c = random_case<double, Cell>(options);
  c.starts.assign(12, 0);
  c.starts[0] = 1;
  auto other = c;
  // Not even one that is no number: forgetting is not a multiplication by zero.
  std::fill(other.first_state.values.begin(), other.first_state.values.end(), std::nan(""));
  CHECK(recurrent(other).h == recurrent(c).h);
  CHECK(parallel(other).h == parallel(c).h);
  CHECK(chunkwise(other, 5).h == chunkwise(c, 5).h);
  CHECK(recurrent(other).state.values == recurrent(c).state.values);
  CHECK(parallel(other).state.values == parallel(c).state.values);
  CHECK(chunkwise(other, 5).state.values == chunkwise(c, 5).state.values);
}

TEST_CASE("in float the reference is the same computation with rounding of 6e-8", "[reference][mlstm]") {
  using Cell = MLSTMCell<2, 8, 8>;
  CaseOptions options;
  options.length = 60;
  options.igate_mean = -2;
  options.state_scale = 1;
  // Some sixty roundings in a row, exponents of sums of up to 60·4 among them: 1e-5 of the largest value at most.
  const auto c = random_case<float, Cell>(options);
  const auto expected = recurrent(random_case<double, Cell>(options));
  const auto check = [&expected](const CellOutput<float, Cell>& actual) {
    CHECK(relative_difference(actual.h, expected.h) <= 1e-5);
    CHECK(state_difference(actual.state, expected.state) <= 1e-5);
  };
  check(recurrent<Cell, float>(c));
  check(parallel<Cell, float>(c));
  check(chunkwise<Cell, float>(c, 16));
}

TEST_CASE("rows may be parts of wider ones", "[reference][mlstm]") {
  using Cell = MLSTMCell<2, 3, 4>;
  CaseOptions options;
  options.length = 11;
  const auto c = random_case<double, Cell>(options);
  // q, k, v side by side in one matrix, as a fused projection leaves them.
  constexpr Index width = 2 * Cell::qk_width + Cell::v_width;
  std::vector<double> fused(static_cast<std::size_t>(11 * width));
  std::vector<double> wide_h(static_cast<std::size_t>(11 * (Cell::v_width + 3)), -5.0);
  auto in = c.input.views();
  for (Index r = 0; r < 11; ++r) {
    double* to = fused.data() + r * width;
    to = std::copy_n(in.q.row(r), Cell::qk_width, to);
    to = std::copy_n(in.k.row(r), Cell::qk_width, to);
    std::copy_n(in.v.row(r), Cell::v_width, to);
  }
  in.q = {fused.data(), 11, Cell::qk_width, width};
  in.k = {fused.data() + Cell::qk_width, 11, Cell::qk_width, width};
  in.v = {fused.data() + 2 * Cell::qk_width, 11, Cell::v_width, width};
  const MatrixView<double, Cell::v_width> h(wide_h.data(), 11, Cell::v_width, Cell::v_width + 3);
  const auto expect = [&](const CellOutput<double, Cell>& expected) {
    for (Index r = 0; r < 11; ++r) {
      CHECK(std::equal(h.row(r), h.row(r) + Cell::v_width, expected.h.data() + r * Cell::v_width));
      CHECK(h.row(r)[Cell::v_width] == -5.0);
    }
  };
  reference::mlstm_recurrent<Cell, double>(c.run(), in, {}, h);
  expect(recurrent(c));
  reference::mlstm_parallel<Cell, double>(c.run(), in, {}, h);
  expect(parallel(c));
  reference::mlstm_chunkwise<Cell, double>(c.run(4), in, {}, h);
  expect(chunkwise(c, 4));
}

TEST_CASE("without a normalizer the output is the numerator, and the state is the same", "[reference][mlstm]") {
  CaseOptions options;
  options.length = 20;
  const auto with = recurrent(random_case<double, MLSTMCell<2, 4, 3, SigmoidGate>>(options));
  const auto without = recurrent(random_case<double, MLSTMCell<2, 4, 3, SigmoidGateUnnormalized>>(options));
  CHECK(without.state.values == with.state.values);
  for (std::size_t i = 0; i < with.h.size(); ++i) CHECK(std::abs(with.h[i]) < std::abs(without.h[i]));
}
