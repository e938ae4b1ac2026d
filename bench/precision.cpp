// SPDX-License-Identifier: Apache-2.0
// What the precision of the CPU's products (cpu/precision.hpp) does to training, on AMX: how far the gradients of a
// model of 6 blocks (D 256, random weights and tokens, 256 of them) are from those in double, of all parameters
// together and of the worst of them; and the loss of one batch over 200 steps.
//     build/bench/precision
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "xlstm/core/random.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/model/architecture.hpp"
#include "xlstm/reference/backend.hpp"
#include "xlstm/train/trainer.hpp"

namespace {

using xlstm::Index;

constexpr xlstm::ModelConfig config{.vocab_size = 256, .embedding_dim = 256, .num_blocks = 6, .num_heads = 4};
using Network = xlstm::Network<config>;
constexpr std::uint64_t seed = 1;

xlstm::BatchBuffer random_batch() {
  xlstm::BatchBuffer batch(1, 256);
  xlstm::Random random(2);
  for (auto& token : batch.tokens(0)) token = static_cast<xlstm::Token>(random.below(config.vocab_size));
  for (auto& target : batch.targets(0)) target = static_cast<xlstm::Token>(random.below(config.vocab_size));
  return batch;
}

struct Tensor {
  std::string name;
  std::vector<double> values;
};

template <class Weights>
std::vector<Tensor> tensors(Weights& weights) {
  std::vector<Tensor> all;
  xlstm::for_each_parameter<Network>(
      weights.parameters, [&](std::string_view name, auto& handle, xlstm::Initialization) {
        all.push_back({std::string(name), {handle.data(), handle.data() + handle.count}});
      });
  return all;
}

/// Parameters that every type holds: the initial ones and some noise, as gates begin with zeros.
std::vector<Tensor> parameters() {
  xlstm::Trainer<Network, xlstm::cpu::Backend<float>> trainer(seed);
  std::vector<Tensor> all = tensors(trainer.masters());
  xlstm::Random random(3);
  for (Tensor& tensor : all) {
    for (double& x : tensor.values) x = static_cast<float>(x + 0.1 * random.uniform() - 0.05);
  }
  return all;
}

template <class B>
std::vector<Tensor> gradients(const std::vector<Tensor>& parameters) {
  xlstm::Trainer<Network, B> trainer(seed);
  auto from = parameters.begin();
  xlstm::for_each_parameter<Network>(trainer.masters().parameters, [&](std::string_view, auto& handle,
                                                                       xlstm::Initialization) {
    using T = std::remove_reference_t<decltype(handle.data()[0])>;
    std::transform(from->values.begin(), from->values.end(), handle.data(), [](double x) { return static_cast<T>(x); });
    ++from;
  });
  const xlstm::BatchBuffer batch = random_batch();
  trainer.accumulate(batch.view());
  return tensors(trainer.gradients());
}

template <class Precision>
void measure(const char* name, const std::vector<Tensor>& from, const std::vector<Tensor>& exact) {
  using B = xlstm::cpu::Backend<float, xlstm::cpu::FloatActivations, Precision>;
  const std::vector<Tensor> found = gradients<B>(from);
  double difference = 0, size = 0, worst = 0;
  std::string_view worst_name;
  for (std::size_t t = 0; t < exact.size(); ++t) {
    double own_difference = 0, own_size = 0;
    for (std::size_t i = 0; i < exact[t].values.size(); ++i) {
      own_difference += std::pow(found[t].values[i] - exact[t].values[i], 2);
      own_size += std::pow(exact[t].values[i], 2);
    }
    if (own_difference > worst * own_size) {
      worst = own_difference / own_size;
      worst_name = exact[t].name;
    }
    difference += own_difference;
    size += own_size;
  }
  std::printf("| %s | %.1e | %.1e (`%.*s`) |", name, std::sqrt(difference / size), std::sqrt(worst),
              static_cast<int>(worst_name.size()), worst_name.data());
  xlstm::Trainer<Network, B> trainer(seed);
  const xlstm::BatchBuffer batch = random_batch();
  double loss = 0;
  for (int step = 1; step <= 200; ++step) {
    loss = trainer.train_step(batch.view(), 1e-3).loss;
    if (step == 1 || step == 50 || step == 100 || step == 200) std::printf(" %.6f |", loss);
  }
  std::printf("\n");
}

}  // namespace

int main() {
  const std::vector<Tensor> from = parameters();
  const std::vector<Tensor> exact = gradients<xlstm::reference::Backend<double>>(from);
  std::printf("| precision | gradients' error | of the worst parameter | loss at step 1 | 50 | 100 | 200 |\n");
  std::printf("|---|---|---|---|---|---|---|\n");
  measure<xlstm::cpu::HighestPrecision>("highest", from, exact);
  measure<xlstm::cpu::HighPrecision>("high", from, exact);
}
