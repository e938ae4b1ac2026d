// SPDX-License-Identifier: Apache-2.0
// The parts that an mLSTM cell is composed of: input gates, soft caps, normalizers. Each is a type of static functions;
// a user's own gate or cap is another such type. The functions are constexpr, not for constants: so kernels may call
// them (nvcc --expt-relaxed-constexpr).
#pragma once

#include <cmath>
#include <concepts>

namespace xlstm {

/// log(1 + e^x) without overflow.
template <std::floating_point T>
constexpr T softplus(T x) {
  return x > T{0} ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}

/// log σ(x) = −softplus(−x), stable for every x.
template <std::floating_point T>
constexpr T log_sigmoid(T x) {
  return -softplus(-x);
}

/// σ(x), stable for every x.
template <std::floating_point T>
constexpr T sigmoid(T x) {
  const T e = std::exp(-std::abs(x));
  return (x >= T{0} ? T{1} : e) / (T{1} + e);
}

/// i = exp(ĩ), unbounded, hence stabilised by m (xLSTM 7B, Eq. 5–7).
struct ExponentialInputGate {
  /// Whether the running maximum m is needed. Without it m stays 0, and log_gate must never be positive: kernels take
  /// exponentials of what cannot be.
  static constexpr bool stabilized = true;
  template <class T>
  static constexpr T log_gate(T preactivation) {
    return preactivation;
  }
  /// d log i / d ĩ.
  template <class T>
  static constexpr T derivative(T) {
    return T{1};
  }
};

/// i = σ(ĩ) (mLSTMsig; Tiled Flash Linear Attention, arXiv 2503.14376, §3). Bounded: needs no m.
struct SigmoidInputGate {
  static constexpr bool stabilized = false;
  template <class T>
  static constexpr T log_gate(T preactivation) {
    return log_sigmoid(preactivation);
  }
  template <class T>
  static constexpr T derivative(T preactivation) {
    return sigmoid(-preactivation);
  }
};

/// y = a·tanh(x/a): the identity near zero, never beyond ±a (xLSTM 7B, §3.2).
template <double Cap>
struct SoftCap {
  static_assert(Cap > 0, "xlstm: a soft cap is a positive number; for no cap write xlstm::NoSoftCap");
  static constexpr bool active = true;
  static constexpr double value = Cap;
  template <class T>
  static constexpr T apply(T x) {
    return T(Cap) * std::tanh(x / T(Cap));
  }
  /// dy/dx, from y.
  template <class T>
  static constexpr T derivative(T y) {
    const T r = y / T(Cap);
    return T{1} - r * r;
  }
};

/// Whether a cap is SoftCap itself, of which backends know what it is; a user's own they call.
template <class Cap>
inline constexpr bool is_soft_cap = false;
template <double A>
inline constexpr bool is_soft_cap<SoftCap<A>> = true;

struct NoSoftCap {
  static constexpr bool active = false;
  static constexpr double value = 0;
  template <class T>
  static constexpr T apply(T x) {
    return x;
  }
  template <class T>
  static constexpr T derivative(T) {
    return T{1};
  }
};

/// Denominator max(|nᵀq̂|, exp(−m)) + ε (xLSTM 7B, Eq. 9).
struct MaxAbsNormalizer {
  static constexpr bool active = true;
};

/// h̃ = Cᵀq̂ as it is (TFLA §3); n is kept in the state but not used. With a stabilised gate C is scaled by exp(−m),
/// which only a scale-invariant norm behind the cell takes away again, in the output as in the gradient.
struct NoNormalizer {
  static constexpr bool active = false;
};

}  // namespace xlstm
