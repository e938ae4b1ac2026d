// SPDX-License-Identifier: Apache-2.0
#include "xlstm/train/trainer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "memory.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/model/architecture.hpp"
#include "xlstm/reference/backend.hpp"

using namespace xlstm;

namespace {

constexpr ModelConfig tiny{
    .vocab_size = 23, .embedding_dim = 32, .num_blocks = 2, .num_heads = 2, .ffn_round_up_to_multiple_of = 16};
using Net = Network<tiny>;
using Reference = reference::Backend<double>;

BatchBuffer random_batch(Index sequences, Index length, std::uint64_t seed) {
  BatchBuffer batch(sequences, length);
  Random random(seed);
  for (Index b = 0; b < sequences; ++b) {
    for (auto& t : batch.tokens(b)) t = static_cast<Token>(random.below(tiny.vocab_size));
    const auto tokens = batch.tokens(b);
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i) batch.targets(b)[i] = tokens[i + 1];
    batch.starts(b)[static_cast<std::size_t>(random.below(static_cast<std::uint64_t>(length)))] = 1;
  }
  return batch;
}

template <class W>
std::vector<char> bits(const W& weights) {
  const char* p = reinterpret_cast<const char*>(weights.memory.data());
  return {p, p + weights.memory.bytes()};
}

TrainerOptions plain_options() {
  TrainerOptions options;
  options.optimizer.weight_decay = 0;
  options.clip = 1;
  return options;
}

/// A module of one's own whose backward pass may fail.
template <Index D>
struct Fuse : Identity<D> {
  inline static bool blows = false;
  template <class B>
  static void backward(B& backend, const typename Identity<D>::template Parameters<B>&,
                       typename Identity<D>::template Parameters<B>&, const Run&, States<B>,
                       const typename Identity<D>::template Saved<B>&, Input<B, D> dy, Output<B, D> dx) {
    if (blows) throw std::runtime_error("blown");
    backend.copy(dy, dx);
  }
};

}  // namespace

TEMPLATE_TEST_CASE("One batch is overfitted to nearly zero", "", (Reference), (cpu::Backend<float>)) {
  Trainer<Net, TestType> trainer(1, plain_options());
  const BatchBuffer batch = random_batch(2, 12, 6);
  const double first = trainer.train_step(batch.view(), 1e-2).loss;
  CHECK(first == Approx(std::log(23.0)).epsilon(0.2));
  double last = first;
  for (int step = 0; step < 150; ++step) last = trainer.train_step(batch.view(), 1e-2).loss;
  CHECK(last < 0.01);
  CHECK(trainer.counters() == TrainerCounters{151, 151, 0, 0});
}

TEST_CASE("Accumulated batches are one batch of all their rows") {
  const BatchBuffer a = random_batch(1, 9, 1);
  const BatchBuffer b = random_batch(1, 9, 2);
  BatchBuffer both(2, 9);
  for (Index row = 0; row < 2; ++row) {
    BatchBuffer& from = const_cast<BatchBuffer&>(row == 0 ? a : b);
    std::copy_n(from.tokens(0).begin(), 9, both.tokens(row).begin());
    std::copy_n(from.targets(0).begin(), 9, both.targets(row).begin());
    std::copy_n(from.starts(0).begin(), 9, both.starts(row).begin());
  }
  both.targets(0)[3] = ignored_target;  // batches with different numbers of targets
  const_cast<BatchBuffer&>(a).targets(0)[3] = ignored_target;
  Trainer<Net, Reference> one(3), two(3);
  const StepResult together = one.train_step(both.view(), 1e-3);
  two.accumulate(a.view());
  two.accumulate(b.view());
  const StepResult apart = two.update(1e-3);
  CHECK(apart.targets == together.targets);
  CHECK(apart.loss == Approx(together.loss).epsilon(1e-12));
  CHECK(apart.gradient_norm == Approx(together.gradient_norm).epsilon(1e-10));
  const auto* x = reinterpret_cast<const double*>(one.masters().memory.data());
  const auto* y = reinterpret_cast<const double*>(two.masters().memory.data());
  for (Index i = 0; i < one.masters().memory.bytes() / 8; ++i) REQUIRE(std::abs(x[i] - y[i]) < 1e-9);
}

TEST_CASE("The gradient's norm is clipped to the limit, and a smaller one left alone") {
  const BatchBuffer batch = random_batch(2, 8, 9);
  double norm = 0;
  for (const double clip : {0.0, 1e9}) {
    TrainerOptions options = plain_options();
    options.clip = clip;
    Trainer<Net, Reference> trainer(1, options);
    norm = trainer.train_step(batch.view(), 1e-3).gradient_norm;
    // m after the first step is (1 − β₁)·g.
    const auto& m = trainer.optimizer().first_moment().memory;
    const double moment = std::sqrt(reference::squared_norm(reinterpret_cast<const double*>(m.data()), m.bytes() / 8));
    CHECK(moment == Approx(0.1 * norm).epsilon(1e-9));
  }
  TrainerOptions options = plain_options();
  options.clip = norm / 4;
  Trainer<Net, Reference> trainer(1, options);
  trainer.train_step(batch.view(), 1e-3);
  const auto& m = trainer.optimizer().first_moment().memory;
  const double moment = std::sqrt(reference::squared_norm(reinterpret_cast<const double*>(m.data()), m.bytes() / 8));
  CHECK(moment == Approx(0.1 * norm / 4).epsilon(1e-9));
}

TEST_CASE("A gradient that is not finite is skipped and counted, and changes nothing") {
  TrainerOptions options = plain_options();
  options.max_consecutive_skips = 2;
  Trainer<Net, Reference> trainer(1, options);
  const BatchBuffer batch = random_batch(1, 6, 2);
  trainer.train_step(batch.view(), 1e-3);
  const double good = *trainer.masters().parameters.head.data();
  trainer.masters().parameters.out_norm.weight.data()[3] = NAN;
  const std::vector<char> before = bits(trainer.masters());
  const std::vector<char> moments = bits(trainer.optimizer().second_moment());
  for (int i = 0; i < 2; ++i) CHECK(trainer.train_step(batch.view(), 1e-3).skipped);
  CHECK(bits(trainer.masters()) == before);
  CHECK(bits(trainer.optimizer().second_moment()) == moments);
  CHECK(trainer.counters() == TrainerCounters{3, 1, 2, 2});

  SECTION("after too many in a row the run ends and says what may have caused it") {
    std::string message;
    try {
      trainer.train_step(batch.view(), 1e-3);
    } catch (const Error& error) {
      message = error.what();
    }
    CHECK_THAT(message, Contains("input-gate bias") && Contains("soft cap") && Contains("learning rate"));
  }
  SECTION("a good step ends the row") {
    trainer.masters().parameters.out_norm.weight.data()[3] = 1;
    CHECK_FALSE(trainer.train_step(batch.view(), 1e-3).skipped);
    CHECK(trainer.counters() == TrainerCounters{4, 2, 2, 0});
    CHECK(*trainer.masters().parameters.head.data() != good);
  }
}

TEST_CASE("A gradient norm above the limit is skipped") {
  TrainerOptions options = plain_options();
  options.skip_above = 1e-9;
  Trainer<Net, Reference> trainer(1, options);
  const BatchBuffer batch = random_batch(1, 6, 2);
  CHECK(trainer.train_step(batch.view(), 1e-3).skipped);
}

TEST_CASE("Without a single target there is nothing to learn, and no failure") {
  Trainer<Net, Reference> trainer(1, plain_options());
  BatchBuffer batch = random_batch(1, 6, 2);
  for (auto& t : batch.targets(0)) t = ignored_target;
  const std::vector<char> before = bits(trainer.masters());
  CHECK(trainer.train_step(batch.view(), 1e-3).skipped);
  CHECK(bits(trainer.masters()) == before);
  CHECK(trainer.counters() == TrainerCounters{1, 0, 0, 0});
}

TEMPLATE_TEST_CASE("Gradients are used up by an update, and thrown away by a step that is skipped", "", (Reference),
                   (cpu::Backend<float>)) {
  TrainerOptions options = plain_options();
  options.skip_above = 1e3;
  Trainer<Net, TestType> trainer(1, options), undisturbed(1, options);
  const auto zeros = [&] {
    const std::vector<char> all = bits(trainer.gradients());
    return std::all_of(all.begin(), all.end(), [](char c) { return c == 0; });
  };
  BatchBuffer batch = random_batch(1, 6, 2);
  CHECK(zeros());
  trainer.accumulate(batch.view());
  CHECK_FALSE(zeros());
  trainer.update(1e-3);
  CHECK(zeros());

  auto& weight = trainer.masters().parameters.out_norm.weight.data()[3];
  const auto good = std::exchange(weight, std::numeric_limits<std::remove_reference_t<decltype(weight)>>::quiet_NaN());
  BatchBuffer none = batch;
  for (auto& t : none.targets(0)) t = ignored_target;
  for (const BatchBuffer* b : {&batch, &none}) {
    CHECK(trainer.train_step(b->view(), 1e-3).skipped);
    CHECK(zeros());
  }
  weight = good;
  for (int step = 0; step < 2; ++step) undisturbed.train_step(batch.view(), 1e-3);
  trainer.train_step(batch.view(), 1e-3);
  CHECK(bits(trainer.masters()) == bits(undisturbed.masters()));
}

TEST_CASE("Tokens and targets outside the vocabulary are errors") {
  Trainer<Net, Reference> trainer(1);
  BatchBuffer batch = random_batch(1, 6, 2);
  batch.tokens(0)[2] = 23;
  CHECK_THROWS_AS(trainer.accumulate(batch.view()), Error);
  batch.tokens(0)[2] = 22;
  batch.targets(0)[1] = -2;
  CHECK_THROWS_AS(trainer.evaluate(batch.view()), Error);
}

TEST_CASE("A batch without a token is an error") {
  Trainer<Net, cpu::Backend<float>> trainer(1);
  CHECK_THROWS_WITH(trainer.accumulate(BatchBuffer(0, 17).view()),
                    Contains("0 sequences of 17 tokens, expected at least 1 of each"));
  CHECK_THROWS_WITH(trainer.evaluate(BatchBuffer(2, 0).view()), Contains("2 sequences of 0 tokens"));
}

TEST_CASE("Options that can't work are errors, before anything is trained with them") {
  const auto make = [](const TrainerOptions& options) { const Trainer<Net, cpu::Backend<float>> trainer(1, options); };
  CHECK_NOTHROW(make({.clip = 0, .skip_above = 0, .max_consecutive_skips = 0}));
  CHECK_THROWS_WITH(make({.optimizer = {.beta2 = 1}}), Contains("beta2 is 1"));
  CHECK_THROWS_WITH(make({.loss = {.z_loss = NAN}}), Contains("z_loss is nan"));
  CHECK_THROWS_WITH(make({.loss = {.z_loss = -1}}), Contains("z_loss is -1, expected at least 0"));
  CHECK_THROWS_WITH(make({.clip = -1}), Contains("clip is -1"));
  CHECK_THROWS_WITH(make({.clip = NAN}), Contains("clip is nan"));
  CHECK_THROWS_WITH(make({.skip_above = NAN}), Contains("skip_above is nan"));
  CHECK_THROWS_WITH(make({.max_consecutive_skips = -1}), Contains("max_consecutive_skips is -1"));
  CHECK_THROWS_WITH(make({.chunk_size = -1}), Contains("chunk_size is -1"));
}

TEST_CASE("A learning rate that is no number, or negative, is an error that changes nothing") {
  Trainer<Net, cpu::Backend<float>> trainer(1), straight(1);
  const BatchBuffer batch = random_batch(2, 12, 6);
  trainer.accumulate(batch.view());
  for (const double rate : {static_cast<double>(NAN), static_cast<double>(INFINITY), -1e-3}) {
    CHECK_THROWS_WITH(trainer.update(rate), Contains("the learning rate is"));
  }
  trainer.update(1e-3);
  straight.train_step(batch.view(), 1e-3);
  CHECK(trainer.counters() == straight.counters());
  const bool same = bits(trainer.masters()) == bits(straight.masters());
  CHECK(same);
}

TEST_CASE("What is thrown on the way forgets what was accumulated, and a training goes on without it") {
  using Fused = CausalLM<23, Sequential<Fuse<32>, ConfiguredBlock<tiny>>, RMSNorm<32>>;
  using B = cpu::Backend<float>;
  Trainer<Fused, B> trainer(1), straight(1);
  const BatchBuffer batch = random_batch(2, 12, 6);
  trainer.accumulate(batch.view());
  CHECK(trainer.accumulated() == 1);
  Fuse<32>::blows = true;
  CHECK_THROWS_WITH(trainer.accumulate(batch.view()), Contains("blown"));
  Fuse<32>::blows = false;
  CHECK(trainer.accumulated() == 0);
  CHECK(trainer.train_step(batch.view(), 1e-2).gradient_norm == straight.train_step(batch.view(), 1e-2).gradient_norm);
  const bool same = bits(trainer.masters()) == bits(straight.masters());
  CHECK(same);
}

TEST_CASE("Documents in one row train like sequences of their own") {
  BatchBuffer row(1, 10);
  BatchBuffer first(1, 4), second(1, 6);
  Random random(8);
  for (auto& t : row.tokens(0)) t = static_cast<Token>(random.below(tiny.vocab_size));
  for (std::size_t i = 0; i < 9; ++i) row.targets(0)[i] = row.tokens(0)[i + 1];
  row.targets(0)[3] = ignored_target;
  row.starts(0)[0] = row.starts(0)[4] = 1;
  std::copy_n(row.tokens(0).begin(), 4, first.tokens(0).begin());
  std::copy_n(row.targets(0).begin(), 4, first.targets(0).begin());
  std::copy_n(row.tokens(0).begin() + 4, 6, second.tokens(0).begin());
  std::copy_n(row.targets(0).begin() + 4, 6, second.targets(0).begin());
  Trainer<Net, Reference> packed(4), apart(4);
  packed.accumulate(row.view());
  apart.accumulate(first.view());
  apart.accumulate(second.view());
  CHECK(packed.update(1e-3).gradient_norm == Approx(apart.update(1e-3).gradient_norm).epsilon(1e-10));
}

TEST_CASE("A batch that continues starts from the states of the one before") {
  BatchBuffer whole = random_batch(1, 12, 6);
  for (auto& s : whole.starts(0)) s = 0;
  BatchBuffer left(1, 5), right(1, 7);
  std::copy_n(whole.tokens(0).begin(), 5, left.tokens(0).begin());
  std::copy_n(whole.targets(0).begin(), 5, left.targets(0).begin());
  std::copy_n(whole.tokens(0).begin() + 5, 7, right.tokens(0).begin());
  std::copy_n(whole.targets(0).begin() + 5, 7, right.targets(0).begin());
  Trainer<Net, Reference> trainer(4);
  const LossSum expected = trainer.evaluate(whole.view());
  LossSum pieces = trainer.evaluate(left.view());
  Batch rest = right.view();
  rest.continues = true;
  pieces += trainer.evaluate(rest);
  CHECK(pieces.nll == Approx(expected.nll).epsilon(1e-10));
  CHECK(trainer.evaluate(right.view()).nll != Approx(expected.nll).epsilon(1e-3));
}

TEST_CASE("A validation between batches that continue changes nothing") {
  const BatchBuffer left = random_batch(2, 5, 1), right = random_batch(2, 7, 2), validation = random_batch(3, 6, 3);
  Batch rest = right.view();
  rest.continues = true;
  const auto train = [&](bool validate) {
    Trainer<Net, Reference> trainer(4);
    if (validate) trainer.evaluate(validation.view());
    trainer.train_step(left.view(), 1e-2);
    if (validate) trainer.evaluate(validation.view());
    trainer.train_step(rest, 1e-2);
    return bits(trainer.masters());
  };
  CHECK(train(true) == train(false));
}

TEST_CASE("States that were put in from outside are those that a batch continues from") {
  const BatchBuffer left = random_batch(1, 5, 1), right = random_batch(1, 7, 2);
  Batch rest = right.view();
  rest.continues = true;
  Trainer<Net, Reference> whole(4), resumed(4);
  whole.accumulate(left.view());
  resumed.states() = std::vector<double>(whole.states());
  whole.update(0);
  CHECK(resumed.train_step(rest, 0).loss == whole.train_step(rest, 0).loss);
}

TEST_CASE("Any number of threads gives the same bits, and the same seed the same training") {
  const auto train = [](int threads) {
    using B = cpu::Backend<float>;
    Trainer<Net, B> trainer(11, {}, std::make_shared<B::Resources>(B::Options{threads}));
    for (std::uint64_t step = 0; step < 4; ++step) trainer.train_step(random_batch(3, 70, step).view(), 1e-2);
    return bits(trainer.masters());
  };
  const std::vector<char> one = train(1);
  CHECK(train(2) == one);
  CHECK(train(3) == one);
}

TEST_CASE("After the first step nothing is allocated") {
  using B = cpu::Backend<float>;
  Trainer<Net, B> trainer(1, {}, std::make_shared<B::Resources>(B::Options{2}));
  const BatchBuffer batch = random_batch(2, 150, 1);
  trainer.train_step(batch.view(), 1e-3);
  trainer.evaluate(batch.view());
  const Index arena = trainer.backend().arena().system_allocations();
  const long before = tests::allocations;
  for (int i = 0; i < 3; ++i) {
    trainer.train_step(batch.view(), 1e-3);
    trainer.evaluate(batch.view());
  }
  CHECK(tests::allocations - before == 0);
  CHECK(trainer.backend().arena().system_allocations() == arena);
}

TEST_CASE("Recomputing activations gives the same bits") {
  using B = cpu::Backend<float>;
  Trainer<Net, B> keeping(2);
  Trainer<Network<tiny, Recompute::per_block>, B> recomputing(2);
  const BatchBuffer batch = random_batch(2, 70, 3);
  for (int i = 0; i < 2; ++i) {
    keeping.train_step(batch.view(), 1e-2);
    recomputing.train_step(batch.view(), 1e-2);
  }
  CHECK(bits(keeping.masters()) == bits(recomputing.masters()));
}

TEST_CASE("Weights in bf16 are the rounded fp32 masters after every step, and learn") {
  Trainer<Net, cpu::Backend<bf16>> trainer(1, plain_options());
  const BatchBuffer batch = random_batch(2, 12, 6);
  double last = 0;
  for (int step = 0; step < 150; ++step) {
    last = trainer.train_step(batch.view(), 1e-2).loss;
    for (Index i = 0; i < tiny.vocab_size * tiny.embedding_dim; i += 7) {
      REQUIRE(trainer.parameters().head.data()[i].bits == bf16(trainer.masters().parameters.head.data()[i]).bits);
    }
  }
  CHECK(last < 0.05);
}
