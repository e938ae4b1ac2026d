// SPDX-License-Identifier: Apache-2.0
// A training step (forward, loss, backward, clipping, AdamW) of two models, and the most memory that it took:
//     build/bench/training_step [small|160M] [--steps N] [--threads N] [--precision highest|high]
// The published PyTorch code on the same machine, in turns: bench/peers/training_step.py.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>

#include "xlstm/cpu/backend.hpp"
#include "xlstm/cpu/precision.hpp"
#include "xlstm/model/architecture.hpp"
#include "xlstm/model/presets.hpp"
#include "xlstm/train/trainer.hpp"

namespace {

constexpr xlstm::ModelConfig small{.vocab_size = 256, .embedding_dim = 256, .num_blocks = 6, .num_heads = 4};

// The most memory that this process had. (Not getrusage: that starts from what the process had that started this one.)
double peak_gigabytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) * 1024 / 1e9;
  }
  return 0;
}

template <xlstm::ModelConfig config, class Precision>
void measure(const char* name, xlstm::Index sequences, xlstm::Index length, int steps, int threads) {
  using B = xlstm::cpu::Backend<float, xlstm::cpu::FloatActivations, Precision>;
  xlstm::Trainer<xlstm::Network<config>, B> trainer(
      1, {}, std::make_shared<typename B::Resources>(typename B::Options{threads}));
  xlstm::BatchBuffer batch(sequences, length);
  xlstm::Random random(2);
  for (xlstm::Index b = 0; b < sequences; ++b) {
    for (auto& token : batch.tokens(b)) token = static_cast<xlstm::Token>(random.below(config.vocab_size));
    for (auto& target : batch.targets(b)) target = static_cast<xlstm::Token>(random.below(config.vocab_size));
  }
  double best = 1e30;
  constexpr int warm_up = 2;  // the first step allocates, the second is the first in one block of memory
  for (int step = 0; step < warm_up + steps; ++step) {
    const auto start = std::chrono::steady_clock::now();
    trainer.train_step(batch.view(), 1e-4);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (step >= warm_up) best = std::min(best, seconds);
  }
  std::printf("{\"model\": \"%s\", \"seconds\": %.4f, \"peak_gb\": %.3f}\n", name, best, peak_gigabytes());
}

template <class Precision>
bool measure(std::string_view model, int steps, int threads) {
  if (model == "small") {
    measure<small, Precision>("small", 8, 256, steps, threads);
  } else if (model == "160M") {
    measure<xlstm::presets::xlstm_160m, Precision>("160M", 1, 512, steps, threads);
  } else {
    return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  std::string_view model = "small", precision = "highest";
  int steps = 5;
  int threads = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--steps" && i + 1 < argc) {
      steps = std::atoi(argv[++i]);
    } else if (argument == "--threads" && i + 1 < argc) {
      threads = std::atoi(argv[++i]);
    } else if (argument == "--precision" && i + 1 < argc) {
      precision = argv[++i];
    } else {
      model = argument;
    }
  }
  const bool measured = precision == "highest" ? measure<xlstm::cpu::HighestPrecision>(model, steps, threads)
                        : precision == "high"  ? measure<xlstm::cpu::HighPrecision>(model, steps, threads)
                                               : false;
  if (!measured) {
    std::fprintf(stderr, "usage: training_step [small|160M] [--steps N] [--threads N] [--precision highest|high]\n");
    return 2;
  }
  return 0;
}
