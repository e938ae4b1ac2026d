// SPDX-License-Identifier: Apache-2.0
// The trainer on a device: it takes the CPU trainer's steps, nothing is allocated after the first, and runs
// are resumed to the bit, wherever they were begun.
#include "xlstm/train/trainer.hpp"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "../io/temporary_directory.hpp"
#include "device_values.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/model/architecture.hpp"
#include "xlstm/train/training_checkpoint.hpp"

using namespace device_values;
using namespace xlstm;

namespace {

constexpr ModelConfig tiny{
    .vocab_size = 13, .embedding_dim = 16, .num_blocks = 1, .num_heads = 2, .ffn_round_up_to_multiple_of = 16};
using Net = Network<tiny>;
template <class T>
using DeviceTrainer = Trainer<Net, Device<T>>;
template <class T>
using HostTrainer = Trainer<Net, cpu::Backend<T>>;

BatchBuffer batch_of(std::uint64_t seed) {
  BatchBuffer batch(2, 6);
  Random random(seed);
  for (Index b = 0; b < 2; ++b) {
    for (auto& t : batch.tokens(b)) t = static_cast<Token>(random.below(tiny.vocab_size));
    for (std::size_t i = 0; i < 5; ++i) batch.targets(b)[i] = batch.tokens(b)[i + 1];
    batch.starts(b)[static_cast<std::size_t>(random.below(6))] = 1;
  }
  return batch;
}

/// Parameters and moments, in the order of the visit.
template <class AnyTrainer>
std::vector<float> everything(AnyTrainer& trainer) {
  std::vector<float> all;
  xlstm::detail::for_each_training_tensor(trainer, [&](const std::string&, const auto&, auto& block, auto& handle) {
    const auto values = block.read(handle);
    all.insert(all.end(), values.begin(), values.end());
  });
  return all;
}
bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

template <class AnyTrainer>
void step(AnyTrainer& trainer, std::uint64_t seed) {
  BatchBuffer batch = batch_of(seed);
  Batch view = batch.view();
  view.continues = seed > 1;
  REQUIRE(!trainer.train_step(view, 1e-3).skipped);
}

RunState state_of(const TrainerCounters& counters) { return {counters, {0, 7}, 99, "a run"}; }

}  // namespace

TEST_CASE("Training on a device takes the steps of training on the CPU", "[cuda]") {
  DeviceTrainer<float> device(5);
  HostTrainer<float> host(5);
  CHECK(same_bits(everything(device), everything(host)));  // the initial values
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    const BatchBuffer first = batch_of(seed), second = batch_of(seed + 10);
    device.accumulate(first.view());
    host.accumulate(first.view());
    const StepResult found = device.train_step(second.view(), 1e-3);
    const StepResult expected = host.train_step(second.view(), 1e-3);
    CHECK(found.targets == expected.targets);
    CHECK(found.loss == Approx(expected.loss).epsilon(1e-5));
    CHECK(found.gradient_norm == Approx(expected.gradient_norm).epsilon(1e-4));
  }
  CHECK(device.counters() == host.counters());
  // AdamW divides by the gradient's own size: where that is rounding alone, so is the direction of a step.
  const std::vector<float> found = everything(device), expected = everything(host);
  double squares = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double difference = static_cast<double>(found[i]) - static_cast<double>(expected[i]);
    squares += difference * difference;
  }
  const double root_mean_square = std::sqrt(squares / static_cast<double>(found.size()));
  CHECK(root_mean_square <= 3e-6);  // three steps of 1e-3
}

TEMPLATE_TEST_CASE("A run on a device that is resumed is one that never stopped, to the bit", "[cuda]", float, bf16) {
  const TemporaryDirectory directory;
  DeviceTrainer<TestType> whole(1), second(99);
  {
    DeviceTrainer<TestType> first(1);
    step(first, 1);
    save_training(directory / "a.safetensors", first, state_of(first.counters()));
    step(whole, 1);
    CHECK(same_bits(everything(first), everything(whole)));
  }
  CHECK(load_training(directory / "a.safetensors", second) == state_of(whole.counters()));
  for (auto* trainer : {&whole, &second}) trainer->train_step(batch_of(2).view(), 1e-3);
  CHECK(same_bits(everything(whole), everything(second)));
  CHECK(whole.counters() == second.counters());
}

TEST_CASE("Weights of 16 bits are the masters, rounded", "[cuda]") {
  DeviceTrainer<bf16> trainer(3);
  const float before = everything(trainer)[0];
  step(trainer, 1);
  const std::vector<float> masters = everything(trainer);
  CHECK(masters[0] != before);
  std::size_t next = 0;
  trainer.with_host_parameters([&](const auto& parameters) {
    for_each_parameter<Net>(parameters, [&](std::string_view, const auto& handle, Initialization) {
      using Element = typename std::remove_cvref_t<decltype(handle)>::Element;
      static_assert(
          std::is_same_v<Element, std::conditional_t<std::remove_cvref_t<decltype(handle)>::is_matrix, bf16, float>>);
      for (Index i = 0; i < handle.count; ++i) REQUIRE(float{handle.data()[i]} == float{Element(masters[next++])});
    });
  });
}

TEST_CASE("A run begun on the CPU goes on on a device, and back", "[cuda]") {
  const TemporaryDirectory directory;
  HostTrainer<float> host(1), back(2);
  DeviceTrainer<float> device(3);
  step(host, 1);
  save_training(directory / "host.safetensors", host, state_of(host.counters()));
  load_training(directory / "host.safetensors", device);
  CHECK(same_bits(everything(device), everything(host)));
  const BatchBuffer batch = batch_of(2);
  CHECK(device.train_step(batch.view(), 1e-3).loss == Approx(host.train_step(batch.view(), 1e-3).loss).epsilon(1e-5));
  save_training(directory / "device.safetensors", device, state_of(device.counters()));
  load_training(directory / "device.safetensors", back);
  CHECK(same_bits(everything(device), everything(back)));
  CHECK(back.counters() == host.counters());
}

#if !defined(XLSTM_ON_DEVICE)
TEST_CASE("A trainer's memory is the device's, and nothing is allocated after the first step", "[cuda]") {
  const auto runtime = std::make_shared<xlstm::testing::EmulatedRuntime>();
  DeviceTrainer<bf16> trainer(1, {}, runtime);
  for (auto* block : {&trainer.masters(), &trainer.gradients(), &trainer.optimizer().first_moment()}) {
    CHECK(runtime->contains(block->memory.data(), block->memory.bytes()));
  }
  CHECK(runtime->contains(trainer.parameters().head.data(), 2));
  step(trainer, 1);
  const Index before = runtime->allocations();
  for (std::uint64_t seed = 2; seed <= 3; ++seed) step(trainer, seed);
  CHECK(runtime->allocations() == before);

  const auto small =
      std::make_shared<xlstm::testing::EmulatedRuntime>(xlstm::testing::EmulatedRuntime::Options{.memory = 20000});
  CHECK_THROWS_WITH(DeviceTrainer<bf16>(1, {}, small),
                    Catch::Matchers::Contains("too little memory for the gradients"));
}
#endif
