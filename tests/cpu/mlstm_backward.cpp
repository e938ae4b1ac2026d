// SPDX-License-Identifier: Apache-2.0
// cpu::mlstm_backward after every form against the published numbers and against plain backpropagation in double.
#include "xlstm/cpu/mlstm_backward.hpp"

#include <algorithm>
#include <cmath>
#include <string>
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

struct Uncapped : MLSTMPolicy {
  using GateCap = NoSoftCap;
};
struct Sigmoid : MLSTMPolicy {
  using InputGate = SigmoidInputGate;
};
struct SigmoidPlain : Sigmoid {
  using Normalizer = NoNormalizer;
};
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

template <class Cell>
void check_published(const char* name, double tolerance) {
  const ReferenceData data(std::string("cell/") + name);
  const auto c = reference_case<float, Cell>(data);
  const auto check = [&](const Run& run) {
    const auto actual = run_cpu<Cell>(c, run);
    INFO(name << ", form " << static_cast<int>(run.form) << ", chunk " << run.chunk_size);
    CHECK(relative_difference(actual.input.q, data["dq"]) < tolerance);
    CHECK(relative_difference(actual.input.k, data["dk"]) < tolerance);
    CHECK(relative_difference(actual.input.v, data["dv"]) < tolerance);
    CHECK(relative_difference(actual.input.igate, data["di"]) < tolerance);
    CHECK(relative_difference(actual.input.fgate, data["df"]) < tolerance);
    if (data.has("dc0"))
      CHECK(state_difference(actual.state, reference_states<Cell>(data, "dc0", "dn0", "")) < tolerance);
  };
  for (const Index chunk : {0, 1, 16, 64, 100, 100000}) check(c.run(chunk));
  check(c.run(0, Form::recurrent));
  check(c.run(0, Form::parallel));
}

}  // namespace

TEST_CASE("cpu mLSTM backward gives the published gradients after every form and chunk size") {
  check_published<MLSTMCell<3, 8, 16, Uncapped>>("plain", 2e-5);
  check_published<MLSTMCell<2, 16, 24, Uncapped>>("state_in_and_out", 2e-5);
  check_published<MLSTMCell<2, 8, 8>>("documents", 2e-5);
  check_published<MLSTMCell<2, 8, 8, Uncapped>>("forgetting", 2e-5);
  check_published<MLSTMCell<2, 16, 8, Uncapped>>("one_token", 2e-5);
  check_published<MLSTMCell<4, 32, 64>>("trained_like", 2e-5);
  check_published<MLSTMCell<2, 16, 16, Uncapped>>("large_values", 1e-4);
  check_published<MLSTMCell<2, 16, 16>>("gates_at_the_caps", 1e-4);
}

TEMPLATE_TEST_CASE("cpu mLSTM backward equals plain backpropagation in double on awkward shapes", "",
                   (MLSTMCell<1, 3, 5>), (MLSTMCell<3, 24, 40, Uncapped>), (MLSTMCell<2, 5, 3, Sigmoid>),
                   (MLSTMCell<1, 17, 40, SigmoidPlain>), (MLSTMCell<2, 8, 33, WithoutDenominator>)) {
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
