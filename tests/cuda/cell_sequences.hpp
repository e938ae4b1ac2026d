// SPDX-License-Identifier: Apache-2.0
// What the tests of the cell on a device share: random inputs there, the same values in double, and for the chunkwise
// form sequences and small tiles.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "device.hpp"
#include "xlstm/cell/mlstm.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/core/run.hpp"
#include "xlstm/cuda/mlstm_chunkwise_tuning.hpp"
#include "xlstm/cuda/vector.hpp"

namespace cell_sequences {

using xlstm::bf16;
using xlstm::f16;
using xlstm::Index;
using xlstm::Run;
using xlstm::StateSlots;
using xlstm::tests::DeviceVector;

inline constexpr double infinite = std::numeric_limits<double>::infinity();
inline constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

inline std::size_t at(Index i) { return static_cast<std::size_t>(i); }

struct SigmoidPolicy : xlstm::MLSTMPolicy {
  using InputGate = xlstm::SigmoidInputGate;
  using GateCap = xlstm::NoSoftCap;
};
struct SigmoidPlainPolicy : SigmoidPolicy {
  using Normalizer = xlstm::NoNormalizer;
};

/// Tiles that small shapes need several of.
struct SmallTiles : xlstm::cuda::MLSTMChunkwiseTuning {
  static constexpr int gate_threads = 32;
  static constexpr int state_threads = 64;
  static constexpr int state_row_tiles = 1;
  static constexpr int state_columns = 16;
  static constexpr int state_tokens = 16;
  static constexpr int output_threads = 32;
  static constexpr int output_columns = 32;
  static constexpr int output_keys = 32;
  static constexpr int output_depth = 16;
  static constexpr int gradient_threads = 32;
  static constexpr int gradient_columns = 16;
  static constexpr int gradient_others = 16;
  static constexpr int gradient_depth = 16;
};

template <class T>
DeviceVector<T> normals(xlstm::Random& random, Index count, double mean = 0, double deviation = 1) {
  DeviceVector<T> all;
  for (Index i = 0; i < count; ++i) all.push_back(T(mean + deviation * random.normal()));
  return all;
}
/// The same values in double or float.
template <class U, class Array>
std::vector<U> in(const Array& x) {
  std::vector<U> values;
  for (const auto value : x) {
    if constexpr (std::is_same_v<typename Array::value_type, double>) {
      values.push_back(static_cast<U>(value));
    } else {
      values.push_back(static_cast<U>(float{value}));
    }
  }
  return values;
}
/// The largest error over the largest value.
template <class T>
double difference(const T* found, const double* expected, Index count) {
  double worst = 0;
  double largest = 1e-30;
  for (Index i = 0; i < count; ++i) {
    const double d = std::abs(static_cast<double>(float{found[i]}) - expected[i]);
    worst = std::isnan(d) ? infinite : std::max(worst, d);
    largest = std::max(largest, std::abs(expected[i]));
  }
  return worst / largest;
}
/// Memory for kernels to hand arrays on in: no numbers yet.
inline DeviceVector<xlstm::cuda::Vector<float, 4>> device_memory(Index bytes) {
  return DeviceVector<xlstm::cuda::Vector<float, 4>>(at(bytes / 16),
                                                     {{not_a_number, not_a_number, not_a_number, not_a_number}});
}

/// Normal pre-activations.
struct Gates {
  double igate_mean;
  double igate_deviation;
  double fgate_mean;
  double fgate_deviation;
};

/// Inputs of the cell and its first states on the device.
template <class Cell, class T>
class CellSequences {
 public:
  /// Draws q, k and v.
  CellSequences(Index sequences, Index length, std::uint64_t seed)
      : run_{.sequences = sequences, .length = length}, random_(seed) {
    q_ = rows_of<T>(Cell::qk_width);
    k_ = rows_of<T>(Cell::qk_width);
    v_ = rows_of<T>(Cell::v_width);
    state_.resize(at(sequences * size));
  }

  void start_documents_at(const std::vector<Index>& tokens) {
    starts_.assign(at(run_.rows()), 0);
    for (const Index t : tokens) starts_[at(t)] = 1;
  }
  /// Of sequence b, what a document that starts with its first token forgets.
  void spoil_state(Index b) {
    for (Index i = 0; i < Cell::state_size; ++i) state_[at(b * size + offset + i)] = not_a_number;
  }

 protected:
  static constexpr Index offset = 3;  // a module's state begins anywhere
  static constexpr Index size = offset + Cell::state_size;

  template <class U>
  DeviceVector<U> rows_of(Index width, double mean = 0, double deviation = 1) {
    return normals<U>(random_, run_.rows() * width, mean, deviation);
  }
  void draw_gates(const Gates& gates) {
    igate_ = rows_of<float>(Cell::heads, gates.igate_mean, gates.igate_deviation);
    fgate_ = rows_of<float>(Cell::heads, gates.fgate_mean, gates.fgate_deviation);
  }
  Run run(Index chunk_size = 0) const {
    Run run = run_;
    run.chunk_size = chunk_size;
    run.starts = starts_.empty() ? nullptr : starts_.data();
    return run;
  }
  xlstm::MLSTMInput<const T, Cell, const float> input() const {
    const Index rows = run_.rows();
    return {{q_.data(), rows}, {k_.data(), rows}, {v_.data(), rows}, {igate_.data(), rows}, {fgate_.data(), rows}};
  }
  /// Where the sequences' states are in an array of them.
  template <class Pointers, class States>
  static Pointers slots(States& states) {
    Pointers slots;
    for (std::size_t first = 0; first < states.size(); first += at(size)) slots.push_back(states.data() + first);
    return slots;
  }

  Run run_;
  xlstm::Random random_;
  DeviceVector<T> q_, k_, v_;
  DeviceVector<float> igate_, fgate_;
  DeviceVector<std::uint8_t> starts_;
  DeviceVector<float> state_;
};

}  // namespace cell_sequences
