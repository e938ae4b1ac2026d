// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/mlstm_chunkwise.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "catch.hpp"
#include "cell_sequences.hpp"
#include "xlstm/reference/mlstm_recurrent.hpp"

using namespace cell_sequences;

namespace {

namespace cuda = xlstm::cuda;

struct PlainPolicy : xlstm::MLSTMPolicy {
  using Normalizer = xlstm::NoNormalizer;
};
/// Of h relative to what its terms' rounding explains, of the states relative to their largest value.
struct Errors {
  double h;
  double c;
  double n;
  double m;
};

/// Sequences on the device, and beside them in double, token by token.
template <class Cell, class T, class H, class Tuning = cuda::MLSTMChunkwiseTuning>
class Sequences : public CellSequences<Cell, T> {
  using Base = CellSequences<Cell, T>;
  using Base::offset, Base::size, Base::run_, Base::random_, Base::q_, Base::k_, Base::v_, Base::igate_, Base::fgate_,
      Base::state_;
  struct Policy : xlstm::MLSTMPolicy {
    using InputGate = typename Cell::InputGate;
    using GateCap = typename Cell::GateCap;
  };
  struct PlainLike : Policy {
    using Normalizer = xlstm::NoNormalizer;
  };

 public:
  Sequences(Index sequences, Index length, std::uint64_t seed, const Gates& gates = {0, 8, 3, 8})
      : Base(sequences, length, seed), stream_(seed), expected_(state_.size()) {
    this->draw_gates(gates);
  }

  /// A state as a few tokens might leave it.
  void begin_with_a_state() {
    for (Index b = 0; b < run_.sequences; ++b) {
      for (Index i = 0; i < Cell::state_size; ++i) {
        const double x =
            i >= Cell::m_offset ? (Cell::InputGate::stabilized ? 2 * random_.normal() : 0.0) : random_.normal();
        state_[at(b * size + offset + i)] = static_cast<float>(x);
        expected_[at(b * size + offset + i)] = static_cast<double>(static_cast<float>(x));
      }
    }
  }

  Errors compare(Index chunk_size, bool with_state = true) {
    const Run run = this->run(chunk_size);
    const Index rows = run.rows();
    DeviceVector<H> h(at(rows * Cell::v_width), H(not_a_number));
    auto memory = device_memory(cuda::mlstm_chunkwise_bytes<Cell, T, Tuning>(run));
    auto slots = Base::template slots<DeviceVector<float*>>(state_);
    const auto in = this->input();
    cuda::mlstm_chunkwise<Cell, T, float, H, Tuning>(stream_, run, in.q, in.k, in.v, in.igate, in.fgate,
                                                     {with_state ? slots.data() : nullptr, offset}, {h.data(), rows},
                                                     memory.data());

    Errors errors{error_of_h(h, with_state), 0, 0, 0};
    for (Index b = 0; with_state && b < run_.sequences; ++b) {
      const float* found = state_.data() + b * size + offset;
      const double* expected = expected_.data() + b * size + offset;
      errors.c = std::max(errors.c, difference(found, expected, Cell::c_size));
      errors.n = std::max(errors.n, difference(found + Cell::n_offset, expected + Cell::n_offset, Cell::qk_width));
      errors.m = std::max(errors.m, difference(found + Cell::m_offset, expected + Cell::m_offset, Cell::heads));
    }
    return errors;
  }

 private:
  /// h of the reference, from the inputs or from their absolute values; `state` is advanced.
  template <class C>
  std::vector<double> reference(std::vector<double> v, std::vector<double>& state, bool absolute) const {
    auto q = in<double>(q_), k = in<double>(k_);
    const auto igate = in<double>(igate_), fgate = in<double>(fgate_);
    if (absolute) {
      for (auto* values : {&q, &k, &v}) make_absolute(*values, 0, static_cast<Index>(values->size()));
    }
    std::vector<double*> slots;
    for (Index b = 0; b < run_.sequences; ++b) {
      slots.push_back(state.data() + b * (offset + C::state_size));
      if (absolute) make_absolute(state, b * (offset + C::state_size) + offset, C::m_offset);
    }
    const Index rows = run_.rows();
    std::vector<double> h(at(rows * C::v_width));
    const xlstm::MLSTMInput<const double, C> input{
        {q.data(), rows}, {k.data(), rows}, {v.data(), rows}, {igate.data(), rows}, {fgate.data(), rows}};
    xlstm::reference::mlstm_recurrent<C, double>(this->run(), input, {slots.data(), offset}, {h.data(), rows});
    return h;
  }
  /// The largest of |Δh| / ((A + |h| S) / d): with A and S what the sums that are h's numerator and denominator come to
  /// for absolute values, and d the denominator. So a sum that nearly cancels may be wrong by what its terms allow.
  double error_of_h(const DeviceVector<H>& found, bool with_state) {
    using Plain = xlstm::MLSTMCell<Cell::heads, Cell::qk_dim, Cell::v_dim, PlainLike>;
    using Ones = xlstm::MLSTMCell<Cell::heads, Cell::qk_dim, 1, Policy>;
    using PlainOnes = xlstm::MLSTMCell<Cell::heads, Cell::qk_dim, 1, PlainLike>;
    // The denominator as the numerator of values that are 1: C is n.
    std::vector<double> of_ones(at(run_.sequences * (offset + Ones::state_size)));
    for (Index b = 0; b < run_.sequences; ++b) {
      const double* n = expected_.data() + b * size + offset + Cell::n_offset;
      double* to = of_ones.data() + b * (offset + Ones::state_size) + offset;
      std::copy_n(n, Cell::qk_width, to);
      std::copy_n(n, Cell::qk_width + Cell::heads, to + Ones::n_offset);
    }
    REQUIRE((with_state || std::all_of(expected_.begin(), expected_.end(), [](double x) { return x == 0; })));
    auto state = expected_, state_of_ones = of_ones, absolute_of_ones = of_ones;
    const auto v = in<double>(v_);
    const std::vector<double> ones(at(run_.rows() * Cell::heads), 1.0);
    const auto terms = reference<Plain>(v, state, true);
    const auto weights = reference<PlainOnes>(ones, absolute_of_ones, true);
    const auto sums = reference<PlainOnes>(ones, state_of_ones, false);
    const auto ratios = reference<Ones>(ones, of_ones, false);
    const auto expected = reference<Cell>(v, expected_, false);

    const double smallest = std::is_same_v<H, f16> ? 0x1p-25 : 0;  // what rounding a subnormal h costs
    double worst = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const std::size_t head = i / at(Cell::v_dim);
      const double d = Cell::Normalizer::active ? sums[head] / ratios[head] : 1.0;
      const double term = terms[i] + (Cell::Normalizer::active ? std::abs(expected[i]) * weights[head] : 0.0);
      const double difference = std::abs(static_cast<double>(float{found[i]}) - expected[i]);
      const double error = (difference <= smallest ? 0 : difference - smallest) * d / term;
      worst = std::isnan(error) ? infinite : std::max(worst, error);
    }
    return worst;
  }

  static void make_absolute(std::vector<double>& x, Index first, Index count) {
    for (Index i = first; i < first + count; ++i) x[at(i)] = std::abs(x[at(i)]);
  }

  xlstm::tests::DeviceStream stream_;
  std::vector<double> expected_;
};

/// What is allowed. 16 bits: P, the weighted keys and the states are rounded to T once each, to nearest, and so is h.
/// fp32: sums of log f have an error of some units in their last place, and it is what exponents are wrong by.
template <class T>
Errors allowed(double forgotten) {
  const double rounding = std::is_same_v<T, bf16> ? 0x1p-8 : std::is_same_v<T, f16> ? 0x1p-11 : 0x1p-22;
  const double most = 2 * rounding + 0x1p-22 * forgotten;
  return {most, most, most, 1e-5};
}
template <class T>
void check(const Errors& errors, double forgotten = 64) {
  const Errors most = allowed<T>(forgotten);
  CHECK(errors.h < most.h);
  CHECK(errors.c < most.c);
  CHECK(errors.n < most.n);
  CHECK(errors.m < most.m);
}

TEMPLATE_TEST_CASE("Chunks follow the reference, of any sizes and lengths", "[cuda]", float, bf16, f16) {
  using Odd = xlstm::MLSTMCell<2, 5, 7>;
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    for (const Index length : {1, 17, 64, 100}) {
      check<TestType>(Sequences<Odd, TestType, TestType, SmallTiles>(2, length, seed).compare(40));
    }
    using Tiles = xlstm::MLSTMCell<1, 72, 40>;
    check<TestType>(Sequences<Tiles, TestType, TestType, SmallTiles>(1, 100, seed).compare(64));
    check<TestType>(Sequences<Tiles, TestType, TestType>(1, 50, seed).compare(0));
    check<TestType>(Sequences<xlstm::MLSTMCell<1, 24, 16>, TestType, float>(1, 33, seed).compare(1));
  }
}

TEMPLATE_TEST_CASE("Chunks begin with a state", "[cuda]", float, bf16, f16) {
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    Sequences<xlstm::MLSTMCell<2, 20, 36>, TestType, float, SmallTiles> given(2, 70, seed, {-10, 1, 4, 1});
    given.begin_with_a_state();
    check<TestType>(given.compare(32));
  }
}

TEMPLATE_TEST_CASE("Documents start anywhere, and forget whatever was before", "[cuda]", float, bf16, f16) {
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    Sequences<xlstm::MLSTMCell<2, 16, 24>, TestType, float, SmallTiles> packed(3, 100, seed, {0, 3, 4, 2});
    packed.begin_with_a_state();
    packed.start_documents_at({0, 1, 40, 41, 64, 99, 132, 263, 299});
    packed.spoil_state(0);
    check<TestType>(packed.compare(32));
  }
}

TEST_CASE("Without a state there are zeros before the first token", "[cuda]") {
  for (std::uint64_t seed = 0; seed < 2; ++seed) {
    Sequences<xlstm::MLSTMCell<2, 16, 16>, float, float, SmallTiles> fresh(2, 50, seed);
    check<float>(fresh.compare(16, false));
  }
}

TEMPLATE_TEST_CASE("Gates at their caps", "[cuda]", float, bf16, f16) {
  using Cell = xlstm::MLSTMCell<2, 16, 16>;
  for (const double igate : {-1000.0, 1000.0}) {
    for (const double fgate : {-1000.0, 0.0, 1000.0}) {
      Sequences<Cell, TestType, float, SmallTiles> capped(1, 80, 1, {igate, 0, fgate, 0});
      capped.begin_with_a_state();
      check<TestType>(capped.compare(64), 64 * 15);
    }
  }
}

TEMPLATE_TEST_CASE("Chunks of cells with another gate or no normalizer", "[cuda]", float, bf16, f16) {
  for (std::uint64_t seed = 0; seed < 2; ++seed) {
    Sequences<xlstm::MLSTMCell<2, 12, 20, SigmoidPolicy>, TestType, float, SmallTiles> sigmoid(2, 60, seed);
    sigmoid.begin_with_a_state();
    check<TestType>(sigmoid.compare(32));
    Sequences<xlstm::MLSTMCell<2, 12, 20, PlainPolicy>, TestType, float, SmallTiles> plain(2, 60, seed);
    plain.begin_with_a_state();
    check<TestType>(plain.compare(32));
  }
}

TEST_CASE("The tiles of the 7B's head", "[cuda]") {
  Sequences<xlstm::MLSTMCell<1, 256, 512>, bf16, bf16> whole(1, 40, 1, {-1, 1, 4, 1});
  check<bf16>(whole.compare(24));
}

TEMPLATE_TEST_CASE("The tiles of the 7B's head as newer devices have them", "[cuda]", cuda::MLSTMChunkwiseTuning90,
                   cuda::MLSTMChunkwiseTuning100) {
  Sequences<xlstm::MLSTMCell<1, 256, 512>, bf16, bf16, TestType> whole(1, 40, 1, {-1, 1, 4, 1});
  check<bf16>(whole.compare(24));
}

#if !defined(XLSTM_ON_DEVICE)  // there it is compiled for one architecture alone

template <class Tuning>
int columns_on(int compute_capability) {
  int columns = 0;
  cuda::with_chunkwise_tuning<Tuning>(compute_capability, [&]<class T>() {
    columns = T::state_columns + (std::is_same_v<T, cuda::MLSTMChunkwiseTuning100> ? 1000 : 0);
  });
  return columns;
}

TEST_CASE("A device has the tuning that is not newer than it, unless a program has its own", "[cuda]") {
  CHECK(columns_on<cuda::MLSTMChunkwiseTunings>(80) == 32);
  CHECK(columns_on<cuda::MLSTMChunkwiseTunings>(89) == 32);
  CHECK(columns_on<cuda::MLSTMChunkwiseTunings>(90) == 64);
  CHECK(columns_on<cuda::MLSTMChunkwiseTunings>(100) == 1064);
  CHECK(columns_on<cuda::MLSTMChunkwiseTunings>(120) == 1064);
  CHECK(columns_on<SmallTiles>(90) == 16);
}

#endif

TEST_CASE("No tokens are nothing", "[cuda]") {
  const Errors errors = Sequences<xlstm::MLSTMCell<1, 4, 4>, float, float>(0, 5, 1).compare(0);
  REQUIRE(errors.h == 0);
}

}  // namespace
