// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/mlstm_chunkwise_backward.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "cell_sequences.hpp"
#include "own_policy.hpp"
#include "xlstm/reference/mlstm_backward.hpp"

using namespace cell_sequences;

namespace {

namespace cuda = xlstm::cuda;

struct WithoutDenominator : xlstm::MLSTMPolicy {
  static constexpr bool denominator_gradient = false;
};
/// Largest errors over largest values.
struct Errors {
  double q, k, v, igate, fgate, c, n;
};

/// Sequences on the device, and beside them in double, token by token.
template <class Cell, class T, class Tuning = cuda::MLSTMChunkwiseTuning>
class Sequences : public CellSequences<Cell, T> {
  using Base = CellSequences<Cell, T>;
  using Base::offset, Base::size, Base::run_, Base::random_, Base::q_, Base::k_, Base::v_, Base::igate_, Base::fgate_,
      Base::state_;

 public:
  Sequences(Index sequences, Index length, std::uint64_t seed, const Gates& gates = {0, 2, 3, 2})
      : Base(sequences, length, seed), seed_(seed), dstate_(state_.size()) {
    dh_ = this->template rows_of<T>(Cell::v_width);
    this->draw_gates(gates);
  }

  /// A state as a few tokens might leave it, and a gradient of the last one.
  void with_states() {
    has_states_ = true;
    for (Index b = 0; b < run_.sequences; ++b) {
      for (Index i = 0; i < Cell::state_size; ++i) {
        const bool is_m = i >= Cell::m_offset;
        state_[at(b * size + offset + i)] =
            static_cast<float>(is_m && !Cell::InputGate::stabilized ? 0.0 : random_.normal());
        dstate_[at(b * size + offset + i)] = is_m ? not_a_number : static_cast<float>(random_.normal());
      }
    }
  }
  /// Of sequence b, what a document that starts with its first token forgets.
  void spoil_state(Index b) {
    Base::spoil_state(b);
    spoilt_ = b;
  }

  /// `of_terms`: errors over the largest value of the gradient's numerators alone. Where what goes through the
  /// denominator cancels them, as it does where h is one value, the error is theirs: δh·h has that of h, which is
  /// rounded to T.
  Errors compare(Index chunk_size, bool of_terms = false) {
    const Run run = this->run(chunk_size);
    const Gradients found = on_device(run);
    const Gradients again = on_device(run, true);  // threads in another order, and with the forward's states
    for (std::size_t i = 0; i < found.size(); ++i) REQUIRE(same_bits(found[i], again[i]));

    const Gradients expected = reference<Cell>();
    const Gradients terms = of_terms ? reference<Numerators>() : expected;
    std::array<double, 7> errors{};
    for (std::size_t i = 0; i < found.size(); ++i)
      errors[i] = difference(found[i], expected[i], std::max(largest(expected[i]), largest(terms[i])));
    return {errors[0], errors[1], errors[2], errors[3], errors[4], errors[5], errors[6]};
  }

  /// The largest error of the plain reference in fp32 over the largest value of its tensor: what the case itself costs.
  double rounding() const {
    const Gradients rounded = reference<Cell, float>(), expected = reference<Cell>();
    double worst = 0;
    for (std::size_t i = 0; i < rounded.size(); ++i)
      worst = std::max(worst, difference(rounded[i], expected[i], largest(expected[i])));
    return worst;
  }

 private:
  /// δq, δk, δv, δĩ, δf̃, and of the first states δC and δn.
  using Gradients = std::array<std::vector<double>, 7>;
  /// What the gradient is without what goes through the denominator.
  struct Numerators : Cell {
    static constexpr bool denominator_gradient = false;
  };

  /// Token by token, in double or in a float.
  template <class C, class U = double>
  Gradients reference() const {
    const Index rows = run_.rows();
    auto state = in<U>(state_);
    if (spoilt_ >= 0) std::fill_n(state.begin() + spoilt_ * size, size, U{});
    auto dstate = in<U>(dstate_);
    const auto state_slots = Base::template slots<std::vector<const U*>>(state);
    const auto dstate_slots = Base::template slots<std::vector<U*>>(dstate);
    const auto q = in<U>(q_), k = in<U>(k_), v = in<U>(v_), dh = in<U>(dh_);
    const auto igate = in<U>(igate_), fgate = in<U>(fgate_);
    std::vector<U> dq(q.size()), dk(k.size()), dv(v.size()), di(igate.size()), df(fgate.size());
    xlstm::reference::mlstm_backward<C, U>(
        this->run(), {{q.data(), rows}, {k.data(), rows}, {v.data(), rows}, {igate.data(), rows}, {fgate.data(), rows}},
        {has_states_ ? state_slots.data() : nullptr, offset}, {dh.data(), rows},
        {{dq.data(), rows}, {dk.data(), rows}, {dv.data(), rows}, {di.data(), rows}, {df.data(), rows}},
        {has_states_ ? dstate_slots.data() : nullptr, offset});
    return gathered(dq, dk, dv, di, df, in<double>(dstate));
  }
  template <class Rows, class Gates>
  Gradients gathered(const Rows& dq, const Rows& dk, const Rows& dv, const Gates& di, const Gates& df,
                     const std::vector<double>& dstate) const {
    return {in<double>(dq),
            in<double>(dk),
            in<double>(dv),
            in<double>(di),
            in<double>(df),
            part(dstate, 0, Cell::n_offset),
            part(dstate, Cell::n_offset, Cell::m_offset)};
  }
  /// Entries of the sequences' states.
  std::vector<double> part(const std::vector<double>& states, Index first, Index last) const {
    std::vector<double> entries;
    for (Index b = 0; has_states_ && b < run_.sequences; ++b) {
      const auto state = states.begin() + b * size + offset;
      entries.insert(entries.end(), state + first, state + last);
    }
    return entries;
  }

  /// Every array that is written is no number before. `kept`: backward gets what forward has left.
  Gradients on_device(const Run& run, bool kept = false) {
    const Index rows = run_.rows();
    auto dstate = dstate_;
    xlstm::tests::DeviceStream stream(seed_++);
    auto last_state = state_;
    auto state_slots = Base::template slots<DeviceVector<float*>>(state_);
    auto last_slots = Base::template slots<DeviceVector<float*>>(last_state);
    auto dstate_slots = Base::template slots<DeviceVector<float*>>(dstate);
    DeviceVector<T> h(v_.size()), dq(q_.size(), T(not_a_number)), dk = dq, dv(v_.size(), T(not_a_number));
    DeviceVector<float> di(igate_.size(), not_a_number), df = di, inverse = di, sign = di;
    const cuda::MLSTMDenominators denominators{inverse.data(), sign.data()};
    const auto before = state_;
    const auto input = this->input();
    auto left = device_memory(cuda::mlstm_chunkwise_bytes<Cell, T, Tuning>(run));
    cuda::mlstm_chunkwise<Cell, T, float, T, Tuning>(stream, run, input.q, input.k, input.v, input.igate, input.fgate,
                                                     {has_states_ ? last_slots.data() : nullptr, offset},
                                                     {h.data(), rows}, left.data(), denominators);
    auto memory = device_memory(cuda::mlstm_chunkwise_backward_bytes<Cell, T, Tuning>(run, kept));
    cuda::mlstm_chunkwise_backward<Cell, T, float, Tuning>(
        stream, run, input, {has_states_ ? state_slots.data() : nullptr, offset}, {h.data(), rows}, denominators,
        {dh_.data(), rows},
        {{dq.data(), rows}, {dk.data(), rows}, {dv.data(), rows}, {di.data(), rows}, {df.data(), rows}},
        {has_states_ ? dstate_slots.data() : nullptr, offset}, memory.data(), kept ? left.data() : nullptr);
    for (std::size_t i = 0; i < before.size(); ++i) {  // it is only read
      REQUIRE((before[i] == state_[i] || (std::isnan(before[i]) && std::isnan(state_[i]))));
    }
    const auto first = in<double>(dstate);
    for (const double m : part(first, Cell::m_offset, Cell::state_size)) CHECK(m == 0.0);
    return gathered(dq, dk, dv, di, df, first);
  }
  static bool same_bits(const std::vector<double>& x, const std::vector<double>& y) {
    return std::equal(x.begin(), x.end(), y.begin(), y.end(),
                      [](double a, double b) { return a == b && std::signbit(a) == std::signbit(b); });
  }
  static double largest(const std::vector<double>& values) {
    double most = 1e-30;
    for (const double x : values) most = std::max(most, std::abs(x));
    return most;
  }
  static double difference(const std::vector<double>& found, const std::vector<double>& expected, double unit) {
    REQUIRE(found.size() == expected.size());
    const double smallest = std::is_same_v<T, f16> ? 0x1p-25 : 0;  // what rounding a subnormal costs
    double worst = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const double d = std::abs(found[i] - expected[i]);
      if (!std::isfinite(d)) return std::numeric_limits<double>::infinity();
      worst = std::max(worst, d <= smallest ? 0 : d - smallest);
    }
    return worst / unit;
  }

  std::uint64_t seed_;
  bool has_states_ = false;
  Index spoilt_ = -1;
  DeviceVector<T> dh_;
  DeviceVector<float> dstate_;
};

template <class T>
void check(const Errors& errors, double factor = 1) {
  const double most = factor * (std::is_same_v<T, bf16> ? 0x1p-6 : std::is_same_v<T, f16> ? 0x1p-9 : 2e-5);
  CAPTURE(errors.q, errors.k, errors.v, errors.igate, errors.fgate, errors.c, errors.n);
  CHECK(errors.q < most);
  CHECK(errors.k < most);
  CHECK(errors.v < most);
  CHECK(errors.igate < most);
  CHECK(errors.fgate < most);
  CHECK(errors.c < most);
  CHECK(errors.n < most);
}

using Cell = xlstm::MLSTMCell<2, 20, 24>;

TEMPLATE_TEST_CASE("Gradients follow the reference, of any length, from the last state and to the first", "[cuda]",
                   float, bf16, f16) {
  for (const Index length : {1, 17, 70}) {
    Sequences<Cell, TestType, SmallTiles> plain(2, length, 1);
    check<TestType>(plain.compare(40));
    Sequences<Cell, TestType, SmallTiles> given(2, length, 2, {-2, 1, 4, 1});
    given.with_states();
    check<TestType>(given.compare(32));
  }
  Sequences<Cell, TestType, SmallTiles> by_token(1, 9, 3);
  by_token.with_states();
  check<TestType>(by_token.compare(1));
}

TEST_CASE("Gradients of odd sizes", "[cuda]") {
  Sequences<xlstm::MLSTMCell<1, 5, 7>, bf16, SmallTiles> odd(2, 33, 1);
  odd.with_states();
  check<bf16>(odd.compare(20));
}

TEMPLATE_TEST_CASE("No gradient crosses a document's start, whatever was before", "[cuda]", float, bf16, f16) {
  for (std::uint64_t seed = 0; seed < 2; ++seed) {
    Sequences<Cell, TestType, SmallTiles> packed(3, 100, seed, {0, 2, 4, 2});
    packed.with_states();
    packed.start_documents_at({0, 1, 40, 41, 64, 99, 132, 263, 299});
    packed.spoil_state(0);
    double factor = 1;
    if constexpr (std::is_same_v<TestType, float>) {
      // A token of the first case has scores that all but cancel in their sum: plain arithmetic in fp32, token by
      // token, is off by 6e-6, a hundred roundings. Tiles, which sum in another order that compilers contract as they
      // like, have been off by up to 2.6e-5.
      factor = std::clamp(8 * packed.rounding() / 2e-5, 1.0, 2.0);
    }
    check<TestType>(packed.compare(48), factor);
  }
}

TEMPLATE_TEST_CASE("Gradients with gates at their caps", "[cuda]", float, bf16, f16) {
  for (const double igate : {-30.0, 30.0}) {
    for (const double fgate : {-30.0, 0.0, 30.0}) {
      CAPTURE(igate, fgate);
      Sequences<Cell, TestType, SmallTiles> capped(1, 80, 1, {igate, 0.1, fgate, 0.1});
      capped.with_states();
      // Where all of the past is kept or none, some tokens' scores all but cancel in their sum, which has their
      // rounding.
      check<TestType>(capped.compare(48, true), igate > 0 && std::is_same_v<TestType, float> ? 30 : 2);
    }
  }
}

TEST_CASE("Gradients of other cells", "[cuda]") {
  const auto check_cell = [](auto sequences) {
    sequences.with_states();
    check<float>(sequences.compare(32));
  };
  check_cell(Sequences<xlstm::MLSTMCell<2, 10, 18, SigmoidPolicy>, float, SmallTiles>(2, 60, 1));
  check_cell(Sequences<xlstm::MLSTMCell<2, 10, 18, SigmoidPlainPolicy>, float, SmallTiles>(2, 60, 3));
  check_cell(Sequences<xlstm::MLSTMCell<2, 10, 18, WithoutDenominator>, float, SmallTiles>(2, 60, 4));
  check_cell(Sequences<xlstm::MLSTMCell<2, 10, 18, xlstm::tests::OwnPolicy>, float, SmallTiles>(2, 60, 5));
}

TEST_CASE("Small gradients of closed forget gates keep their digits", "[cuda]") {
  Sequences<Cell, float, SmallTiles> closed(1, 100, 1, {0, 1, -8, 1});
  check<float>(closed.compare(64));
}

TEST_CASE("No tokens have no gradients", "[cuda]") {
  const Errors errors = Sequences<Cell, float, SmallTiles>(0, 5, 1).compare(0);
  REQUIRE(errors.q == 0);
}

}  // namespace
