// SPDX-License-Identifier: Apache-2.0
// The same random numbers as floats, for an operation of the CPU, and as doubles, for the reference.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "xlstm/core/random.hpp"
#include "xlstm/core/view.hpp"
#include "xlstm/nn/parameter.hpp"

/// Rows of D numbers; the floats' rows have a gap between them that nobody may write. They are aligned as an arena's
/// are: the bits of Eigen's results depend on where a row begins within a vector.
template <xlstm::Index D>
class SameNumbers {
 public:
  using Index = xlstm::Index;
  SameNumbers(Index rows, xlstm::Random& random, double scale = 1, Index gap = 3)
      : rows_(rows), stride_(D + gap), lines_(static_cast<std::size_t>(rows * stride_ / 16 + 1)) {
    std::fill_n(data(), 16 * lines_.size(), untouched);
    for (Index r = 0; r < rows; ++r) {
      for (Index c = 0; c < D; ++c) {
        const auto number = static_cast<float>(scale * random.normal());
        data()[r * stride_ + c] = number;
        exact_.push_back(static_cast<double>(number));
      }
    }
  }
  xlstm::MatrixView<float, D> out() { return {data(), rows_, D, stride_}; }
  xlstm::MatrixView<const float, D> in() const { return {data(), rows_, D, stride_}; }
  float* data() { return lines_.data()->values; }
  const float* data() const { return lines_.data()->values; }
  xlstm::MatrixView<double, D> exact_out() { return {exact_.data(), rows_}; }
  xlstm::MatrixView<const double, D> exact_in() const { return {exact_.data(), rows_}; }
  /// The first row as the reference's parameter of N values: D, or 0 for none.
  template <Index N = D>
  xlstm::VectorParameter<double, N> exact_parameter() {
    xlstm::VectorParameter<double, N> parameter;
    parameter.bind(exact_.data());
    return parameter;
  }
  double* exact_data() { return exact_.data(); }

  bool same_bits(const SameNumbers& other) const {
    return std::memcmp(data(), other.data(), lines_.size() * sizeof(Line)) == 0;
  }
  /// The largest difference, relative to the largest exact value; infinite if there is none, or a gap was written.
  double error() const {
    double difference = 0, largest = 0;
    for (Index r = 0; r < rows_; ++r) {
      for (Index c = 0; c < stride_; ++c) {
        const float found = data()[r * stride_ + c];
        if (c >= D && found == untouched) continue;
        if (c >= D || !std::isfinite(found)) return std::numeric_limits<double>::infinity();
        const double expected = exact_[static_cast<std::size_t>(r * D + c)];
        difference = std::max(difference, std::abs(static_cast<double>(found) - expected));
        largest = std::max(largest, std::abs(expected));
      }
    }
    return largest > 0 ? difference / largest : difference;
  }

 private:
  struct alignas(64) Line {
    float values[16];
  };
  static constexpr float untouched = -77;
  Index rows_, stride_;
  std::vector<Line> lines_;
  std::vector<double> exact_;
};
