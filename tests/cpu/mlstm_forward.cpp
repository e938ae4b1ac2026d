// SPDX-License-Identifier: Apache-2.0
// cpu::mlstm in every form against the plain loops in double; mlstm_published.cpp has the published numbers.
#include "xlstm/cpu/mlstm.hpp"

#include <vector>

#include "catch.hpp"
#include "cell_cases.hpp"
#include "memory.hpp"
#include "xlstm/core/arena.hpp"
#include "xlstm/cpu/thread_pool.hpp"
#include "xlstm/reference/mlstm_recurrent.hpp"

namespace {

using namespace xlstm;
using namespace xlstm::tests;

/// Runs cpu::mlstm on `threads` threads; checks that all scratch memory is given back.
template <class Cell>
CellOutput<float, Cell> run_cpu(const CellCase<float, Cell>& c, const Run& run, int threads = 1) {
  cpu::ThreadPool pool(threads);
  Arena arena;
  return forward_of<float, Cell>(c, run, [&](const Run& r, const auto& in, StateSlots<float> state, auto h) {
    cpu::MLSTMSaved<Cell> saved;
    cpu::mlstm<Cell>(pool, arena, r, in, state, h, saved);
    REQUIRE(arena.mark().block == 0);
    REQUIRE(arena.mark().used == 0);
  });
}

/// The same as a training run, whose saved memory stays in the arena.
template <class Cell>
CellOutput<float, Cell> run_training(const CellCase<float, Cell>& c, const Run& run, int threads) {
  cpu::ThreadPool pool(threads);
  Arena arena;
  return forward_of<float, Cell>(c, run, [&](const Run& r, const auto& in, StateSlots<float> state, auto h) {
    cpu::MLSTMSaved<Cell> saved;
    cpu::mlstm<Cell>(pool, arena, r, in, state, h, saved);
  });
}

}  // namespace

TEMPLATE_TEST_CASE("cpu mLSTM equals the plain loops in double on awkward shapes", "", (MLSTMCell<1, 3, 5>),
                   (MLSTMCell<3, 24, 40, Uncapped>), (MLSTMCell<2, 5, 3, SigmoidGate>),
                   (MLSTMCell<1, 17, 100, SigmoidGateUnnormalized>), (MLSTMCell<2, 8, 33, Unnormalized>),
                   (MLSTMCell<2, 3, 4, OwnGates>)) {
  using Cell = TestType;
  CaseOptions options;
  std::uint64_t seed = 0;
  for (const Index length : {1, 2, 7, 64, 65, 131}) {
    for (const Index sequences : {1, 3}) {
      for (const double documents : {0.0, 0.06}) {
        for (const double state : {0.0, 1.0}) {
          options.sequences = sequences;
          options.length = length;
          options.document_probability = documents;
          options.state_scale = state;
          options.seed = ++seed;
          const auto c = random_case<float, Cell>(options);
          const auto exact = random_case<double, Cell>(options);
          const auto expected = forward_of<double, Cell>(
              exact, exact.run(), [](auto... a) { reference::mlstm_recurrent<Cell, double>(a...); });
          for (const Form form : {Form::chunkwise, Form::recurrent, Form::parallel}) {
            for (const Index chunk : {0, 5, 33}) {
              INFO("length " << length << ", sequences " << sequences << ", documents " << documents << ", state "
                             << state << ", form " << static_cast<int>(form) << ", chunk " << chunk);
              Run run = c.run(chunk, form);
              const auto one = run_cpu<Cell>(c, run);
              CHECK(relative_difference(one.h, expected.h) < 2e-5);
              CHECK(state_difference(one.state, expected.state) < 1e-5);
              run.training = true;
              const auto trained = run_training<Cell>(c, run, 3);
              CHECK(trained.h == one.h);
              CHECK(trained.state.values == one.state.values);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("cpu mLSTM without a state starts from zeros and drops what is left") {
  using Cell = MLSTMCell<2, 8, 40>;
  CaseOptions options;
  options.sequences = 2;
  options.length = 70;
  const auto c = random_case<float, Cell>(options);
  for (const Form form : {Form::chunkwise, Form::recurrent}) {
    for (const int threads : {1, 3}) {
      const Run run = c.run(16, form);
      const auto with = run_cpu<Cell>(c, run, threads);
      const auto without = forward_of<float, Cell>(c, run, [&](const Run& r, const auto& in, auto, auto h) {
        cpu::ThreadPool pool(threads);
        Arena arena;
        cpu::MLSTMSaved<Cell> saved;
        cpu::mlstm<Cell>(pool, arena, r, in, StateSlots<float>{}, h, saved);
      });
      CHECK(with.h == without.h);
    }
  }
}

TEST_CASE("cpu mLSTM asks for no memory once it is warm") {
  using Cell = MLSTMCell<3, 16, 72>;
  CaseOptions options;
  options.length = 100;
  auto c = random_case<float, Cell>(options);
  std::vector<float> h(c.dh.size());
  for (const int threads : {1, 2}) {
    for (const Form form : {Form::chunkwise, Form::recurrent, Form::parallel}) {
      cpu::ThreadPool pool(threads);
      Arena arena;
      Run run = c.run(0, form);
      run.training = true;
      const auto pass = [&] {
        const ArenaScope scope(arena);
        cpu::MLSTMSaved<Cell> saved;
        const CellArrays<float, Cell>& input = c.input;
        cpu::mlstm<Cell>(pool, arena, run, input.views(), c.first_state.slots(),
                         MatrixView<float, Cell::v_width>(h.data(), run.rows()), saved);
      };
      pass();
      const Index warm = arena.system_allocations();
      const long before = allocations;
      pass();
      pass();
      CHECK(arena.system_allocations() == warm);
      CHECK(allocations == before);
    }
  }
}
