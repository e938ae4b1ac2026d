// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/mlstm_step.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "device.hpp"
#include "own_policy.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/reference/mlstm_recurrent.hpp"

using xlstm::bf16;
using xlstm::f16;
using xlstm::Index;
using xlstm::MatrixView;
using xlstm::StateSlots;
using xlstm::tests::DeviceVector;

namespace {

namespace cuda = xlstm::cuda;

struct SigmoidPolicy : xlstm::MLSTMPolicy {
  using InputGate = xlstm::SigmoidInputGate;
  using GateCap = xlstm::NoSoftCap;
  using Normalizer = xlstm::NoNormalizer;
};

/// A batch that steps on the device in fp32, and beside it in double.
template <class Cell, class T, class H>
class Batch {
 public:
  Batch(Index sequences, Index offset, std::uint64_t seed)
      : sequences_(sequences), offset_(offset), random_(seed), stream_(seed), tickets_(at(sequences * Cell::heads)) {
    const Index size = xlstm::round_up(offset + Cell::state_size, 4);
    found_.assign(at(sequences * size / 4), cuda::Vector<float, 4>{});
    expected_.resize(at(sequences * size));
    for (Index b = 0; b < sequences; ++b) {
      found_slots_.push_back(found_[at(b * size / 4)].values);
      expected_slots_.push_back(expected_.data() + b * size);
    }
  }

  /// One token: `forgets` says where a document starts. Returns the largest error of h and of the states, each relative
  /// to the largest value.
  std::pair<double, double> step(const DeviceVector<std::uint8_t>& forgets = {}) {
    const auto q = inputs<T>(Cell::qk_width), k = inputs<T>(Cell::qk_width), v = inputs<T>(Cell::v_width);
    const auto igate = inputs<float>(Cell::heads, 0, 8), fgate = inputs<float>(Cell::heads, 3, 8);
    DeviceVector<H> h(at(sequences_ * Cell::v_width), H(std::numeric_limits<float>::quiet_NaN()));
    std::vector<double> expected_h(h.size());
    const std::uint8_t* starts = forgets.empty() ? nullptr : forgets.data();

    cuda::mlstm_step<Cell, T, float, H>(stream_, {q.data(), sequences_}, {k.data(), sequences_}, {v.data(), sequences_},
                                        {igate.data(), sequences_}, {fgate.data(), sequences_},
                                        {found_slots_.data(), offset_}, {starts, sequences_}, {h.data(), sequences_},
                                        tickets_.data());

    const auto wq = wide(q), wk = wide(k), wv = wide(v), wi = wide(igate), wf = wide(fgate);
    const xlstm::MLSTMInput<const double, Cell> in{{wq.data(), sequences_},
                                                   {wk.data(), sequences_},
                                                   {wv.data(), sequences_},
                                                   {wi.data(), sequences_},
                                                   {wf.data(), sequences_}};
    xlstm::Run run{.sequences = sequences_, .starts = starts};
    xlstm::reference::mlstm_recurrent<Cell, double>(run, in, StateSlots<double>{expected_slots_.data(), offset_},
                                                    {expected_h.data(), sequences_});
    std::pair<double, double> error;
    error.first = difference([&](Index i) { return static_cast<double>(float{h[at(i)]}); }, expected_h.data(),
                             static_cast<Index>(h.size()));
    for (Index b = 0; b < sequences_; ++b) {
      const float* found = found_slots_[at(b)] + offset_;
      error.second = std::max(error.second, difference([&](Index i) { return static_cast<double>(found[i]); },
                                                       expected_slots_[at(b)] + offset_, Cell::state_size));
    }
    for (const unsigned ticket : tickets_) REQUIRE(ticket == 0);
    return error;
  }
  /// What is in the states, to be forgotten.
  void spoil(Index sequence) {
    for (Index i = 0; i < Cell::state_size; ++i) {
      found_slots_[at(sequence)][offset_ + i] = std::numeric_limits<float>::quiet_NaN();
    }
  }

 private:
  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
  template <class U>
  DeviceVector<U> inputs(Index width, double mean = 0, double deviation = 1) {
    DeviceVector<U> all;
    for (Index i = 0; i < sequences_ * width; ++i) all.push_back(U(mean + deviation * random_.normal()));
    return all;
  }
  template <class U>
  static std::vector<double> wide(const DeviceVector<U>& x) {
    return std::vector<double>(x.begin(), x.end());
  }
  template <class Found>
  static double difference(Found&& found, const double* expected, Index count) {
    double worst = 0;
    double largest = 1e-30;
    for (Index i = 0; i < count; ++i) {
      const double d = std::abs(found(i) - expected[i]);
      worst = std::isnan(d) ? std::numeric_limits<double>::infinity() : std::max(worst, d);
      largest = std::max(largest, std::abs(expected[i]));
    }
    return worst / largest;
  }

  Index sequences_;
  Index offset_;
  xlstm::Random random_;
  xlstm::tests::DeviceStream stream_;
  DeviceVector<unsigned> tickets_;
  DeviceVector<cuda::Vector<float, 4>> found_;  ///< for its alignment
  std::vector<double> expected_;
  DeviceVector<float*> found_slots_;
  std::vector<double*> expected_slots_;
};

template <Index Heads, Index Q, Index V, class Policy = xlstm::MLSTMPolicy, class T = float, class H = float>
void check(Index sequences, int steps, Index offset = 0, double allowed = 1e-5) {
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    Batch<xlstm::MLSTMCell<Heads, Q, V, Policy>, T, H> batch(sequences, offset, seed);
    for (int t = 0; t < steps; ++t) {
      const auto [h, state] = batch.step();
      CHECK(h < allowed);
      CHECK(state < 1e-5);
    }
  }
}

TEST_CASE("Steps of the mLSTM follow the reference, of any sizes", "[cuda]") {
  check<1, 1, 1>(1, 4);
  check<3, 5, 7>(2, 6);
  check<2, 16, 32>(3, 6);
  check<1, 33, 70>(2, 4);
  check<2, 300, 36>(1, 3);
  check<1, 520, 4, xlstm::MLSTMPolicy>(1, 3, 0, 1e-4);  // a first token's q·k may cancel
}

TEST_CASE("A step of the 7B's head", "[cuda]") { check<1, 256, 512, xlstm::MLSTMPolicy, bf16, float>(1, 2); }

TEST_CASE("A module's state may begin anywhere in a slot", "[cuda]") {
  check<2, 16, 32>(2, 3, 4);
  check<2, 16, 32>(2, 3, 5);
}

TEST_CASE("Inputs and outputs of 16 bits cost their own rounding alone", "[cuda]") {
  check<2, 24, 40, xlstm::MLSTMPolicy, bf16, bf16>(2, 4, 0, 0x1p-8);
  check<2, 24, 40, xlstm::MLSTMPolicy, f16, f16>(2, 4, 0, 0x1p-11);
}

TEST_CASE("A cell with a sigmoid gate and without cap or normalizer", "[cuda]") {
  check<2, 12, 20, SigmoidPolicy>(2, 6);
}

TEST_CASE("A cell with gates of a program's own", "[cuda]") { check<2, 12, 20, xlstm::tests::OwnPolicy>(2, 6); }

TEST_CASE("A document's start forgets the state, whatever is in it", "[cuda]") {
  using Cell = xlstm::MLSTMCell<2, 20, 36>;
  Batch<Cell, float, float> batch(3, 0, 5);
  batch.step();
  batch.step();
  batch.spoil(1);
  for (const DeviceVector<std::uint8_t>& forgets : {DeviceVector<std::uint8_t>{0, 1, 0}, {0, 0, 0}, {1, 0, 1}}) {
    const auto [h, state] = batch.step(forgets);
    CHECK(h < 1e-5);
    CHECK(state < 1e-5);
  }
}

TEST_CASE("A batch of no sequences is nothing", "[cuda]") {
  Batch<xlstm::MLSTMCell<1, 4, 4>, float, float> batch(0, 0, 1);
  REQUIRE(batch.step() == std::pair<double, double>{0, 0});
}

}  // namespace
