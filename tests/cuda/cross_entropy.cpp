// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/cross_entropy.hpp"

#include <limits>

#include "catch.hpp"
#include "device.hpp"
#include "twin_matrix.hpp"
#include "xlstm/cell/gates.hpp"
#include "xlstm/reference/training.hpp"

using xlstm::bf16;
using xlstm::f16;
using xlstm::ignored_target;
using xlstm::Index;
using xlstm::LossSum;
using xlstm::NoSoftCap;
using xlstm::Token;
using xlstm::tests::DeviceVector;
using xlstm::tests::Layout;
using xlstm::tests::TwinMatrix;
using Cap = xlstm::SoftCap<30.0>;

namespace {

namespace cuda = xlstm::cuda;

template <class C, class T>
LossSum loss(TwinMatrix<T>& logits, const DeviceVector<Token>& targets, double z_loss, double gradient_scale,
             std::uint64_t schedule = 0) {
  const Index rows = logits.device().rows();
  DeviceVector<cuda::RowLoss> memory(static_cast<std::size_t>(cuda::cross_entropy_bytes(rows)) / sizeof(cuda::RowLoss),
                                     {xlstm::tests::not_a_number, xlstm::tests::not_a_number});
  DeviceVector<LossSum> sum(1, LossSum{7, 7, 7});
  xlstm::tests::DeviceStream stream(schedule);
  cuda::cross_entropy<C, T>(stream, logits.device(), targets.data(), z_loss, gradient_scale, sum.data(), memory.data());
  return sum[0];
}

template <class C, class T>
void check(Index rows, Index vocabulary, double deviation, double z_loss, double gradient_scale, Layout layout = {}) {
  for (std::uint64_t seed = 0; seed < 2; ++seed) {
    TwinMatrix<T> logits(rows, vocabulary, seed, layout, deviation);
    xlstm::Random random(seed);
    DeviceVector<Token> targets;
    for (Index r = 0; r < rows; ++r) {
      const auto choice = random.below(static_cast<std::uint64_t>(vocabulary) + 1);
      targets.push_back(static_cast<Token>(choice) - 1);  // −1 is ignored
    }
    const LossSum found = loss<C>(logits, targets, z_loss, gradient_scale, seed);
    TwinMatrix<double> untouched(rows, vocabulary, 0);
    if (gradient_scale == 0) {
      for (Index r = 0; r < rows; ++r) {
        for (Index c = 0; c < vocabulary; ++c) untouched.host()(r, c) = logits.host()(r, c);
      }
    }
    const LossSum expected = xlstm::reference::cross_entropy<C>(gradient_scale == 0 ? untouched.host() : logits.host(),
                                                                std::span(targets), z_loss, gradient_scale);
    CHECK(found.targets == expected.targets);
    CHECK_THAT(found.nll, WithinRel(expected.nll, 1e-5) || WithinAbs(expected.nll, 1e-6));
    CHECK_THAT(found.z_loss, WithinRel(expected.z_loss, 1e-6) || WithinAbs(expected.z_loss, 1e-6));
    logits.compare(xlstm::tests::rounding<T> + 2e-5,
                   (std::is_same_v<T, f16> ? 0x1p-24 : 0) + 2e-6 * std::abs(gradient_scale));
  }
}

TEST_CASE("Loss and its gradient over the logits, vocabularies of any size", "[cuda]") {
  check<Cap, float>(1, 1, 3, 0, 1);
  check<Cap, float>(5, 7, 3, 1e-4, 0.25);
  check<Cap, float>(3, 130, 10, 1e-2, 1, {.gap = 3});
  check<Cap, float>(2, 4100, 5, 1e-4, 1, {.gap = 4});
  check<NoSoftCap, float>(3, 130, 10, 1e-4, 1, {.offset = 1});
  check<NoSoftCap, float>(2, 1024, 40, 0, 2);
}

TEST_CASE("Loss without a gradient leaves the logits as they are", "[cuda]") {
  check<Cap, float>(4, 70, 5, 1e-4, 0);
  check<NoSoftCap, bf16>(4, 70, 5, 1e-4, 0);
}

TEST_CASE("Logits and gradients of 16 bits", "[cuda]") {
  check<Cap, bf16>(3, 264, 5, 1e-4, 1);
  check<NoSoftCap, f16>(3, 50, 5, 0, 1, {.gap = 1});
}

TEST_CASE("Logits far beyond the cap, and far apart without one", "[cuda]") {
  check<Cap, float>(3, 40, 1e4, 1e-4, 1);
  check<NoSoftCap, float>(3, 40, 1e4, 0, 1);
}

TEST_CASE("A batch of ignored targets, and one of none", "[cuda]") {
  TwinMatrix<float> logits(3, 20, 1);
  const LossSum sum = loss<Cap>(logits, DeviceVector<Token>(3, ignored_target), 1e-4, 1);
  REQUIRE(sum.nll == 0);
  REQUIRE(sum.z_loss == 0);
  REQUIRE(sum.targets == 0);
  for (Index r = 0; r < 3; ++r) {
    for (Index c = 0; c < 20; ++c) REQUIRE(logits.device()(r, c) == 0);
  }
  TwinMatrix<float> none(0, 20, 1);
  REQUIRE(loss<Cap>(none, {}, 0, 1).targets == 0);
}

TEST_CASE("A logit that is −∞ has no probability; one that is no number spoils its row alone", "[cuda]") {
  TwinMatrix<float> logits(2, 20, 1);
  const float infinite = std::numeric_limits<float>::infinity();
  for (Index c = 0; c < 20; ++c) logits.device()(0, c) = c < 12 ? -infinite : 1.0F;
  const LossSum sum = loss<NoSoftCap>(logits, {13, ignored_target}, 0, 1);
  REQUIRE(sum.nll == Approx(std::log(8.0)));
  REQUIRE(logits.device()(0, 3) == 0);
  REQUIRE(logits.device()(0, 12) == Approx(0.125));
  REQUIRE(logits.device()(0, 13) == Approx(-0.875));

  TwinMatrix<float> other(2, 20, 1);
  other.device()(1, 4) = std::numeric_limits<float>::quiet_NaN();
  REQUIRE(std::isnan(loss<NoSoftCap>(other, {3, 4}, 0, 1).nll));
  for (Index c = 0; c < 20; ++c) {
    REQUIRE(!std::isnan(other.device()(0, c)));
    REQUIRE(std::isnan(other.device()(1, c)));
  }
}

TEST_CASE("Sums of many rows are the same bits in every schedule", "[cuda]") {
  constexpr Index rows = 2500;
  xlstm::Random random(1);
  DeviceVector<Token> targets;
  DeviceVector<cuda::RowLoss> losses;
  LossSum expected;
  for (Index r = 0; r < rows; ++r) {
    targets.push_back(r % 7 == 0 ? ignored_target : 1);
    losses.push_back({random.normal(), random.normal()});
    if (r % 7 != 0) expected += {losses.back().nll, losses.back().log_z * losses.back().log_z, 1};
  }
  LossSum first;
  for (std::uint64_t schedule = 0; schedule < 3; ++schedule) {
    DeviceVector<LossSum> made(1);
    xlstm::tests::run_on_device({1}, cuda::LossSumKernel{targets.data(), losses.data(), rows, made.data()}, schedule);
    const LossSum sum = made[0];
    if (schedule == 0) first = sum;
    REQUIRE(sum.nll == first.nll);
    REQUIRE(sum.z_loss == first.z_loss);
    REQUIRE(sum.targets == expected.targets);
  }
  REQUIRE(first.nll == Approx(expected.nll).epsilon(1e-12));
  REQUIRE(first.z_loss == Approx(expected.z_loss).epsilon(1e-12));
}

}  // namespace
