// SPDX-License-Identifier: Apache-2.0
// Models with quantised weights on a device: the CPU's logits for the same codes and scales, whether the
// files hold them or loading makes them.
#include <array>
#include <vector>

#include "catch.hpp"
#include "device.hpp"
#include "io/temporary_directory.hpp"
#include "model/reference_models.hpp"
#include "xlstm/cuda/backend.hpp"
#include "xlstm/generate/generation.hpp"
#include "xlstm/io/load.hpp"
#include "xlstm/io/quantize_checkpoint.hpp"

using namespace reference_models;
using xlstm::bf16;
using xlstm::Index;
using xlstm::LanguageModel;
using xlstm::Token;
using xlstm::tests::DeviceRuntime;

namespace {

template <class F, class T>
using Device = xlstm::cuda::Backend<F, DeviceRuntime, xlstm::cuda::MLSTMChunkwiseTuning, T>;

template <class F, class T>
using OnDevice = LanguageModel<odd_sizes_f32, Device<F, T>>;
template <class F>
using OnCpu = LanguageModel<odd_sizes_f32, xlstm::cpu::Backend<F>>;

const std::string& published() {
  static const std::string directory = std::string(XLSTM_TEST_DATA) + "/models/odd-sizes-f32";
  return directory;
}

/// The largest difference of the sessions' logits, relative to the largest logit.
template <class A, class B>
double difference(A& a, B& b) {
  double largest = 0, worst = 0;
  for (std::size_t i = 0; i < a.logits().size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(b.logits()[i])));
    worst = std::max(worst, std::abs(static_cast<double>(a.logits()[i]) - static_cast<double>(b.logits()[i])));
  }
  return worst / largest;
}

/// After a prompt read in chunks, more rows than the kernel for few takes, and after steps.
template <class F, class T>
double difference_from_cpu(const std::filesystem::path& directory) {
  const auto device = OnDevice<F, T>::load(directory);
  const auto cpu = OnCpu<F>::load(directory, {.threads = 1});
  auto a = device.session();
  auto b = cpu.session();
  std::vector<Token> prompt;
  for (Token t = 0; t < 18; ++t) prompt.push_back(t * 7 % 60);
  a.prefill(prompt);
  b.prefill(prompt);
  double worst = difference(a, b);
  for (const Token token : {3, 5, 9}) {
    a.step(token);
    b.step(token);
    worst = std::max(worst, difference(a, b));
  }
  return worst;
}

// In fp32 what differs is the order of sums.
TEMPLATE_TEST_CASE("quantised weights on a device give the CPU's logits", "[cuda]", xlstm::int8, xlstm::int4) {
  const TemporaryDirectory directory;
  xlstm::cpu::ThreadPool threads(1);
  xlstm::quantize_checkpoint<TestType>(xlstm::Checkpoint::open(published()), directory.path() / "quantized", threads);
  CHECK(difference_from_cpu<TestType, float>(directory.path() / "quantized") < 1e-4);
}

// The rounding of activations is some percent of the logits with random weights (tests/cuda/model.cpp).
TEST_CASE("quantised weights with bf16 activations cost their rounding", "[cuda]") {
  CHECK(difference_from_cpu<xlstm::int4, bf16>(published()) < 0.2);
}

TEST_CASE("quantised weights are the CPU's bytes: one fingerprint, one size", "[cuda]") {
  using F = xlstm::int4;
  CHECK(OnDevice<F, bf16>::weight_bytes() == OnCpu<F>::weight_bytes());
  const auto device = OnDevice<F, bf16>::load(published());
  const auto cpu = OnCpu<F>::load(published(), {.threads = 1});
  CHECK(device.fingerprint() == cpu.fingerprint());
}

TEST_CASE("several sessions with quantised weights step in a batch, and nothing is allocated once warm", "[cuda]") {
  const auto model = OnDevice<xlstm::int8, float>::load(published());
  auto a = model.session();
  auto b = model.session();
  a.prefill(std::vector<Token>{3, 1, 4});
  b.prefill(std::vector<Token>{2, 7});
  auto alone = b;
  const std::array both{&a, &b};
  for (int warm = 0; warm < 2; ++warm)
    xlstm::Session<OnDevice<xlstm::int8, float>>::step(both, std::array<Token, 2>{1, 8});
  for (int i = 0; i < 2; ++i) alone.step(8);
  CHECK(difference(b, alone) < 1e-5);
#if !defined(XLSTM_ON_DEVICE)  // a GPU does not count
  const auto& runtime = model.lease()->runtime();
  const Index allocations = runtime.allocations();
  xlstm::Session<OnDevice<xlstm::int8, float>>::step(both, std::array<Token, 2>{1, 8});
  CHECK(runtime.allocations() == allocations);
#endif
}

}  // namespace
