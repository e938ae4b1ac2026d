// SPDX-License-Identifier: Apache-2.0
// The published checkpoints' format and the published code's numbers: logits on every path, greedy tokens, parameter
// counts, mean NLL, states.
#include "xlstm/model/model.hpp"

#include <array>
#include <cmath>
#include <limits>

#include "catch.hpp"
#include "model/reference_models.hpp"
#include "xlstm/generate/generation.hpp"
#include "xlstm/io/load.hpp"
#include "xlstm/reference/backend.hpp"

using namespace xlstm;
using namespace reference_models;

namespace {

/// Logits of all tokens of both sequences, read in pieces of `piece` tokens.
template <class Model>
std::vector<double> all_logits(const Model& model, const Expected& expected, Form form, Index chunk_size, Index piece,
                               std::vector<std::vector<typename Model::State>>& states) {
  const Index s = expected.length;
  std::vector<double> result(static_cast<std::size_t>(2 * s * Model::vocab_size));
  states.assign(2, std::vector<typename Model::State>(static_cast<std::size_t>(Model::state_size)));
  std::array<typename Model::State*, 2> slots{states[0].data(), states[1].data()};
  const auto lease = model.lease();
  for (Index done = 0; done < s; done += piece) {
    const Index n = std::min(piece, s - done);
    std::vector<Token> tokens;
    for (Index b = 0; b < 2; ++b) {
      for (Index t = done; t < done + n; ++t) tokens.push_back(expected.ids[static_cast<std::size_t>(b * s + t)]);
    }
    const Run run{.sequences = 2, .length = n, .form = form, .chunk_size = chunk_size};
    model.run(*lease, run, tokens, {slots.data(), 0}, Model::Rows::all, [&](Index first, auto logits) {
      for (Index r = 0; r < logits.rows(); ++r) {
        const Index b = (first + r) / n;
        const Index t = done + (first + r) % n;
        std::copy_n(logits.row(r), Model::vocab_size, result.data() + (b * s + t) * Model::vocab_size);
      }
    });
  }
  return result;
}

/// std::max would pass over a NaN, so a value that is not finite is refused here.
double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, std::abs(a[i] - b[i]));
  }
  return largest;
}

double mean_nll(const std::vector<double>& logits, const Expected& expected, Index sequence, Index vocab_size) {
  double sum = 0;
  for (Index t = 0; t + 1 < expected.length; ++t) {
    const double* z = logits.data() + (sequence * expected.length + t) * vocab_size;
    double largest = z[0];
    for (Index c = 1; c < vocab_size; ++c) largest = std::max(largest, z[c]);
    double total = 0;
    for (Index c = 0; c < vocab_size; ++c) total += std::exp(z[c] - largest);
    const Token next = expected.ids[static_cast<std::size_t>(sequence * expected.length + t + 1)];
    sum += largest + std::log(total) - z[next];
  }
  return sum / static_cast<double>(expected.length - 1);
}

/// exp(m)·C and exp(m)·n of every block, which is what the state determines, relative to the largest value.
template <class Model>
void check_states(const Expected& expected, const std::vector<std::vector<typename Model::State>>& states,
                  double tolerance) {
  Model::Network::for_each_state([&](const std::string& name, Index offset, Index rows, Index cols) {
    const std::size_t dot = name.find('.');
    const std::string block = name.substr(0, dot);
    const std::string part = name.substr(name.rfind('.') + 1);
    if (part == "m") return;
    const std::vector<double>& want = expected.tensors["state." + block + "." + part];
    const std::vector<double>& want_m = expected.tensors["state." + block + ".m"];
    const auto heads = static_cast<Index>(want_m.size()) / 2;
    Index m_offset = -1;
    Model::Network::for_each_state([&](const std::string& other, Index at, Index, Index) {
      if (other == name.substr(0, name.rfind('.') + 1) + "m") m_offset = at;
    });
    REQUIRE(m_offset >= 0);
    double largest = 0;
    double difference = 0;
    for (Index b = 0; b < 2; ++b) {
      const auto& state = states[static_cast<std::size_t>(b)];
      const Index size = rows * cols;
      for (Index i = 0; i < size; ++i) {
        const Index head = i / (size / heads);
        const double m = static_cast<double>(state[static_cast<std::size_t>(m_offset + head)]);
        const double wanted = want[static_cast<std::size_t>(b * size + i)];
        const double got = static_cast<double>(state[static_cast<std::size_t>(offset + i)]) *
                           std::exp(m - want_m[static_cast<std::size_t>(b * heads + head)]);
        REQUIRE(std::isfinite(got));
        largest = std::max(largest, std::abs(wanted));
        difference = std::max(difference, std::abs(got - wanted));
      }
    }
    INFO(name);
    CHECK(difference <= tolerance * largest);
  });
}

template <ModelConfig config, class B>
void check_model(const std::string& name) {
  using Model = LanguageModel<config, B>;
  INFO(name);
  const Expected expected(name);
  CHECK(Model::parameter_count() == expected.json["parameters"].get<Index>());
  const Model model = Model::load(expected.directory);

  struct Path {
    Form form;
    Index chunk_size;
    Index piece;
  };
  const Index s = expected.length;
  std::vector<Path> paths{{Form::chunkwise, 64, s}, {Form::parallel, 0, s}, {Form::chunkwise, 16, 7}};
  if (std::is_same_v<typename B::Arithmetic, float>) {
    for (const Index chunk : {Index{1}, Index{16}, Index{100}, s + 100}) paths.push_back({Form::chunkwise, chunk, s});
    paths.push_back({Form::recurrent, 0, s});
    paths.push_back({Form::recurrent, 0, 1});
    paths.push_back({Form::chunkwise, 64, 33});
    paths.push_back({Form::parallel, 0, 50});
  }
  for (const Path& path : paths) {
    INFO("form " << static_cast<int>(path.form) << ", chunk " << path.chunk_size << ", pieces of " << path.piece);
    std::vector<std::vector<typename Model::State>> states;
    const std::vector<double> logits = all_logits(model, expected, path.form, path.chunk_size, path.piece, states);
    CHECK(largest_difference(logits, expected.tensors["logits"]) <= expected.logit_tolerance());
    for (Index b = 0; b < 2; ++b) {
      const double wanted = expected.json["mean_nll"][static_cast<std::size_t>(b)].get<double>();
      CHECK(std::abs(mean_nll(logits, expected, b, Model::vocab_size) - wanted) <= 1e-4);
    }
    // The published states went through fp32 sums of up to 200 terms in another order.
    check_states<Model>(expected, states, 1e-3);
  }

  std::vector<Token> prompt = expected.json["prompt"].get<std::vector<Token>>();
  const auto greedy = expected.json["greedy"].get<std::vector<Token>>();
  auto session = model.session();
  std::vector<Token> made;
  for (const Token t : session.generate(prompt, {.max_tokens = static_cast<Index>(greedy.size())})) made.push_back(t);
  CHECK(made == greedy);
}

}  // namespace

TEST_CASE("published checkpoints on the CPU give the published code's numbers, weights as stored") {
  check_model<tiny_f32, cpu::Backend<float>>("tiny-f32");
  check_model<sharded_bf16, cpu::Backend<bf16>>("sharded-bf16");
  check_model<fused_bias_f16, cpu::Backend<f16>>("fused-bias-f16");
  check_model<odd_sizes_f32, cpu::Backend<float>>("odd-sizes-f32");
}

TEST_CASE("published checkpoints converted to fp32 give the same") {
  check_model<sharded_bf16, cpu::Backend<float>>("sharded-bf16");
  check_model<fused_bias_f16, cpu::Backend<float>>("fused-bias-f16");
}

TEST_CASE("published checkpoints on the reference backend give the same") {
  check_model<odd_sizes_f32, reference::Backend<float>>("odd-sizes-f32");
}

TEST_CASE("the reference backend in double gives the published logits in every form and chunk size") {
  using Model = LanguageModel<tiny_f32, reference::Backend<double>>;
  const Expected expected("tiny-f32");
  const Model model = Model::load(expected.directory);
  constexpr Index length = 40;  // enough for chunks of 16 that do not fill it; the reference is slow
  struct Path {
    Form form;
    Index chunk_size;
  };
  for (const Path path : {Path{Form::recurrent, 0}, Path{Form::parallel, 0}, Path{Form::chunkwise, 1},
                          Path{Form::chunkwise, 16}, Path{Form::chunkwise, 64}, Path{Form::chunkwise, 1000}}) {
    INFO("form " << static_cast<int>(path.form) << ", chunk " << path.chunk_size);
    std::vector<double> state(static_cast<std::size_t>(Model::state_size));
    double* slot = state.data();
    const auto lease = model.lease();
    const Run run{.sequences = 1, .length = length, .form = path.form, .chunk_size = path.chunk_size};
    std::vector<double> logits;
    model.run(*lease, run, std::span(expected.ids).first(length), {&slot, 0}, Model::Rows::all, [&](Index, auto rows) {
      logits.insert(logits.end(), rows.data(), rows.data() + rows.rows() * Model::vocab_size);
    });
    const auto& all = expected.tensors["logits"];
    const std::vector<double> wanted(all.begin(), all.begin() + length * Model::vocab_size);
    CHECK(largest_difference(logits, wanted) <= expected.logit_tolerance());
  }
}

TEST_CASE("a run whose tokens do not fit is refused, and the states stay") {
  constexpr ModelConfig config{.vocab_size = 16, .embedding_dim = 8, .num_blocks = 1, .num_heads = 1};
  using Model = LanguageModel<config>;
  const Model model = Model::initialized(1);
  std::vector<float> state(static_cast<std::size_t>(Model::state_size));
  float* slot = state.data();
  const auto lease = model.lease();
  const auto refused = [&](const Run& run, std::vector<Token> tokens) {
    std::string message;
    try {
      model.run(*lease, run, tokens, {&slot, 0}, Model::Rows::none, [](Index, auto) {});
    } catch (const Error& error) {
      message = error.what();
    }
    CHECK(std::count(state.begin(), state.end(), 0.0F) == Model::state_size);
    return message;
  };
  CHECK_THAT(refused({.length = 3}, {1, 2}), Contains("2 tokens for 1 sequences of 3"));
  CHECK_THAT(refused({.length = 0}, {}), Contains("0 tokens"));
  CHECK_THAT(refused({.length = 2}, {1, 16}), Contains("token 16 at row 1") && Contains("0 to 15"));
  CHECK_THAT(refused({.length = 2}, {-1, 3}), Contains("token -1 at row 0"));
}
