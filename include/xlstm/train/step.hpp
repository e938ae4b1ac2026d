// SPDX-License-Identifier: Apache-2.0
// What a backend's training operations take and give.
#pragma once

#include "xlstm/core/index.hpp"

namespace xlstm {

/// A target that counts for nothing.
inline constexpr Token ignored_target = -1;

/// Sums over the targets that count, in double so that slices add up the same however they are cut.
struct LossSum {
  double nll = 0;     ///< Σ −log p(target), nats
  double z_loss = 0;  ///< Σ (log Z)², before its coefficient
  Index targets = 0;

  LossSum& operator+=(const LossSum& other) {
    nll += other.nll;
    z_loss += other.z_loss;
    targets += other.targets;
    return *this;
  }
};

/// One step of AdamW (Loshchilov, Hutter, arXiv 1711.05101) over a range of parameters:
///     m ← β₁m + (1−β₁)g,  v ← β₂v + (1−β₂)g²,  θ ← θ − lr·( (m/c₁) / (√(v/c₂) + ε) + decay·θ ),  c_i = 1 − β_i^t
/// g is the gradient times gradient_scale (clipping, and the mean over accumulated batches). The gradient is used up:
/// zeros afterwards, for the next step to add to. That costs next to nothing where it has just been read, and a pass of
/// its own over memory anywhere else.
struct AdamWStep {
  double learning_rate = 0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0;
  double gradient_scale = 1;
  Index step = 1;  ///< t, from 1
};

}  // namespace xlstm
