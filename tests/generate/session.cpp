// SPDX-License-Identifier: Apache-2.0
#include "xlstm/generate/session.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <thread>
#include <utility>

#include "catch.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/generate/generation.hpp"
#include "xlstm/generate/session_file.hpp"
#include "xlstm/reference/backend.hpp"

using namespace xlstm;

namespace {

constexpr ModelConfig config{.vocab_size = 61, .embedding_dim = 48, .num_blocks = 2, .num_heads = 3};
using M = LanguageModel<config>;

const M& model() {
  static const M m = [] {
    auto weights = allocate_weights<M::Network, M::BackendType>();
    initialize(weights, 5);
    Random random(9);  // gates that do something: the recipe starts them at zero
    for_each_parameter<M::Network>(weights.parameters, [&](std::string_view, auto& handle, Initialization) {
      for (Index i = 0; i < handle.count; ++i) handle.data()[i] += 0.2F * static_cast<float>(random.normal());
    });
    return M(std::move(weights), {.threads = 2});
  }();
  return m;
}

std::vector<Token> random_tokens(Index count, std::uint64_t seed) {
  Random random(seed);
  std::vector<Token> tokens;
  for (Index i = 0; i < count; ++i) tokens.push_back(static_cast<Token>(random.below(61)));
  return tokens;
}

double distance(std::span<const float> a, std::span<const float> b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    REQUIRE(std::isfinite(a[i]));
    largest = std::max(largest, static_cast<double>(std::abs(a[i] - b[i])));
  }
  return largest;
}

std::vector<Token> continuation(Session<M>& session, Index count, double temperature = 0) {
  std::vector<Token> made;
  GenerationOptions options{.max_tokens = count, .sampling = {.temperature = temperature, .seed = 3}};
  for (const Token t : session.generate({}, options)) made.push_back(t);
  return made;
}

// Logits are of order 1; different cuts order fp32 sums differently.
constexpr double tolerance = 1e-4;

/// Throws at the norm that comes after `fail_after` others; below 0: never.
int fail_after = -1;
struct Failing : cpu::Backend<float> {
  using Base = cpu::Backend<float>;
  using Base::Base;
  template <Index D, Index N>
  void rms_norm(MatrixView<const float, D> x, const VectorParameter<float, D>& weight,
                const VectorParameter<float, N>& bias, double eps, MatrixView<float, D> y, float* scale) {
    if (fail_after >= 0 && fail_after-- == 0) throw std::runtime_error("on purpose");
    Base::rms_norm(x, weight, bias, eps, y, scale);
  }
};

struct TemporaryFile {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("xlstm-session-" + std::to_string(::getpid()) + ".bin");
  ~TemporaryFile() { std::filesystem::remove(path); }
};

}  // namespace

TEST_CASE("a prompt may be cut anywhere") {
  const auto tokens = random_tokens(70, 1);
  auto whole = model().session();
  whole.prefill(tokens);
  for (const std::size_t cut : {0U, 1U, 33U, 64U, 69U, 70U}) {
    auto cut_session = model().session();
    cut_session.prefill(std::span(tokens).first(cut));
    cut_session.prefill(std::span(tokens).subspan(cut));
    CHECK(distance(whole.logits(), cut_session.logits()) < tolerance);
    CHECK(cut_session.position() == 70);
  }
  auto stepwise = model().session();
  for (const Token t : tokens) stepwise.step(t);
  CHECK(distance(whole.logits(), stepwise.logits()) < tolerance);
  auto sliced = model().session();
  sliced.prefill(tokens, {.form = Form::parallel, .slice = 11});
  CHECK(distance(whole.logits(), sliced.logits()) < tolerance);
}

TEST_CASE("a copy is a branch, and a kept copy rewinds") {
  auto trunk = model().session();
  trunk.prefill(random_tokens(20, 2));
  auto branch = trunk;
  const auto kept = trunk;
  const auto from_trunk = continuation(trunk, 12);
  branch.step(7);
  CHECK(continuation(branch, 12) != from_trunk);
  auto rewound = kept;
  CHECK(continuation(rewound, 12) == from_trunk);
  trunk.reset();
  CHECK(trunk.position() == 0);
}

TEST_CASE("generation in two pieces is generation in one") {
  auto once = model().session();
  once.prefill(random_tokens(9, 3));
  auto twice = once;
  const auto whole = continuation(once, 20);
  auto pieces = continuation(twice, 8);
  CHECK(twice.owed() == pieces.back());
  const auto rest = continuation(twice, 12);
  pieces.insert(pieces.end(), rest.begin(), rest.end());
  CHECK(pieces == whole);
  CHECK(once.position() == twice.position());
}

TEST_CASE("several sessions at different positions advance in one batched step") {
  std::vector<Session<M>> alone;
  std::vector<Session<M>> together;
  for (int i = 0; i < 5; ++i) {
    auto session = model().session();
    session.prefill(random_tokens(1 + 7 * i, static_cast<std::uint64_t>(i)));
    alone.push_back(session);
    together.push_back(session);
  }
  std::vector<Session<M>*> pointers;
  for (auto& s : together) pointers.push_back(&s);
  for (int round = 0; round < 4; ++round) {
    const auto tokens = random_tokens(5, static_cast<std::uint64_t>(100 + round));
    Session<M>::step(pointers, tokens);
    for (std::size_t i = 0; i < 5; ++i) {
      alone[i].step(tokens[i]);
      CHECK(distance(alone[i].logits(), together[i].logits()) < tolerance);
      CHECK(alone[i].position() == together[i].position());
    }
  }
}

TEST_CASE("sessions of a network without states advance in one batched step, too") {
  using Stateless = CausalLM<16, Repeat<2, Residual<RMSNorm<8>, SwiGLU<8, 16>>>, RMSNorm<8>>;
  using Bigrams = Model<Stateless, cpu::Backend<float>>;
  const Bigrams bigrams = Bigrams::initialized(1);
  auto a = bigrams.session(), b = bigrams.session(), c = bigrams.session();
  Session<Bigrams>::step(std::vector{&a, &b}, std::vector<Token>{3, 5});
  c.step(5);
  CHECK(distance(b.logits(), c.logits()) < 1e-6);
  CHECK_THROWS_WITH(Session<Bigrams>::step(std::vector{&a, &a}, std::vector<Token>{1, 2}),
                    Contains("same session is given twice"));
}

TEST_CASE("a batched step refuses what makes no sense") {
  auto a = model().session();
  auto b = model().session();
  const M other = M::initialized(1);
  auto foreign = other.session();
  const std::vector<Token> two{1, 2};
  std::vector<Session<M>*> twice{&a, &a};
  std::vector<Session<M>*> mixed{&a, &foreign};
  std::vector<Session<M>*> one{&a};
  CHECK_THROWS_WITH(Session<M>::step(twice, two), Contains("same session is given twice"));
  CHECK_THROWS_WITH(Session<M>::step(mixed, two), Contains("belongs to another model"));
  CHECK_THROWS_WITH(Session<M>::step(one, two), Contains("1 sessions and 2 tokens"));
}

TEST_CASE("tokens outside the vocabulary are refused and change nothing") {
  auto session = model().session();
  session.prefill(random_tokens(5, 4));
  const std::vector<float> before(session.logits().begin(), session.logits().end());
  const std::vector<Token> bad{3, 61};
  CHECK_THROWS_WITH(session.prefill(bad), Contains("token 61 at position 1") && Contains("expected 0 to 60"));
  CHECK_THROWS_WITH(session.step(-1), Contains("token -1"));
  CHECK(session.position() == 5);
  CHECK(distance(session.logits(), before) == 0);
}

TEST_CASE("an exception in the middle of the computation leaves a fresh session, never half a state") {
  using F = LanguageModel<config, Failing>;
  const F failing = F::initialized(1);
  auto a = failing.session();
  auto b = failing.session();
  a.prefill(random_tokens(5, 1));
  b.prefill(random_tokens(6, 1));
  const auto is_fresh = [](const Session<F>& s) {
    return s.position() == 0 && !s.owed() && std::count(s.state().begin(), s.state().end(), 0.0F) == F::state_size;
  };
  std::vector<Session<F>*> both{&a, &b};
  const std::vector<Token> two{1, 2};
  fail_after = 3;  // the first block is through
  CHECK_THROWS_WITH(Session<F>::step(both, two), "on purpose");
  CHECK((is_fresh(a) && is_fresh(b)));

  fail_after = -1;
  a.prefill(random_tokens(5, 1));
  a.owe(3);
  fail_after = 3;
  CHECK_THROWS_WITH(a.logits(), "on purpose");
  CHECK(is_fresh(a));
  fail_after = 5 * 2 + 3;  // the third slice
  CHECK_THROWS_WITH(a.prefill(random_tokens(20, 1), {.slice = 8}), "on purpose");
  CHECK(is_fresh(a));
  fail_after = -1;
}

TEST_CASE("a backend that computes in double generates too") {
  using D = LanguageModel<config, reference::Backend<double>>;
  const D precise = D::initialized(1);
  auto session = precise.session();
  auto stepwise = session;
  const auto prompt = random_tokens(4, 1);
  std::vector<Token> made;
  for (const Token t : session.generate(prompt, {.max_tokens = 5})) made.push_back(t);
  std::vector<Token> likeliest;
  stepwise.prefill(prompt);
  for (int i = 0; i < 5; ++i) {
    const auto logits = stepwise.logits();
    likeliest.push_back(static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    stepwise.step(likeliest.back());
  }
  CHECK(made == likeliest);
}

template <class S>
concept Generates = requires(S&& session, std::vector<Token> prompt) {
  std::forward<S>(session).generate(prompt);
};

TEST_CASE("a session that would be gone before its tokens does not compile") {
  CHECK(Generates<Session<M>&>);
  CHECK_FALSE(Generates<Session<M>>);
}

TEST_CASE("fp32 weights that came from bf16 are told apart by their fingerprint") {
  // Sizes of which a sample every count/64 bytes would always hit the byte that is zero.
  using Even = LanguageModel<ModelConfig{.vocab_size = 64, .embedding_dim = 64, .num_blocks = 1, .num_heads = 2}>;
  const auto rounded = [](std::uint64_t seed) {
    auto weights = allocate_weights<Even::Network, Even::BackendType>();
    initialize(weights, seed);
    for_each_parameter<Even::Network>(weights.parameters, [&](std::string_view, auto& handle, Initialization) {
      for (Index i = 0; i < handle.count; ++i) handle.data()[i] = bf16(handle.data()[i]);
    });
    return Even(std::move(weights)).fingerprint();
  };
  CHECK(rounded(1) == rounded(1));
  CHECK(rounded(1) != rounded(2));
}

TEST_CASE("stop tokens, limits, cancellation, empty prompts") {
  auto session = model().session();
  session.prefill(random_tokens(9, 3));
  auto copy = session;
  const auto made = continuation(copy, 6);
  std::vector<Token> until;
  auto stopping = session;
  for (const Token t : stopping.generate({}, {.max_tokens = 6, .stop_tokens = {made[3]}})) until.push_back(t);
  CHECK(until == std::vector<Token>(made.begin(), std::find(made.begin(), made.end(), made[3])));

  std::stop_source source;
  auto cancelled = session;
  Index count = 0;
  GenerationOptions options{.max_tokens = 100};
  options.cancel = source.get_token();
  for ([[maybe_unused]] const Token t : cancelled.generate({}, options)) {
    if (++count == 3) source.request_stop();
  }
  CHECK(count == 3);

  Index called = 0;
  auto with_callback = session;
  generate(with_callback, {}, {.max_tokens = 100}, [&](Token) { return ++called < 5; });
  CHECK(called == 5);

  auto fresh = model().session();
  CHECK_THROWS_WITH(fresh.generate({}, {}), Contains("the prompt is empty"));
  CHECK_THROWS_WITH(session.generate({}, {.max_tokens = -1}), Contains("max_tokens is -1"));
  CHECK_THROWS_WITH(session.generate({}, {.ahead = -1}), Contains("ahead is -1"));
  CHECK(continuation(session, 0).empty());
}

TEST_CASE("a saved session continues in another, to the token") {
  const TemporaryFile file;
  auto session = model().session();
  session.prefill(random_tokens(30, 6));
  continuation(session, 5);
  save_session(session, file.path);
  auto loaded = load_session(model(), file.path);
  CHECK(loaded.position() == session.position());
  CHECK(continuation(loaded, 20, 0.9) == continuation(session, 20, 0.9));
}

TEST_CASE("session files of other models, damaged and truncated ones are refused") {
  const TemporaryFile file;
  auto session = model().session();
  session.prefill(random_tokens(3, 6));
  save_session(session, file.path);
  std::ifstream in(file.path, std::ios::binary);
  const std::string good{std::istreambuf_iterator<char>(in), {}};
  const auto rewrite = [&](const std::string& bytes) {
    std::ofstream(file.path, std::ios::binary | std::ios::trunc) << bytes;
  };

  const M other = M::initialized(1);
  CHECK_THROWS_WITH(load_session(other, file.path), Contains("another model's weights"));
  constexpr ModelConfig wider{.vocab_size = 61, .embedding_dim = 96, .num_blocks = 2, .num_heads = 3};
  CHECK_THROWS_WITH(load_session(LanguageModel<wider>::initialized(1), file.path), Contains("another size"));
  for (const std::size_t size : {std::size_t{0}, std::size_t{7}, std::size_t{55}, std::size_t{56}, good.size() - 1}) {
    rewrite(good.substr(0, size));
    CHECK_THROWS_AS(load_session(model(), file.path), Error);
  }
  for (std::size_t i = 0; i < good.size(); i += 1 + good.size() / 97) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    rewrite(bad);
    CHECK_THROWS_AS(load_session(model(), file.path), Error);
  }
  rewrite(good + "x");
  CHECK_THROWS_WITH(load_session(model(), file.path), Contains("expected"));
  rewrite(good);
  CHECK_NOTHROW(load_session(model(), file.path));
}

TEST_CASE("the path in a message is fit for a line") {
  const auto path = std::filesystem::temp_directory_path() / ("xlstm\n" + std::to_string(::getpid()));
  std::ofstream(path) << "short";
  CHECK_THROWS_WITH(load_session(model(), path), Contains("xlstm\\x0a") && Contains("too short"));
  std::filesystem::remove(path);
}

TEST_CASE("one model serves many threads at once, each with the text it would make alone") {
  const auto prompt = random_tokens(40, 8);
  const auto text = [&](std::uint64_t seed) {
    auto session = model().session();
    std::vector<Token> made;
    GenerationOptions options{.max_tokens = 15, .sampling = {.temperature = 1, .seed = seed}};
    for (const Token t : session.generate(prompt, options)) made.push_back(t);
    return made;
  };
  std::vector<std::vector<Token>> alone;
  for (std::uint64_t i = 0; i < 6; ++i) alone.push_back(text(i));
  std::vector<std::vector<Token>> together(6);
  std::vector<std::thread> threads;
  for (std::uint64_t i = 0; i < 6; ++i) threads.emplace_back([&, i] { together[i] = text(i); });
  for (auto& t : threads) t.join();
  CHECK(together == alone);
}

TEST_CASE("memory does not grow with the position") {
  auto session = model().session();
  session.prefill(random_tokens(600, 1));
  {
    const auto warm = model().lease();
    const std::size_t capacity = warm->arena().capacity();
    CHECK(capacity > 0);
  }
  session.prefill(random_tokens(20000, 2));
  CHECK(session.position() == 20600);
  const auto lease = model().lease();
  CHECK(lease->arena().capacity() < std::size_t{64} << 20);
}

/// Resident memory of this process in bytes, or 0 where the system does not say.
long long resident() {
  std::ifstream statm("/proc/self/statm");
  long long total = 0, pages = 0;
  return statm >> total >> pages ? pages * ::sysconf(_SC_PAGESIZE) : 0;
}

TEST_CASE("a hundred thousand tokens are generated in the memory of the first few") {
  using Small = LanguageModel<ModelConfig{.vocab_size = 16, .embedding_dim = 8, .num_blocks = 1, .num_heads = 1}>;
  const Small small = Small::initialized(1, {.threads = 1});
  auto session = small.session();
  const auto go_on = [&](Index count) {
    const std::vector<Token> prompt{1};
    GenerationOptions options{.max_tokens = count, .sampling = {.temperature = 1, .repetition_penalty = 1.1}};
    Index made = 0;
    for ([[maybe_unused]] const Token t : session.generate(prompt, options)) ++made;
    CHECK(made == count);
  };
  const auto arena = [&] {
    const auto lease = small.lease();
    return std::pair(lease->arena().system_allocations(), lease->arena().capacity());
  };
  go_on(1000);
  const auto warm = arena();
  const long long before = resident();
  go_on(100000);
  CHECK(arena() == warm);
  CHECK(session.position() > 100000);
  CHECK(resident() - before < 1 << 20);
}
