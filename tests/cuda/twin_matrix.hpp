// SPDX-License-Identifier: Apache-2.0
// A matrix for a kernel, and the same values in double for the reference.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "device.hpp"
#include "xlstm/core/element.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/core/view.hpp"

namespace xlstm::tests {

/// What is in memory that nobody has written.
inline constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

/// How matrices lie in memory: so many elements longer a row than its columns, beginning so many after an aligned one.
struct Layout {
  Index gap = 0;
  Index offset = 0;
};

/// The relative error of rounding to T, and of fp32 arithmetic before it.
template <class T>
inline constexpr double rounding = 1e-6;
template <>
inline constexpr double rounding<bf16> = 0x1p-8;
template <>
inline constexpr double rounding<f16> = 0x1p-11 + 1e-6;

template <class T>
class TwinMatrix {
 public:
  /// Normal values around `mean`; 7 between the rows.
  TwinMatrix(Index rows, Index cols, std::uint64_t seed, Layout layout = {}, double deviation = 1, double mean = 0)
      : rows_(rows), cols_(cols), stride_(cols + layout.gap), offset_(layout.offset) {
    Random random(seed);
    memory_.resize(static_cast<std::size_t>(offset_ + rows * stride_ + 8), T(7.0F));
    wide_.resize(memory_.size(), 7.0);
    for (Index r = 0; r < rows; ++r) {
      for (Index c = 0; c < cols; ++c) set(r, c, mean + deviation * random.normal());
    }
  }
  static TwinMatrix filled(Index rows, Index cols, double value, Layout layout = {}) {
    return TwinMatrix(rows, cols, 0, layout, 0, value);
  }

  void set(Index r, Index c, double value) {
    device()(r, c) = T(static_cast<float>(value));
    host()(r, c) = static_cast<double>(static_cast<float>(device()(r, c)));
  }
  template <Index Cols = dynamic>
  MatrixView<T, Cols> device() {
    return {memory_.data() + offset_, rows_, cols_, stride_};
  }
  template <Index Cols = dynamic>
  MatrixView<double, Cols> host() {
    return {wide_.data() + offset_, rows_, cols_, stride_};
  }

  /// Fails unless every element is within `relative` of its twin's absolute value, or `absolute`, of its twin, and what
  /// lies around the matrix is as it was.
  void compare(double relative = rounding<T>, double absolute = 1e-7) const {
    Index wrong = -1;
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      const Index at = static_cast<Index>(i) - offset_;
      const bool inside = at >= 0 && at < rows_ * stride_ && at % stride_ < cols_;
      const double found = static_cast<double>(static_cast<float>(memory_[i]));
      const double allowed = inside ? relative * std::abs(wide_[i]) + absolute : 0;
      const bool equal = std::isnan(wide_[i]) ? std::isnan(found) : std::abs(found - wide_[i]) <= allowed;
      if (!equal && found != wide_[i] && wrong < 0) wrong = static_cast<Index>(i);
    }
    if (wrong >= 0) {
      INFO("row " << (wrong - offset_) / stride_ << ", column " << (wrong - offset_) % stride_ << " of " << rows_
                  << " × " << cols_);
      CHECK(static_cast<float>(memory_[static_cast<std::size_t>(wrong)]) ==
            Approx(wide_[static_cast<std::size_t>(wrong)]).epsilon(relative));
      FAIL_CHECK("beyond the error allowed");
    } else {
      SUCCEED();
    }
  }

 private:
  Index rows_;
  Index cols_;
  Index stride_;
  Index offset_;
  DeviceVector<T> memory_;
  std::vector<double> wide_;
};

}  // namespace xlstm::tests
