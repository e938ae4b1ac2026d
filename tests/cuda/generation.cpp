// SPDX-License-Identifier: Apache-2.0
// Generation on a device that makes tokens ahead of the host: the tokens, and the session that is left, are those of a
// generation whose every token the host chooses.
#include "xlstm/generate/generation.hpp"

#include <vector>

#include "catch.hpp"
#include "device.hpp"
#include "io/temporary_directory.hpp"
#include "model/reference_models.hpp"
#include "xlstm/cuda/backend.hpp"
#include "xlstm/generate/session_file.hpp"
#include "xlstm/io/load.hpp"

using xlstm::GenerationOptions;
using xlstm::Index;
using xlstm::Token;

namespace {

template <xlstm::ModelConfig config>
using DeviceModel = xlstm::LanguageModel<config, xlstm::cuda::Backend<float, xlstm::tests::DeviceRuntime>>;
using Tiny = DeviceModel<reference_models::tiny_f32>;
using Session = xlstm::Session<Tiny>;

const std::vector<Token> prompt{3, 1, 4, 1, 5};

Tiny load() { return Tiny::load(std::string(XLSTM_TEST_DATA) + "/models/tiny-f32"); }

/// What a session is to whoever uses it.
struct Seen {
  explicit Seen(Session& session) : position(session.position()), owed(session.owed()), state(session.state()) {
    const auto values = session.logits();
    logits.assign(values.begin(), values.end());
    after = session.state();
  }
  Index position;
  std::optional<Token> owed;
  std::vector<float> state, logits, after;
  friend bool operator==(const Seen&, const Seen&) = default;
};

/// `count` tokens at most, after each of which `use` may do something with the session.
template <class Use>
std::vector<Token> generated(Session& session, GenerationOptions options, Index ahead, std::size_t count, Use&& use) {
  options.ahead = ahead;
  std::vector<Token> tokens;
  for (const Token token : session.generate(prompt, options)) {
    tokens.push_back(token);
    use(tokens.size());
    if (tokens.size() == count) break;
  }
  return tokens;
}

/// The same with and without the host in between.
template <class Use>
void check_same(const Tiny& model, const GenerationOptions& options, std::size_t count, Use&& use) {
  Session by_host = model.session(), by_device = model.session();
  const auto expected = generated(by_host, options, 0, count, [&](std::size_t i) { use(i, by_host); });
  const auto found = generated(by_device, options, 32, count, [&](std::size_t i) { use(i, by_device); });
  CHECK(found == expected);
  CHECK((Seen(by_device) == Seen(by_host)));
  const auto nothing = [](std::size_t) {};
  CHECK(generated(by_device, options, 32, 3, nothing) == generated(by_host, options, 0, 3, nothing));
}
void check_same(const Tiny& model, const GenerationOptions& options, std::size_t count = 1000) {
  check_same(model, options, count, [](std::size_t, Session&) {});
}

TEST_CASE("tokens that a device makes ahead are those that the host chooses", "[cuda]") {
  const auto model = load();
  check_same(model, {.max_tokens = 15});
  check_same(model, {.max_tokens = 9, .sampling = {.temperature = 1, .top_p = 0.9, .seed = 3}});
  check_same(model,
             {.max_tokens = 9, .sampling = {.temperature = 0.8, .top_k = 9, .repetition_penalty = 1.3, .seed = 4}});
}

TEST_CASE("what was made beyond a stop token, a limit or the loop's end never happened", "[cuda]") {
  const auto model = load();
  auto session = model.session();
  const auto tokens = generated(session, {.max_tokens = 12}, 0, 1000, [](std::size_t) {});
  for (const std::size_t stop : {1U, 7U}) check_same(model, {.max_tokens = 12, .stop_tokens = {tokens[stop]}});
  for (const std::size_t end : {1U, 7U}) check_same(model, {.max_tokens = 12}, end);
  check_same(model, {.max_tokens = 1});
  check_same(model, {.max_tokens = 2});
}

TEST_CASE("a session may be used while it generates", "[cuda]") {
  const auto model = load();
  const GenerationOptions options{.max_tokens = 12, .sampling = {.temperature = 1, .seed = 5}};
  check_same(model, options, 1000, [](std::size_t i, Session& session) {
    if (i == 4) static_cast<void>(session.logits());
    if (i == 7) session.step(9);
    if (i == 9) session.reset();
    if (i == 9) session.step(2);
  });
  const TemporaryDirectory directory;
  std::vector<Session> copies;
  auto session = model.session();
  generated(session, options, 32, 8, [&](std::size_t i) {
    if (i != 4) return;
    copies.push_back(session);
    xlstm::save_session(session, directory.path() / "session");
  });
  auto expected = model.session();
  generated(expected, options, 0, 4, [](std::size_t) {});
  copies.push_back(xlstm::load_session(model, directory.path() / "session"));
  const Seen seen(expected);
  for (Session& copy : copies) CHECK((Seen(copy) == seen));
}

#if !defined(XLSTM_ON_DEVICE)  // what a GPU does not count

TEST_CASE("the host waits for a device once for many tokens, and allocates nothing there once warm", "[cuda]") {
  const auto model = load();
  const auto run = [&] {
    auto session = model.session();
    return generated(session, {.max_tokens = 29}, 32, 1000, [](std::size_t) {}).size();
  };
  run();
  run();
  const Index downloads = model.lease()->queue().downloads(), replays = model.lease()->queue().replays();
  const Index allocations = model.lease()->runtime().allocations();
  auto session = model.session();
  generated(session, {.max_tokens = 29}, 32, 1000, [](std::size_t) {});
  CHECK(model.lease()->queue().downloads() - downloads == 4);  // the prompt's logits; 4, 8 and 16 tokens
  CHECK(model.lease()->queue().replays() - replays == 28);
  CHECK(model.lease()->runtime().allocations() - allocations == 1);  // the session's own state
}

#endif

TEST_CASE("logits that no token can be drawn from are an error at the token that they are for", "[cuda]") {
  auto weights = xlstm::load_weights<Tiny::Network, Tiny::BackendType>(
      xlstm::Checkpoint::open(std::string(XLSTM_TEST_DATA) + "/models/tiny-f32"));
  auto session = load().session();
  const auto tokens = generated(session, {.max_tokens = 7}, 0, 1000, [](std::size_t) {});
  // The embedding of the last token is not a number: the logits after it are not either.
  float* const row = weights.parameters.embedding.data() + tokens.back() * Tiny::embedding_dim;
  std::fill_n(row, Tiny::embedding_dim, std::nanf(""));
  const Tiny model(std::move(weights));
  for (const Index ahead : {0, 32}) {
    auto broken = model.session();
    std::vector<Token> made;
    CHECK_THROWS_WITH(
        generated(broken, {.max_tokens = 12}, ahead, 1000, [&](std::size_t) { made.push_back(*broken.owed()); }),
        Contains("sampling: the logit of token 0 is"));
    CHECK(made == tokens);
  }
}

}  // namespace
