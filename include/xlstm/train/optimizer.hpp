// SPDX-License-Identifier: Apache-2.0
// AdamW over a network's block of parameters (train/step.hpp has the equations): weight decay on matrices alone, never
// on norms and biases. G is the backend of gradients: parameters, gradients and moments are in its arithmetic type.
#pragma once

#include <cmath>
#include <memory>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/model/weights.hpp"
#include "xlstm/train/parameter_block.hpp"
#include "xlstm/train/step.hpp"

namespace xlstm {

/// The published recipe (xLSTM 7B); its table says β₁ = 0.99, its code 0.9.
struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;

  /// Throws Error for what can't work.
  void check() const {
    if (!(beta1 >= 0 && beta1 < 1)) fail("AdamW: beta1 is ", beta1, ", expected at least 0 and less than 1");
    if (!(beta2 >= 0 && beta2 < 1)) fail("AdamW: beta2 is ", beta2, ", expected at least 0 and less than 1");
    if (!(eps > 0) || !std::isfinite(eps)) fail("AdamW: eps is ", eps, ", expected a positive number");
    if (!(weight_decay >= 0) || !std::isfinite(weight_decay)) {
      fail("AdamW: weight decay is ", weight_decay, ", expected at least 0");
    }
  }
};

template <class Network, class G>
class AdamW {
 public:
  using T = typename G::Arithmetic;

  explicit AdamW(const AdamWOptions& options) : AdamW(options, std::make_shared<typename G::Resources>()) {}
  /// The moments lie where the backend of `resources` computes.
  template <class Resources>
  AdamW(const AdamWOptions& options, const std::shared_ptr<Resources>& resources)
      : options_(options),
        ranges_(parameter_ranges<Network, G>()),
        first_(resources, "the first moments"),
        second_(resources, "the second moments") {
    options.check();
  }

  /// One step on `parameters`, in a ParameterBlock; `gradient` has the same layout, is multiplied by gradient_scale,
  /// and is zeros afterwards.
  template <class B>
  void update(B& backend, T* parameters, T* gradient, double learning_rate, double gradient_scale) {
    AdamWStep step{learning_rate, options_.beta1, options_.beta2, options_.eps, 0, gradient_scale, ++updates_};
    T* const first = reinterpret_cast<T*>(first_.memory.data());
    T* const second = reinterpret_cast<T*>(second_.memory.data());
    for (const ParameterRange& r : ranges_) {
      step.weight_decay = r.is_matrix ? options_.weight_decay : 0;
      backend.adamw(parameters + r.offset, gradient + r.offset, first + r.offset, second + r.offset, r.count, step);
    }
  }

  /// t: how many updates there were.
  Index updates() const { return updates_; }
  void set_updates(Index updates) { updates_ = updates; }

  /// The moments, to save and to restore.
  ParameterBlock<Network, G>& first_moment() { return first_; }
  ParameterBlock<Network, G>& second_moment() { return second_; }
  const std::vector<ParameterRange>& ranges() const { return ranges_; }

 private:
  AdamWOptions options_;
  std::vector<ParameterRange> ranges_;
  ParameterBlock<Network, G> first_;
  ParameterBlock<Network, G> second_;
  Index updates_ = 0;
};

}  // namespace xlstm
