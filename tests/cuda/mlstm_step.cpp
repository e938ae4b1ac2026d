// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/mlstm_step.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "cell_sequences.hpp"
#include "own_policy.hpp"
#include "xlstm/reference/mlstm_recurrent.hpp"

using namespace cell_sequences;

namespace {

namespace cuda = xlstm::cuda;

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
    DeviceVector<H> h(at(sequences_ * Cell::v_width), H(not_a_number));
    std::vector<double> expected_h(h.size());
    const std::uint8_t* starts = forgets.empty() ? nullptr : forgets.data();

    cuda::mlstm_step<Cell, T, float, H>(stream_, {q.data(), sequences_}, {k.data(), sequences_}, {v.data(), sequences_},
                                        {igate.data(), sequences_}, {fgate.data(), sequences_},
                                        {found_slots_.data(), offset_}, {starts, sequences_}, {h.data(), sequences_},
                                        tickets_.data());

    const auto wq = in<double>(q), wk = in<double>(k), wv = in<double>(v);
    const auto wi = in<double>(igate), wf = in<double>(fgate);
    const xlstm::MLSTMInput<const double, Cell> input{{wq.data(), sequences_},
                                                      {wk.data(), sequences_},
                                                      {wv.data(), sequences_},
                                                      {wi.data(), sequences_},
                                                      {wf.data(), sequences_}};
    xlstm::Run run{.sequences = sequences_, .starts = starts};
    xlstm::reference::mlstm_recurrent<Cell, double>(run, input, StateSlots<double>{expected_slots_.data(), offset_},
                                                    {expected_h.data(), sequences_});
    std::pair<double, double> error;
    error.first = difference(h.data(), expected_h.data(), static_cast<Index>(h.size()));
    for (Index b = 0; b < sequences_; ++b) {
      error.second = std::max(
          error.second, difference(found_slots_[at(b)] + offset_, expected_slots_[at(b)] + offset_, Cell::state_size));
    }
    for (const unsigned ticket : tickets_) REQUIRE(ticket == 0);
    return error;
  }
  /// What is in the states, to be forgotten.
  void spoil(Index sequence) { std::fill_n(found_slots_[at(sequence)] + offset_, Cell::state_size, not_a_number); }

 private:
  template <class U>
  DeviceVector<U> inputs(Index width, double mean = 0, double deviation = 1) {
    return normals<U>(random_, sequences_ * width, mean, deviation);
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
  check<2, 12, 20, SigmoidPlainPolicy>(2, 6);
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
