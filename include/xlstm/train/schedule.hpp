// SPDX-License-Identifier: Apache-2.0
// Learning rate and batch size as pure functions of the step (xLSTM 7B, arXiv 2503.13427, training recipe): linear
// warm-up, exponential decay to a tenth, linear cool-down to zero; the batch grows in stages. Steps count from 1.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/core/index.hpp"

namespace xlstm {

/// exponential: peak·final_factor^(t/decay_steps). cosine: half a wave from peak to final_factor·peak. constant: peak.
enum class Decay { exponential, cosine, constant };

/// The defaults are those of the 7B model.
struct Schedule {
  Decay decay = Decay::exponential;
  double peak = 5e-4;           ///< learning rate at the end of the warm-up
  double final_factor = 0.1;    ///< of the peak, at the end of the decay
  Index warmup_steps = 3000;    ///< linear from 0
  Index decay_steps = 540000;   ///< after the warm-up
  Index cooldown_steps = 7000;  ///< after the decay, linear to 0; without a cool-down the last rate stays

  Index total_steps() const { return warmup_steps + decay_steps + cooldown_steps; }

  /// Throws Error for what is no schedule.
  void check() const {
    if (!(peak > 0) || !std::isfinite(peak)) fail("schedule: learning rate is ", peak, ", expected a positive number");
    if (!(final_factor > 0) || final_factor > 1) {
      fail("schedule: final factor is ", final_factor, ", expected more than 0 and at most 1");
    }
    if (warmup_steps < 0 || decay_steps < 0 || cooldown_steps < 0) {
      fail("schedule: ", warmup_steps, " warm-up, ", decay_steps, " decay and ", cooldown_steps,
           " cool-down steps, expected none below 0");
    }
  }
};

/// The learning rate of step `step`, from 1: the peak at step warmup_steps, final_factor·peak decay_steps later
/// (without a decay the peak stays), 0 at total_steps() and after.
inline double learning_rate(const Schedule& s, Index step) {
  if (step < s.warmup_steps) return s.peak * static_cast<double>(step) / static_cast<double>(s.warmup_steps);
  const double t = s.decay_steps > 0
                       ? std::min(1.0, static_cast<double>(step - s.warmup_steps) / static_cast<double>(s.decay_steps))
                       : 0.0;
  double rate = s.peak;
  if (s.decay == Decay::exponential) rate *= std::pow(s.final_factor, t);
  if (s.decay == Decay::cosine) {
    rate *= s.final_factor + (1 - s.final_factor) * 0.5 * (1 + std::cos(std::numbers::pi * t));
  }
  const Index into_cooldown = step - s.warmup_steps - s.decay_steps;
  if (s.cooldown_steps == 0 || into_cooldown <= 0) return rate;
  return rate * std::max(0.0, 1 - static_cast<double>(into_cooldown) / static_cast<double>(s.cooldown_steps));
}

/// For `steps` steps, `batches` batches are accumulated into one update.
struct RampStage {
  Index steps = 0;
  Index batches = 1;
};

/// How many batches step `step` (from 1) accumulates: the stages one after another, then `final_batches`. (The 7B
/// model: batch 128 for 2,000 steps, 256 for 2,000, then 512.)
inline Index batches_of_step(const std::vector<RampStage>& ramp, Index final_batches, Index step) {
  for (const RampStage& stage : ramp) {
    if (step <= stage.steps) return stage.batches;
    step -= stage.steps;
  }
  return final_batches;
}

}  // namespace xlstm
