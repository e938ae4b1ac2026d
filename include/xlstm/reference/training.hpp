// SPDX-License-Identifier: Apache-2.0
// Loss and optimizer as straight loops: −log softmax(cap(z))[target] + z_loss·(log Z)², and AdamW.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include "xlstm/core/view.hpp"
#include "xlstm/train/step.hpp"

namespace xlstm::reference {

/// `logits` (rows, vocabulary) come before the soft cap. Returns the sums over rows whose target is not ignored.
/// With gradient_scale ≠ 0 the logits are replaced by gradient_scale · ∂(nll + z_loss·(log Z)²)/∂logits.
template <class Cap, class T, Index V>
LossSum cross_entropy(MatrixView<T, V> logits, std::span<const Token> targets, double z_loss, double gradient_scale) {
  LossSum sum;
  const Index vocabulary = logits.cols();
  for (Index r = 0; r < logits.rows(); ++r) {
    const Token target = targets[static_cast<std::size_t>(r)];
    T* z = logits.row(r);
    if (target == ignored_target) {
      if (gradient_scale != 0) std::fill_n(z, vocabulary, T{0});
      continue;
    }
    double largest = -INFINITY;
    for (Index c = 0; c < vocabulary; ++c) {
      z[c] = Cap::apply(z[c]);
      largest = std::max(largest, static_cast<double>(z[c]));
    }
    double total = 0;
    for (Index c = 0; c < vocabulary; ++c) total += std::exp(static_cast<double>(z[c]) - largest);
    const double log_z = largest + std::log(total);
    sum.nll += log_z - static_cast<double>(z[target]);
    sum.z_loss += log_z * log_z;
    sum.targets += 1;
    if (gradient_scale == 0) continue;
    for (Index c = 0; c < vocabulary; ++c) {
      const double p = std::exp(static_cast<double>(z[c]) - log_z);
      const double d = p * (1 + 2 * z_loss * log_z) - (c == target ? 1 : 0);
      z[c] = static_cast<T>(gradient_scale * d) * Cap::derivative(z[c]);
    }
  }
  return sum;
}

/// Σ x², in double.
template <class T>
double squared_norm(const T* x, Index count) {
  double sum = 0;
  for (Index i = 0; i < count; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

/// AdamWStep's equations.
template <class T>
void adamw(T* parameter, T* gradient, T* first_moment, T* second_moment, Index count, const AdamWStep& step) {
  const double c1 = 1 - std::pow(step.beta1, static_cast<double>(step.step));
  const double c2 = 1 - std::pow(step.beta2, static_cast<double>(step.step));
  for (Index i = 0; i < count; ++i) {
    const double g = static_cast<double>(gradient[i]) * step.gradient_scale;
    const double m = step.beta1 * static_cast<double>(first_moment[i]) + (1 - step.beta1) * g;
    const double v = step.beta2 * static_cast<double>(second_moment[i]) + (1 - step.beta2) * g * g;
    const double theta = static_cast<double>(parameter[i]);
    const double update = (m / c1) / (std::sqrt(v / c2) + step.eps) + step.weight_decay * theta;
    first_moment[i] = static_cast<T>(m);
    second_moment[i] = static_cast<T>(v);
    gradient[i] = T{0};
    parameter[i] = static_cast<T>(theta - step.learning_rate * update);
  }
}

}  // namespace xlstm::reference
