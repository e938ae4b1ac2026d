// SPDX-License-Identifier: Apache-2.0
// Loss and optimizer on the CPU (reference/training.hpp has the equations). Sums are taken in an order that depends on
// the shape alone: the same bits for any number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include "xlstm/core/arena.hpp"
#include "xlstm/cpu/elementwise.hpp"
#include "xlstm/cpu/simd.hpp"
#include "xlstm/train/step.hpp"

namespace xlstm::cpu {

namespace detail {

/// Exponentials need no largest logit where the cap is this low: e^(z − a) is at least e^(−2a).
template <class Cap>
inline constexpr bool bounded_logits = false;
template <double A>
inline constexpr bool bounded_logits<SoftCap<A>> = A <= 40;

/// e ⊙ cap', of the capped logits y.
template <class Cap, class Exponentials, class Logits>
void times_cap_derivative(const Exponentials& e, Logits&& y) {
  if constexpr (is_soft_cap<Cap>) {
    y = e * (1.0F - (y * static_cast<float>(1 / Cap::value)).square());
  } else if constexpr (Cap::active) {
    y = e * y.unaryExpr([](float x) { return Cap::derivative(x); });
  } else {
    y = e;
  }
}

/// What one row's loss needs. Σ exp(z − offset) in fp32 pieces and their sum in double, since a vocabulary is too long
/// for one fp32 sum.
struct LogitSum {
  float offset = 0, at_target = 0;
  double total = 0;
  double log_z() const { return static_cast<double>(offset) + std::log(total); }
};

/// Caps the logits z in place and sums up their exponentials; with `gradient` z becomes exp(z − offset)·cap', where
/// cap' is the cap's derivative.
template <class Cap>
LogitSum sum_logits(MutableArray z, Index target, bool gradient) {
  LogitSum sum;
  if constexpr (bounded_logits<Cap>) {
    sum.offset = static_cast<float>(Cap::value);
  } else {
    cap_array<Cap>(z);
    sum.offset = z.maxCoeff();
  }
  constexpr Index piece = 256;
  for (Index c = 0; c < z.size(); c += piece) {
    auto some = z.segment(c, std::min(piece, z.size() - c));
    if constexpr (bounded_logits<Cap>) cap_array<Cap>(some);
    if (target >= c && target < c + some.size()) sum.at_target = z[target];
    const Eigen::Array<float, Eigen::Dynamic, 1, 0, piece, 1> e = (some - sum.offset).exp();
    sum.total += static_cast<double>(e.sum());
    if (gradient) times_cap_derivative<Cap>(e, some);
  }
  return sum;
}

}  // namespace detail

/// Like reference::cross_entropy: logits before the soft cap in, their gradient out where gradient_scale ≠ 0.
template <class Cap, class Exec, Index V>
LossSum cross_entropy(Exec& exec, Arena& arena, MatrixView<float, V> logits, std::span<const Token> targets,
                      double z_loss, double gradient_scale) {
  ArenaScope scope(arena);
  struct Row {
    double nll, log_z;
  };
  Row* rows = arena.allocate<Row>(logits.rows());
  exec.parallel_for(logits.rows(), [&](Index r, int) {
    const Token target = targets[static_cast<std::size_t>(r)];
    auto z = array_row(logits, r);
    rows[r] = {0, 0};
    if (target == ignored_target) {
      if (gradient_scale != 0) z.setZero();
      return;
    }
    const detail::LogitSum sum = detail::sum_logits<Cap>(z, target, gradient_scale != 0);
    const double log_z = sum.log_z();
    rows[r] = {log_z - static_cast<double>(sum.at_target), log_z};
    if (gradient_scale == 0) return;
    z *= static_cast<float>(gradient_scale * (1 + 2 * z_loss * log_z) / sum.total);
    z[target] -= static_cast<float>(gradient_scale) * Cap::derivative(sum.at_target);
  });
  LossSum sum;
  for (Index r = 0; r < logits.rows(); ++r) {
    if (targets[static_cast<std::size_t>(r)] == ignored_target) continue;
    sum += {rows[r].nll, rows[r].log_z * rows[r].log_z, 1};
  }
  return sum;
}

/// Small enough that threads share the matrices of small models, too, which an optimizer's step visits one by one.
inline constexpr Index parameters_per_task = Index{1} << 14;

/// x = 0.
template <class Exec>
void zero(Exec& exec, float* x, Index count) {
  exec.parallel_for(ceil_div(count, parameters_per_task), [&](Index task, int) {
    const Index first = task * parameters_per_task;
    std::fill_n(x + first, std::min(parameters_per_task, count - first), 0.0F);
  });
}

/// to = from, rounded to the nearest W: masters into the weights that they stand for.
template <class Exec, class W>
void round(Exec& exec, const float* from, W* to, Index count) {
  exec.parallel_for(ceil_div(count, parameters_per_task), [&](Index task, int) {
    const Index end = std::min(count, (task + 1) * parameters_per_task);
    for (Index i = task * parameters_per_task; i < end; ++i) to[i] = static_cast<W>(from[i]);
  });
}

/// Σ x²: blocks in fp32 pieces of 256, everything above in double.
template <class Exec>
double squared_norm(Exec& exec, Arena& arena, const float* x, Index count) {
  ArenaScope scope(arena);
  const Index tasks = ceil_div(count, parameters_per_task);
  double* sums = arena.allocate<double>(tasks);
  exec.parallel_for(tasks, [&](Index task, int) {
    const Index end = std::min(count, (task + 1) * parameters_per_task);
    double sum = 0;
    for (Index i = task * parameters_per_task; i < end; i += 256) {
      sum += static_cast<double>(ConstArray(x + i, std::min<Index>(256, end - i)).square().sum());
    }
    sums[task] = sum;
  });
  double total = 0;
  for (Index t = 0; t < tasks; ++t) total += sums[t];
  return total;
}

/// AdamWStep's equations in fp32, one pass.
template <class Exec>
void adamw(Exec& exec, float* parameter, float* gradient, float* first_moment, float* second_moment, Index count,
           const AdamWStep& step) {
  const double c1 = 1 - std::pow(step.beta1, static_cast<double>(step.step));
  const double c2 = 1 - std::pow(step.beta2, static_cast<double>(step.step));
  const float b1 = static_cast<float>(step.beta1);
  const float b2 = static_cast<float>(step.beta2);
  const float keep1 = static_cast<float>(1 - step.beta1);
  const float keep2 = static_cast<float>(1 - step.beta2);
  const float scale = static_cast<float>(step.gradient_scale);
  const float rate = static_cast<float>(step.learning_rate / c1);
  const float root = static_cast<float>(1 / std::sqrt(c2));
  const float eps = static_cast<float>(step.eps);
  const float shrink = static_cast<float>(step.learning_rate * step.weight_decay);
  exec.parallel_for(ceil_div(count, parameters_per_task), [&](Index task, int) {
    const Index first = task * parameters_per_task;
    const Index end = std::min(count, first + parameters_per_task);
    const auto update = [&](Index i, auto&& load, auto&& store) {
      const simd::Floats g = load(gradient + i) * scale, p = load(parameter + i);
      const simd::Floats m = b1 * load(first_moment + i) + keep1 * g;
      const simd::Floats v = b2 * load(second_moment + i) + keep2 * g * g;
      store(first_moment + i, m);
      store(second_moment + i, v);
      store(gradient + i, simd::zero());
      store(parameter + i, p - (rate * m / (simd::sqrt(v) * root + eps) + shrink * p));
    };
    Index i = first;
    for (; i + simd::width <= end; i += simd::width) {
      // Four streams from memory are more than a core's own prefetchers ask for in time (measured).
      constexpr Index ahead = 512;
      simd::prefetch(parameter + i + ahead);
      simd::prefetch(gradient + i + ahead);
      simd::prefetch(first_moment + i + ahead);
      simd::prefetch(second_moment + i + ahead);
      update(
          i, [](const float* x) { return simd::load(x); }, [](float* x, simd::Floats v) { simd::store(x, v); });
    }
    if (i == end) return;
    update(
        i, [=](const float* x) { return simd::load_partial(x, end - i); },
        [=](float* x, simd::Floats v) { simd::store_partial(x, v, end - i); });
  });
}

}  // namespace xlstm::cpu
