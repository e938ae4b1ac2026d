// SPDX-License-Identifier: Apache-2.0
// cpu::mlstm_backward after every form against plain backpropagation in double; mlstm_published.cpp has the published
// numbers.
#include "xlstm/cpu/mlstm_backward.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "catch.hpp"
#include "cell_cases.hpp"
#include "xlstm/core/arena.hpp"
#include "xlstm/cpu/mlstm.hpp"
#include "xlstm/cpu/thread_pool.hpp"
#include "xlstm/reference/mlstm_backward.hpp"

namespace {

using namespace xlstm;
using namespace xlstm::tests;

struct WithoutDenominator : MLSTMPolicy {
  static constexpr bool denominator_gradient = false;
};

/// A training run's forward and backward on `threads` threads.
template <class Cell>
CellGradient<float, Cell> run_cpu(const CellCase<float, Cell>& c, Run run, int threads = 1, bool with_dstate = true) {
  run.training = true;
  cpu::ThreadPool pool(threads);
  Arena arena;
  std::vector<float> h(c.dh.size());
  const MatrixView<float, Cell::v_width> h_view(h.data(), run.rows());
  CellStates<float, Cell> state = c.first_state;
  return backward_of<float, Cell>(
      c, run, [&](const Run& r, const auto& in, auto, auto dh, const auto& gradient, StateSlots<float> dstate) {
        cpu::MLSTMSaved<Cell> saved;
        cpu::mlstm<Cell>(pool, arena, r, in, state.slots(), h_view, saved);
        const auto before = arena.mark();
        cpu::mlstm_backward<Cell>(pool, arena, r, in, h_view, saved, dh, gradient,
                                  with_dstate ? dstate : StateSlots<float>{});
        REQUIRE(arena.mark().block == before.block);
        REQUIRE(arena.mark().used == before.used);
      });
}

template <class Cell>
CellGradient<double, Cell> expected_of(const CellCase<double, Cell>& c) {
  return backward_of<double, Cell>(c, c.run(), [](auto... a) { reference::mlstm_backward<Cell, double>(a...); });
}

double largest_difference(const std::vector<float>& actual, const std::vector<double>& expected) {
  double largest = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (!std::isfinite(actual[i])) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, std::abs(static_cast<double>(actual[i]) - expected[i]));
  }
  return largest;
}

}  // namespace

TEMPLATE_TEST_CASE("cpu mLSTM backward equals plain backpropagation in double on awkward shapes", "",
                   (MLSTMCell<1, 3, 5>), (MLSTMCell<3, 24, 40, Uncapped>), (MLSTMCell<2, 5, 3, SigmoidGate>),
                   (MLSTMCell<1, 17, 40, SigmoidGateUnnormalized>), (MLSTMCell<2, 8, 33, WithoutDenominator>),
                   (MLSTMCell<2, 3, 4, OwnGates>)) {
  using Cell = TestType;
  CaseOptions options;
  std::uint64_t seed = 0;
  for (const Index length : {1, 2, 7, 65, 131}) {
    for (const Index sequences : {1, 3}) {
      for (const double documents : {0.0, 0.06}) {
        for (const double state : {0.0, 1.0}) {
          options.sequences = sequences;
          options.length = length;
          options.document_probability = documents;
          options.state_scale = options.dstate_scale = state;
          options.seed = ++seed * 1000;
          const double distance = 0.01 / static_cast<double>(length * sequences);
          const auto c = random_case_off_kink<float, Cell>(options, distance);
          const auto exact = random_case_off_kink<double, Cell>(options, distance);
          const auto expected = expected_of(exact);
          for (const Form form : {Form::chunkwise, Form::recurrent, Form::parallel}) {
            for (const Index chunk : {0, 3, 33}) {
              if (form != Form::chunkwise && chunk != 3) continue;
              INFO("length " << length << ", sequences " << sequences << ", documents " << documents << ", state "
                             << state << ", form " << static_cast<int>(form) << ", chunk " << chunk);
              const auto actual = run_cpu<Cell>(c, c.run(chunk, form), 2);
              // From zeros, one token's h is v but for ε: its gradients of q, k and the gates are what ε leaves of a
              // difference of numbers around 1, so that float has none of their digits.
              if (length == 1 && state == 0) {
                CHECK(relative_difference(actual.input.v, expected.input.v) < 1e-5);
                CHECK(largest_difference(actual.input.q, expected.input.q) < 1e-5);
                CHECK(largest_difference(actual.input.k, expected.input.k) < 1e-5);
                CHECK(largest_difference(actual.input.igate, expected.input.igate) < 1e-5);
                CHECK(largest_difference(actual.input.fgate, expected.input.fgate) == 0);
                continue;
              }
              CHECK(gradient_difference(actual, expected) < 2e-4);
              if (state == 0) {
                const auto without = run_cpu<Cell>(c, c.run(chunk, form), 2, false);
                CHECK(relative_difference(without.input.fgate, expected.input.fgate) < 2e-4);
                CHECK(without.input.q == actual.input.q);
              }
            }
          }
        }
      }
    }
  }
}
