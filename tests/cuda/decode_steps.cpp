// SPDX-License-Identifier: Apache-2.0
// cuda/decode_steps.hpp: steps that are recorded and replayed have the bits of those that are done directly, whatever
// the batch, and whatever moved meanwhile; and the emulated queue's recordings, which find what a GPU's would get
// wrong.
#include "xlstm/cuda/decode_steps.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "catch.hpp"
#include "device.hpp"
#include "model/reference_models.hpp"
#include "xlstm/cuda/backend.hpp"
#include "xlstm/generate/session.hpp"
#include "xlstm/io/load.hpp"

using xlstm::ArenaScope;
using xlstm::Index;
using xlstm::Token;
using xlstm::tests::DeviceRuntime;

namespace {

template <xlstm::ModelConfig config>
using DeviceModel = xlstm::LanguageModel<config, xlstm::cuda::Backend<float, xlstm::tests::DeviceRuntime>>;
using Tiny = DeviceModel<reference_models::tiny_f32>;
using Session = xlstm::Session<Tiny>;

const std::string& directory() {
  static const std::string name = std::string(XLSTM_TEST_DATA) + "/models/tiny-f32";
  return name;
}

/// Logits of some steps from zero states, and the states after them.
struct Steps {
  Steps(const Tiny& model, Tiny::BackendType& backend, Index sequences, Index steps) {
    std::vector<Tiny::SequenceState> states(static_cast<std::size_t>(sequences), model.new_state());
    std::vector<float*> slots;
    for (auto& state : states) slots.push_back(state.data());
    for (Index t = 0; t < steps; ++t) {
      std::vector<Token> tokens;
      for (Index b = 0; b < sequences; ++b) tokens.push_back(static_cast<Token>(7 * b + 3 * t + 1));
      const xlstm::Run run{.sequences = sequences, .length = 1, .form = xlstm::Form::recurrent};
      model.run(backend, run, tokens, {slots.data(), 0}, Tiny::Rows::last, [&](Index, auto rows) {
        for (Index r = 0; r < rows.rows(); ++r)
          logits.insert(logits.end(), rows.row(r), rows.row(r) + Tiny::vocab_size);
      });
    }
    for (auto& state : states) {
      const auto values = state.read();
      state_values.insert(state_values.end(), values.begin(), values.end());
    }
  }
  std::vector<float> logits, state_values;
  friend bool operator==(const Steps&, const Steps&) = default;
};

// What a GPU does not count is 0.
#if defined(XLSTM_ON_DEVICE)
constexpr bool counts = false;
#else
constexpr bool counts = true;
#endif
constexpr Index replayed(Index count) { return counts ? count : 0; }
template <class B>
Index replays(B& backend) {
  if constexpr (counts) {
    return backend.queue().replays();
  } else {
    return 0;
  }
}

TEST_CASE("replayed steps have the bits of direct ones", "[cuda]") {
  const auto model = Tiny::load(directory());
  const auto lease = model.lease();
  const auto directly = [&](Index sequences) {
    const ArenaScope scope(lease->arena());
    lease->arena().allocate<float>(1);  // in whose place the steps' memory would be another time
    return Steps(model, *lease, sequences, 5);
  };
  const Steps three = directly(3), one = directly(1);
  CHECK(replays(*lease) == 0);
  Steps(model, *lease, 3, 3);  // takes its memory first
  const Index before = replays(*lease);
  CHECK((Steps(model, *lease, 3, 5) == three));
  CHECK((Steps(model, *lease, 1, 5) == one));
  CHECK((Steps(model, *lease, 3, 5) == three));
  CHECK(replays(*lease) - before == replayed(14));  // all but the first of one sequence
}

TEST_CASE("sessions join and leave a batch of replayed steps", "[cuda]") {
  const auto model = Tiny::load(directory());
  std::vector<Session> sessions(3, model.session()), alone(3, model.session());
  const std::vector<std::vector<std::size_t>> batches{{0}, {0, 1}, {0, 1, 2}, {2, 1}, {2}, {1, 0}, {0, 2, 1}};
  Index steps = 0;
  const auto run_batches = [&] {
    for (const auto& batch : batches) {
      for (int t = 0; t < 3; ++t) {
        std::vector<Session*> members;
        std::vector<Token> tokens;
        for (const std::size_t i : batch) {
          members.push_back(&sessions[i]);
          tokens.push_back(static_cast<Token>(11 * i + static_cast<std::size_t>(t)));
          alone[i].step(tokens.back());
        }
        Session::step(members, tokens);
        steps += 1 + static_cast<Index>(batch.size());
      }
    }
  };
  run_batches();
  auto text = model.session();
  text.prefill(std::vector<Token>(40, 5));  // takes more memory, so that what was recorded is not valid any more
  run_batches();
  for (std::size_t i = 0; i < 3; ++i) {
    double worst = 0;  // on a GPU, sums may come in another order for another size of the batch
    for (std::size_t j = 0; j < sessions[i].logits().size(); ++j) {
      worst = std::max(
          worst, std::abs(static_cast<double>(sessions[i].logits()[j]) - static_cast<double>(alone[i].logits()[j])));
    }
    CHECK(worst <= (counts ? 0.0 : 1e-3));
  }
#if !defined(XLSTM_ON_DEVICE)
  const auto& runtime = model.lease()->runtime();
  const Index warm = runtime.allocations(), before = replays(*model.lease()), steps_before = steps;
  run_batches();
  CHECK(runtime.allocations() == warm);
  CHECK(replays(*model.lease()) - before == steps - steps_before);
#endif
}

#if !defined(XLSTM_ON_DEVICE)

using xlstm::testing::EmulatedRuntime;
using xlstm::testing::EmulationError;

TEST_CASE("a recording keeps what was asked, and does nothing else", "[cuda]") {
  EmulatedRuntime runtime;
  EmulatedRuntime::Queue queue(runtime);
  const auto allocate = [&] { return static_cast<float*>(runtime.allocate(4 * sizeof(float))); };
  float* const a = allocate();
  float* const b = allocate();
  float* const c = allocate();
  std::array<float, 4> values{1, 2, 3, 4};
  const auto upload = [&](float* to) { queue.upload(to, values.data(), sizeof(values)); };
  const auto first_of = [&](const float* from) {
    float value = 0;
    queue.download(&value, from, sizeof(value));
    return value;
  };
  upload(a);
  upload(b);
  const auto product = xlstm::cuda::linear_product(2, 2, 2, 2, 2);
  const auto recording = queue.record([&] {
    queue.copy(b, a, sizeof(values));
    queue.multiply(product, a, b, c, static_cast<const float*>(nullptr));
    CHECK_THROWS_AS(upload(a), EmulationError);
    CHECK_THROWS_AS(queue.download(values.data(), a, 4), EmulationError);
    CHECK_THROWS_AS(queue.synchronize(), EmulationError);
    CHECK(runtime.allocate(4) == nullptr);
  });
  queue.copy(c, a, sizeof(values));
  CHECK(first_of(c) == 1);
  queue.replay(recording);
  CHECK(first_of(c) == 5);
  values = {2, 0, 0, 0};
  upload(a);
  queue.replay(recording);  // addresses are kept, not what lay there
  CHECK(first_of(c) == 4);
  runtime.free(a);
  CHECK_THROWS_AS(queue.replay(recording), EmulationError);
  runtime.free(b);
  runtime.free(c);
}

#endif

}  // namespace
