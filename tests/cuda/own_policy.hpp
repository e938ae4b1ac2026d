// SPDX-License-Identifier: Apache-2.0
// An mLSTM cell with gates of its own, as a program might write them: nothing but constexpr functions of a value.
#pragma once

#include <cmath>

#include "xlstm/cell/mlstm.hpp"

namespace xlstm::tests {

/// i = σ(ĩ)², never above 1.
struct SquaredSigmoidGate {
  static constexpr bool stabilized = false;
  template <class T>
  static constexpr T log_gate(T preactivation) {
    return 2 * log_sigmoid(preactivation);
  }
  template <class T>
  static constexpr T derivative(T preactivation) {
    return 2 * sigmoid(-preactivation);
  }
};

/// y = x / √(1 + x²/25), never beyond ±5.
struct RootCap {
  static constexpr bool active = true;
  static constexpr double value = 5;
  template <class T>
  static constexpr T apply(T x) {
    return x / std::sqrt(1 + x * x / 25);
  }
  template <class T>
  static constexpr T derivative(T y) {
    const T r = 1 - y * y / 25;
    return r * std::sqrt(r);
  }
};

struct OwnPolicy : MLSTMPolicy {
  using InputGate = SquaredSigmoidGate;
  using GateCap = RootCap;
};

}  // namespace xlstm::tests
