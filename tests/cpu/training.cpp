// SPDX-License-Identifier: Apache-2.0
// Loss and optimizer on the CPU against the reference in double; the same bits on one thread and on three.
#include "xlstm/cpu/training.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "catch.hpp"
#include "cell_cases.hpp"
#include "cpu/same_numbers.hpp"
#include "xlstm/cpu/thread_pool.hpp"
#include "xlstm/reference/backend.hpp"

using namespace xlstm;
using xlstm::tests::OwnGates;

namespace {

/// 1e-5: the loss is a difference of log Z and a logit of up to 30 in fp32; a probability has its exponent's error.
template <class Cap, Index V>
void check_cross_entropy(Index rows, double z_loss, double gradient_scale, cpu::ThreadPool& threads) {
  INFO(rows << " rows of " << V << ", z-loss " << z_loss << ", scale " << gradient_scale);
  Random random(6);
  SameNumbers<V> logits(rows, random, 6);
  std::vector<Token> targets;
  for (Index r = 0; r < rows; ++r) targets.push_back(r % 3 == 1 ? ignored_target : static_cast<Token>(r * 5 % V));
  auto again = logits;
  Arena arena;
  SerialExecutor serial;
  const LossSum found = cpu::cross_entropy<Cap>(threads, arena, logits.out(), targets, z_loss, gradient_scale);
  const LossSum once_more = cpu::cross_entropy<Cap>(serial, arena, again.out(), targets, z_loss, gradient_scale);
  const LossSum expected = reference::cross_entropy<Cap>(logits.exact_out(), targets, z_loss, gradient_scale);
  CHECK((logits.same_bits(again) && found.nll == once_more.nll && found.z_loss == once_more.z_loss));
  CHECK(found.targets == expected.targets);
  CHECK(found.nll == Approx(expected.nll).epsilon(1e-5).margin(1e-5));
  CHECK(found.z_loss == Approx(expected.z_loss).epsilon(1e-5));
  if (gradient_scale != 0) CHECK(logits.error() <= 1e-5);
}

}  // namespace

TEST_CASE("cross-entropy on the CPU: sums and gradient, ignored targets, caps, z-loss") {
  cpu::ThreadPool threads(3);
  for (const double scale : {0.0, 0.25}) {
    check_cross_entropy<NoSoftCap, 1>(1, 0, scale, threads);
    check_cross_entropy<NoSoftCap, 37>(7, 0.1, scale, threads);
    check_cross_entropy<SoftCap<5.0>, 37>(7, 0, scale, threads);
    check_cross_entropy<SoftCap<30.0>, 1000>(40, 0.01, scale, threads);
    check_cross_entropy<SoftCap<50.0>, 300>(7, 0.01, scale, threads);
    check_cross_entropy<OwnGates::GateCap, 300>(7, 0.01, scale, threads);
  }
}

TEST_CASE("cross-entropy of logits too large for an exponential is a number") {
  std::vector<float> logits = {1e4F, -1e4F, 0};
  Arena arena;
  SerialExecutor serial;
  const LossSum sum =
      cpu::cross_entropy<NoSoftCap, SerialExecutor, 3>(serial, arena, {logits.data(), 1}, std::vector<Token>{1}, 0, 1);
  CHECK(sum.nll == Approx(2e4));
  CHECK(logits == std::vector<float>{1, -1, 0});
}

TEST_CASE("zero writes zeros, and nothing beyond them") {
  cpu::ThreadPool threads(3);
  for (const Index count : {Index{0}, Index{5}, 2 * cpu::parameters_per_task + 3}) {
    std::vector<float> x(static_cast<std::size_t>(count + 1), 7.0F), expected(static_cast<std::size_t>(count), 0.0F);
    expected.push_back(7.0F);
    cpu::zero(threads, x.data(), count);
    const bool same = x == expected;
    CHECK(same);
  }
}

TEST_CASE("masters are rounded to nearest, all of them and nothing beyond") {
  cpu::ThreadPool threads(3);
  Random random(9);
  for (const Index count : {Index{0}, Index{5}, 2 * cpu::parameters_per_task + 3}) {
    std::vector<float> from(static_cast<std::size_t>(count));
    for (float& x : from) x = static_cast<float>(random.normal());
    std::vector<bf16> to(from.size() + 1, bf16(7.0F)), expected(from.begin(), from.end());
    expected.push_back(bf16(7.0F));
    cpu::round(threads, from.data(), to.data(), count);
    const bool same = std::memcmp(to.data(), expected.data(), to.size() * sizeof(bf16)) == 0;
    CHECK(same);
  }
}

TEST_CASE("the squared norm, to 1e-6, the same on any number of threads") {
  cpu::ThreadPool threads(3);
  Arena arena;
  SerialExecutor serial;
  Random random(7);
  SameNumbers<1> x(3 * cpu::parameters_per_task + 5, random, 1, 0);
  for (const Index count :
       {Index{0}, Index{1}, Index{255}, Index{257}, cpu::parameters_per_task + 1, 3 * cpu::parameters_per_task + 5}) {
    const double found = cpu::squared_norm(threads, arena, x.data(), count);
    CHECK(found == cpu::squared_norm(serial, arena, x.data(), count));
    CHECK(found == Approx(reference::squared_norm(x.exact_data(), count)).epsilon(1e-6));
  }
  x.data()[300] = INFINITY;
  CHECK_FALSE(std::isfinite(cpu::squared_norm(threads, arena, x.data(), 400)));
}

TEST_CASE("AdamW on the CPU: 2e-6 of the largest from the reference, the same on any number of threads; it uses up g") {
  cpu::ThreadPool threads(3);
  SerialExecutor serial;
  Random random(8);
  const Index count = cpu::parameters_per_task + 77;
  SameNumbers<1> theta(count, random, 1, 0), m(count, random, 0.1, 0), v(count, random, 0.1, 0);
  for (Index i = 0; i < count; ++i) v.data()[i] = static_cast<float>(v.exact_data()[i] *= v.exact_data()[i]);
  for (Index i = 0; i < count; ++i) v.exact_data()[i] = static_cast<double>(v.data()[i]);
  auto theta2 = theta, m2 = m, v2 = v;
  for (const Index t : {1, 2, 1000}) {
    SameNumbers<1> g(count, random, 1, 0);
    auto g2 = g;
    const AdamWStep step{.learning_rate = 0.01, .weight_decay = 0.1, .gradient_scale = 0.5, .step = t};
    cpu::adamw(threads, theta.data(), g.data(), m.data(), v.data(), count, step);
    cpu::adamw(serial, theta2.data(), g2.data(), m2.data(), v2.data(), count, step);
    reference::adamw(theta.exact_data(), g.exact_data(), m.exact_data(), v.exact_data(), count, step);
    const auto used_up = [=](const auto* x) { return std::all_of(x, x + count, [](auto one) { return one == 0; }); };
    CHECK((used_up(g.data()) && used_up(g2.data()) && used_up(g.exact_data())));
  }
  CHECK((theta.same_bits(theta2) && m.same_bits(m2) && v.same_bits(v2)));
  for (const double error : {theta.error(), m.error(), v.error()}) CHECK(error <= 2e-6);
}
