// SPDX-License-Identifier: Apache-2.0
// A whole 2-block model, from tokens to loss: the gradient of every parameter against central differences in double,
// and the CPU's fp32 gradient against the double one.
#include <cmath>
#include <string>

#include "catch.hpp"
#include "train/gradient_case.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/model/architecture.hpp"
#include "xlstm/reference/backend.hpp"
#include "xlstm/testing/gradient_check.hpp"
#include "xlstm/train/trainer.hpp"

using namespace xlstm;

namespace {

constexpr ModelConfig published{
    .vocab_size = 13, .embedding_dim = 12, .num_blocks = 2, .num_heads = 3, .ffn_round_up_to_multiple_of = 4};
constexpr ModelConfig variant{.vocab_size = 13,
                              .embedding_dim = 12,
                              .num_blocks = 2,
                              .num_heads = 2,
                              .use_bias = true,
                              .ffn_round_up_to_multiple_of = 4,
                              .gate_soft_cap = 0,
                              .output_logit_soft_cap = 2,
                              .tie_word_embeddings = true,
                              .input_gate = InputGate::sigmoid};

template <ModelConfig config>
void check() {
  using R = reference::Backend<double>;
  using N = Network<config>;
  const tests::ShortText text(config.vocab_size);
  const TrainerOptions options = tests::gradient_options();
  Trainer<N, R> trainer(1, options);
  tests::randomize<N, float>(trainer.masters());
  trainer.accumulate(text.batch());
  const auto loss = [&] {
    const LossSum sum = trainer.evaluate(text.batch());
    return sum.nll + 0.01 * sum.z_loss;
  };
  testing::Differences differences;
  std::vector<std::span<const double>> gradients;
  for_each_parameter<N>(trainer.gradients().parameters, [&](std::string_view, auto& handle, Initialization) {
    gradients.emplace_back(handle.data(), static_cast<std::size_t>(handle.count));
  });
  std::size_t next = 0;
  for_each_parameter<N>(trainer.masters().parameters, [&](std::string_view name, auto& handle, Initialization) {
    const std::span<double> values(handle.data(), static_cast<std::size_t>(handle.count));
    differences.add(testing::compare_with_differences(std::string(name), values, gradients[next++], loss, 1e-4, 12));
  });
  INFO("worst: " << differences.worst().name << " " << differences.worst().relative());
  CHECK(differences.worst().relative() <= 1e-6);

  Trainer<N, cpu::Backend<float>> fast(1, options);
  tests::randomize<N, float>(fast.masters());
  fast.accumulate(text.batch());
  testing::Differences rounding;
  next = 0;
  for_each_parameter<N>(fast.gradients().parameters, [&](std::string_view name, auto& handle, Initialization) {
    testing::TensorDifference d{std::string(name)};
    for (Index i = 0; i < handle.count; ++i) {
      d.compare(static_cast<double>(handle.data()[i]), gradients[next][static_cast<std::size_t>(i)]);
    }
    ++next;
    rounding.add(d);
  });
  INFO("CPU, worst: " << rounding.worst().name << " " << rounding.worst().relative());
  CHECK(rounding.worst().relative() <= 2e-4);  // the cell's tolerance in fp32; two of them follow one another
}

}  // namespace

TEST_CASE("the published architecture's gradient, from tokens to loss") { check<published>(); }

TEST_CASE("the same with biases, a sigmoid gate, no gate cap, a tight logit cap and tied embeddings") {
  check<variant>();
}
