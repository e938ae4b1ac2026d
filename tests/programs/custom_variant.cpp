// SPDX-License-Identifier: Apache-2.0
// The example's own module and its network have the gradients that differences in double say.
#include <string>
#include <vector>

#include "catch.hpp"
#include "custom_network.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/testing/gradient_check.hpp"
#include "xlstm/train/trainer.hpp"

using namespace xlstm;

namespace {

template <class M>
void check(const testing::GradientCheckOptions& options) {
  const auto differences = testing::check_gradients<M>(options);
  INFO("worst: " << differences.worst().name << " " << differences.worst().relative());
  CHECK(differences.worst().relative() <= 1e-6);
}

}  // namespace

TEST_CASE("the moving average's gradient: input, parameters, first state, borders", "[programs]") {
  for (const Index length : {Index{1}, Index{9}}) {
    for (const bool documents : {false, true}) {
      check<custom::MovingAverage<5>>({.sequences = 3, .length = length, .documents = documents});
    }
  }
}

TEST_CASE("the gradient through all blocks of the custom network, states included", "[programs]") {
  check<custom::Blocks>({.length = 3, .chunk_size = 2, .documents = true, .samples = 2});
}

TEST_CASE("the custom network's gradient from tokens to loss", "[programs]") {
  using N = custom::Network;
  Trainer<N, reference::Backend<double>> trainer(1);
  Random random(2);
  for_each_parameter<N>(trainer.masters().parameters, [&](std::string_view, auto& handle, Initialization start) {
    const bool norm = start.kind == Initialization::Kind::constant && start.first == 1;
    for (Index i = 0; i < handle.count; ++i) handle.data()[i] = (norm ? 1 : 0) + 0.2 * random.normal();
  });
  BatchBuffer batch(1, 3);
  for (std::size_t t = 0; t < 3; ++t) {
    batch.tokens(0)[t] = static_cast<Token>(random.below(custom::bytes));
    batch.targets(0)[t] = static_cast<Token>(random.below(custom::bytes));
  }
  trainer.accumulate(batch.view());
  std::vector<std::span<const double>> gradients;
  for_each_parameter<N>(trainer.gradients().parameters, [&](std::string_view, auto& handle, Initialization) {
    gradients.emplace_back(handle.data(), static_cast<std::size_t>(handle.count));
  });
  testing::Differences differences;
  std::size_t next = 0;
  const auto loss = [&] { return trainer.evaluate(batch.view()).nll; };
  for_each_parameter<N>(trainer.masters().parameters, [&](std::string_view name, auto& handle, Initialization) {
    // Of the embedding, the row of a token that is there: most others have no gradient.
    const bool embedding = name == "backbone.embeddings.weight";
    const auto from = embedding ? static_cast<std::size_t>(batch.tokens(0)[0] * custom::width) : 0;
    const auto count = static_cast<std::size_t>(embedding ? custom::width : handle.count);
    const std::span<double> values(handle.data() + from, count);
    differences.add(testing::compare_with_differences(std::string(name), values, gradients[next++].subspan(from, count),
                                                      loss, 1e-4, 2));
  });
  INFO("worst: " << differences.worst().name << " " << differences.worst().relative());
  CHECK(differences.worst().relative() <= 1e-6);
}
