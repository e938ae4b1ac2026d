// SPDX-License-Identifier: Apache-2.0
// Whole models on a device: the published checkpoints give the published code's logits and greedy tokens,
// sessions are values whose states are in the device's memory, and files of sessions are the CPU's too. Short texts, as
// the emulation is slow.
#include "xlstm/model/model.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "device.hpp"
#include "io/temporary_directory.hpp"
#include "model/reference_models.hpp"
#include "xlstm/cuda/backend.hpp"
#include "xlstm/generate/generation.hpp"
#include "xlstm/generate/session_file.hpp"
#include "xlstm/io/load.hpp"

using namespace reference_models;
using xlstm::bf16;
using xlstm::f16;
using xlstm::Form;
using xlstm::Index;
using xlstm::LanguageModel;
using xlstm::ModelConfig;
using xlstm::Run;
using xlstm::Token;
using xlstm::tests::DeviceRuntime;

namespace {

template <ModelConfig config, class T>
using DeviceModel = LanguageModel<config, xlstm::cuda::Backend<T, DeviceRuntime>>;

/// How far logits are from the published ones: the largest difference, and root mean squares.
struct Difference {
  double largest = 0;
  double error = 0;
  double logits = 0;
};

/// Logits of the first `length` tokens of both sequences, read in pieces of `piece`.
template <class Model>
Difference difference(const Model& model, const Expected& expected, Form form, Index chunk_size, Index length,
                      Index piece) {
  std::vector<typename Model::SequenceState> states(2, model.new_state());
  const std::array<float*, 2> slots{states[0].data(), states[1].data()};
  const std::vector<double>& wanted = expected.tensors["logits"];
  const auto lease = model.lease();
  Difference d;
  Index count = 0;
  for (Index done = 0; done < length; done += piece) {
    const Index n = std::min(piece, length - done);
    std::vector<Token> tokens;
    for (Index b = 0; b < 2; ++b) {
      for (Index t = done; t < done + n; ++t) {
        tokens.push_back(expected.ids[static_cast<std::size_t>(b * expected.length + t)]);
      }
    }
    const Run run{.sequences = 2, .length = n, .form = form, .chunk_size = chunk_size};
    model.run(*lease, run, tokens, {slots.data(), 0}, Model::Rows::all, [&](Index first, auto logits) {
      for (Index r = 0; r < logits.rows(); ++r) {
        const Index row = (first + r) / n * expected.length + done + (first + r) % n;
        for (Index c = 0; c < Model::vocab_size; ++c) {
          const double published = wanted[static_cast<std::size_t>(row * Model::vocab_size + c)];
          const double error = std::abs(static_cast<double>(logits(r, c)) - published);
          d.largest = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(d.largest, error);
          d.error += error * error;
          d.logits += published * published;
          ++count;
        }
      }
    });
  }
  d.error = std::sqrt(d.error / static_cast<double>(count));
  d.logits = std::sqrt(d.logits / static_cast<double>(count));
  return d;
}

template <class Model>
std::vector<Token> continued(const Model& model, const Expected& expected, Index tokens) {
  auto session = model.session();
  std::vector<Token> made;
  const auto prompt = expected.json["prompt"].template get<std::vector<Token>>();
  for (const Token t : session.generate(prompt, {.max_tokens = tokens})) made.push_back(t);
  return made;
}

std::vector<Token> greedy(const Expected& expected, Index tokens) {
  const auto all = expected.json["greedy"].get<std::vector<Token>>();
  return {all.begin(), all.begin() + tokens};
}

/// In fp32 the tolerance is the CPU's; greedy tokens are the published ones.
template <ModelConfig config>
void check_in_float(const std::string& name) {
  INFO(name);
  const Expected expected(name);
  const auto model = DeviceModel<config, float>::load(expected.directory);
  CHECK(difference(model, expected, Form::chunkwise, 16, 40, 40).largest <= expected.logit_tolerance());
  CHECK(difference(model, expected, Form::recurrent, 0, 6, 1).largest <= expected.logit_tolerance());
  CHECK(continued(model, expected, 12) == greedy(expected, 12));
}

TEST_CASE("published checkpoints on a device in fp32 give the published code's numbers", "[cuda]") {
  check_in_float<tiny_f32>("tiny-f32");
  check_in_float<odd_sizes_f32>("odd-sizes-f32");
}

TEST_CASE("weights that are stored in 16 bits, in fp32", "[cuda]") { check_in_float<fused_bias_f16>("fused-bias-f16"); }

/// The root mean square of the logits' errors, relative to the logits, over both ways to read a text.
template <ModelConfig config, class T>
double relative_error(const std::string& name) {
  const Expected expected(name);
  const auto model = DeviceModel<config, T>::load(expected.directory);
  const Difference chunks = difference(model, expected, Form::chunkwise, 16, 40, 40);
  const Difference steps = difference(model, expected, Form::recurrent, 0, 12, 1);
  CHECK(chunks.error / chunks.logits < 4 * steps.error / steps.logits);
  CHECK(steps.error / steps.logits < 4 * chunks.error / chunks.logits);
  return std::max(chunks.error / chunks.logits, steps.error / steps.logits);
}

// These weights are random, and large: what the published code's fp32 gives moves by as much when activations are
// rounded. Three bits more must make the error eight times smaller, or it were something else than rounding.
TEST_CASE("weights and activations of 16 bits cost their rounding", "[cuda]") {
  CHECK(relative_error<sharded_bf16, bf16>("sharded-bf16") < 0.1);
  const double with_bf16 = relative_error<fused_bias_f16, bf16>("fused-bias-f16");
  const double with_f16 = relative_error<fused_bias_f16, f16>("fused-bias-f16");
  CHECK(with_f16 < 0.02);
  CHECK(with_bf16 / with_f16 > 4);
  CHECK(with_bf16 / with_f16 < 16);
}

// ---- sessions ----

using Tiny = DeviceModel<tiny_f32, float>;
using TinyOnCpu = LanguageModel<tiny_f32, xlstm::cpu::Backend<float>>;

const std::string& tiny_directory() {
  static const std::string directory = std::string(XLSTM_TEST_DATA) + "/models/tiny-f32";
  return directory;
}

/// (A template, as nvcc cannot write down the type of an array of such sessions.)
template <class S>
void step_both(S& a, S& b, const std::vector<Token>& tokens) {
  const std::vector<S*> both{&a, &b};
  S::step(both, tokens);
}

TEST_CASE("a session on a device is a value: it branches, is reset, and steps in a batch", "[cuda]") {
  const auto model = Tiny::load(tiny_directory());
  const auto logits = [](auto& session) {
    return std::vector<float>(session.logits().begin(), session.logits().end());
  };
  auto session = model.session();
  session.prefill(std::vector<Token>{3, 1, 4, 1, 5});
  auto branch = session;
  CHECK(branch.state() == session.state());
  session.step(9);
  CHECK(branch.state() != session.state());
  branch.step(9);
  CHECK(branch.state() == session.state());
  CHECK(logits(branch) == logits(session));

  auto other = model.session();
  other.prefill(std::vector<Token>{2, 7});
  auto alone = other;
  alone.step(8);
  branch.step(1);
  step_both(session, other, {1, 8});
  for (Index i = 0; i < Tiny::vocab_size; ++i) {
    const auto at = static_cast<std::size_t>(i);
    CHECK_THAT(session.logits()[at], WithinAbs(static_cast<double>(branch.logits()[at]), 1e-4));
    CHECK_THAT(other.logits()[at], WithinAbs(static_cast<double>(alone.logits()[at]), 1e-4));
  }

  other.reset();
  CHECK(other.state() == std::vector<float>(static_cast<std::size_t>(Tiny::state_size)));
}

TEST_CASE("a session that was saved on the CPU goes on on a device, and the other way", "[cuda]") {
  const TemporaryDirectory directory;
  const auto file = directory.path() / "session";
  const auto device = Tiny::load(tiny_directory());
  const auto cpu = TinyOnCpu::load(tiny_directory());
  REQUIRE(device.fingerprint() == cpu.fingerprint());
  auto a = cpu.session();
  a.prefill(std::vector<Token>{3, 1, 4, 1, 5});
  xlstm::save_session(a, file);
  auto b = xlstm::load_session(device, file);
  a.step(9);
  b.step(9);
  CHECK(b.position() == 6);
  for (std::size_t i = 0; i < a.logits().size(); ++i) {
    CHECK_THAT(b.logits()[i], WithinAbs(static_cast<double>(a.logits()[i]), 1e-3));
  }
  xlstm::save_session(b, file);
  auto c = xlstm::load_session(cpu, file);
  CHECK(c.logits()[7] == b.logits()[7]);
  a.step(2);
  c.step(2);
  for (std::size_t i = 0; i < a.logits().size(); ++i) {
    CHECK_THAT(c.logits()[i], WithinAbs(static_cast<double>(a.logits()[i]), 1e-3));
  }
}

TEST_CASE("documents inside a run forget what was before, on a device", "[cuda]") {
  const auto model = Tiny::load(tiny_directory());
  const std::vector<Token> tokens{3, 1, 4, 1, 5, 9, 2, 6};
  const std::vector<std::uint8_t> starts{0, 0, 0, 0, 0, 1, 0, 0};
  for (const Form form : {Form::chunkwise, Form::recurrent}) {
    auto state = model.new_state();
    float* slot = state.data();
    const auto lease = model.lease();
    std::vector<float> last;
    const Run run{.length = 8, .starts = starts.data(), .form = form, .chunk_size = 4};
    model.run(*lease, run, tokens, {&slot, 0}, Tiny::Rows::last,
              [&](Index, auto logits) { last.assign(logits.row(0), logits.row(0) + Tiny::vocab_size); });
    auto fresh = model.session();
    fresh.prefill(std::vector<Token>{9, 2, 6});
    for (std::size_t i = 0; i < last.size(); ++i) {
      CHECK_THAT(last[i], WithinAbs(static_cast<double>(fresh.logits()[i]), 1e-3));
    }
  }
}

#if !defined(XLSTM_ON_DEVICE)  // what a GPU does not count, or has too much of

TEST_CASE("a warm model on a device allocates nothing", "[cuda]") {
  const auto model = Tiny::load(tiny_directory());
  auto session = model.session();
  const std::vector<Token> prompt{3, 1, 4, 1, 5, 9, 2, 6, 5};
  session.prefill(prompt);
  session.prefill(prompt);
  session.step(1);
  const auto& runtime = model.lease()->runtime();
  const Index warm = runtime.allocations();
  session.prefill(prompt);
  session.step(1);
  session.reset();
  CHECK(runtime.allocations() == warm);
}

TEST_CASE("a model that a device has no memory for is refused", "[cuda]") {
  CHECK_THROWS_WITH(Tiny::load(tiny_directory(), {.memory = 100000}), Contains("too little memory for the weights"));
  const auto model = Tiny::load(tiny_directory(), {.memory = 800000});
  CHECK_THROWS_WITH(
      [&] {
        for (std::vector<xlstm::Session<Tiny>> sessions;;) sessions.push_back(model.session());
      }(),
      Contains("too little memory for a sequence's state"));
  auto session = model.session();
  CHECK_THROWS_WITH(session.prefill(std::vector<Token>(300, 1)), Contains("too little memory for activations"));
  CHECK(session.position() == 0);
}

#endif

}  // namespace
