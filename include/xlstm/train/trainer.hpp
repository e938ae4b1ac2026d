// SPDX-License-Identifier: Apache-2.0
// A network in training: weights, gradients, moments, and the step
//     forward, loss, backward (for every accumulated batch);  clip to a global norm;  AdamW
// After the first step nothing is allocated. Every operation adds up in an order that does not depend on the number of
// threads, so the same seed and data give the same bits. A step whose gradient is not finite or too large is skipped.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <sstream>
#include <type_traits>
#include <utility>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/core/run.hpp"
#include "xlstm/model/weights.hpp"
#include "xlstm/train/batch.hpp"
#include "xlstm/train/loss.hpp"
#include "xlstm/train/optimizer.hpp"
#include "xlstm/train/parameter_block.hpp"

namespace xlstm {

struct TrainerOptions {
  AdamWOptions optimizer = {};
  LossOptions loss = {};
  double clip = 0.5;                 ///< the gradient's global norm is cut to this; 0: never
  double skip_above = 100;           ///< a step whose gradient norm is larger is skipped; 0: only if it is not finite
  Index max_consecutive_skips = 10;  ///< one more ends the training with an Error
  /// Tokens in a chunk of the chunkwise form; 0: the backend's choice (cpu/mlstm_tuning.hpp; the reference takes what
  /// the cell's policy says). Results differ by rounding alone.
  Index chunk_size = 0;

  /// Throws Error for what can't work.
  void check() const {
    optimizer.check();
    loss.check();
    if (!(clip >= 0)) fail("training: clip is ", clip, ", expected at least 0");
    if (!(skip_above >= 0)) fail("training: skip_above is ", skip_above, ", expected at least 0");
    if (max_consecutive_skips < 0) {
      fail("training: max_consecutive_skips is ", max_consecutive_skips, ", expected at least 0");
    }
    if (chunk_size < 0) fail("training: chunk_size is ", chunk_size, ", expected at least 1 or 0");
  }
};

/// What a step did. Losses are means over the targets, in nats.
struct StepResult {
  double loss = 0;           ///< cross-entropy, without z-loss
  double z_loss = 0;         ///< mean (log Z)², before its coefficient
  double gradient_norm = 0;  ///< of the mean's gradient, before clipping
  Index targets = 0;
  bool skipped = false;
};

/// How far a training is, besides its parameters and moments.
struct TrainerCounters {
  Index step = 0;     ///< steps taken, skipped ones included
  Index updates = 0;  ///< AdamW's t
  Index skipped = 0;
  Index consecutive_skips = 0;
  friend bool operator==(const TrainerCounters&, const TrainerCounters&) = default;
};

/// Trains `Network` (xlstm::Network<config>, or any CausalLM) on backend B. Where B stores weights in a shorter type
/// than it computes in (cpu::Backend<bf16>), the optimizer works on masters in the gradients' type, which are rounded
/// into the weights after every step. On a device (cuda::Backend) weights, masters, gradients, moments and states are
/// in its memory; tokens cross, and losses and norms come back.
template <class NetworkType, class B>
class Trainer {
  static_assert(
      requires { typename NetworkType::template Parameters<B>; },
      "xlstm: a Trainer trains a network, such as xlstm::Network<config> or an xlstm::CausalLM, and has its weights; a "
      "model is for generation");

 public:
  using Network = NetworkType;
  using BackendType = B;
  using G = typename B::GradientBackend;
  using T = typename G::Arithmetic;  ///< of masters, gradients and moments
  using Parameters = typename Network::template Parameters<B>;
  static constexpr bool has_masters = !std::is_same_v<Parameters, typename Network::template Parameters<G>>;

  /// Starts from the initial values of training (docs/training.md). Error for options that can't work.
  explicit Trainer(std::uint64_t seed, const TrainerOptions& options = {},
                   std::shared_ptr<typename B::Resources> resources = std::make_shared<typename B::Resources>())
      : options_(checked(options)),
        backend_(resources),
        masters_(resources, "the parameters"),
        gradients_(resources, "the gradients"),
        optimizer_(options.optimizer, resources),
        training_(resources),
        evaluation_(resources) {
    masters_.initialize(seed);
    if constexpr (has_masters) {
      weights_.emplace(resources, "the weights");
      collect_stored();
    }
    masters_changed();
  }
  // Handles and rounding tables point into the trainer's own memory.
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  const TrainerOptions& options() const { return options_; }
  B& backend() { return backend_; }

  /// The weights that the forward pass uses.
  const Parameters& parameters() const {
    if constexpr (has_masters) {
      return weights_->parameters;
    } else {
      return masters_.parameters;
    }
  }
  /// What the optimizer works on; the weights themselves where they have its type. After changing them from outside
  /// call masters_changed().
  ParameterBlock<Network, G>& masters() { return masters_; }
  void masters_changed() {
    if constexpr (has_masters) round_masters();
    finish();
  }
  /// What was accumulated; zeros after an update.
  ParameterBlock<Network, G>& gradients() { return gradients_; }
  /// Calls use(parameters) with the weights of the forward pass where the host can read them: themselves, or, of a
  /// device's, copies for the time of the call.
  template <class Use>
  void with_host_parameters(Use&& use) const {
    if constexpr (has_masters) {
      weights_->read_all(use);
    } else {
      masters_.read_all(use);
    }
  }
  AdamW<Network, G>& optimizer() { return optimizer_; }

  TrainerCounters counters() const { return {step_, optimizer_.updates(), skipped_, consecutive_skips_}; }
  void set_counters(const TrainerCounters& counters) {
    step_ = counters.step;
    optimizer_.set_updates(counters.updates);
    skipped_ = counters.skipped;
    consecutive_skips_ = counters.consecutive_skips;
  }

  /// Adds the gradient of the summed loss of a batch. Error, and nothing has changed, if a token or target is outside
  /// the vocabulary. What else is thrown while it computes (memory that is short, a backend or module of one's own)
  /// forgets what was accumulated: of a gradient that is half of something else nobody could learn.
  void accumulate(const Batch& batch) {
    check(batch);
    finish();
    try {
      add_gradient(batch);
    } catch (...) {
      forget();
      throw;
    }
  }
  /// Batches since the last update.
  Index accumulated() const { return pending_batches_; }
  /// Throws away what was accumulated, and the states from which a batch would continue.
  void forget() {
    pending_ = {};
    pending_batches_ = 0;
    discard_gradients();
    training_.clear();
    evaluation_.clear();
  }

  /// Ends the step: clips the mean gradient of what was accumulated and updates the parameters, or skips. Throws Error,
  /// with the likely causes, once more than max_consecutive_skips steps in a row were skipped. A learning rate that is
  /// negative or no number is an Error, too, and changes nothing.
  StepResult update(double learning_rate) {
    if (!(learning_rate >= 0) || !std::isfinite(learning_rate)) {
      fail("training: the learning rate is ", learning_rate, ", expected a finite number of at least 0");
    }
    const LossSum sum = std::exchange(pending_, {});
    const bool any = std::exchange(pending_batches_, 0) > 0;
    StepResult result;
    result.targets = sum.targets;
    ++step_;
    if (sum.targets == 0) {
      result.skipped = true;  // nothing to learn from; no failure
      if (any) discard_gradients();
      return result;
    }
    const double mean = 1.0 / static_cast<double>(sum.targets);
    T* const gradient = reinterpret_cast<T*>(gradients_.memory.data());
    result.loss = sum.nll * mean;
    result.z_loss = sum.z_loss * mean;
    result.gradient_norm = mean * std::sqrt(backend_.squared_norm(gradient, elements(gradients_)));
    const bool finite = std::isfinite(result.gradient_norm) && std::isfinite(result.loss);
    if (!finite || (options_.skip_above > 0 && result.gradient_norm > options_.skip_above)) {
      skip(result);
      return result;
    }
    consecutive_skips_ = 0;
    const bool clipped = options_.clip > 0 && result.gradient_norm > options_.clip;
    optimizer_.update(backend_, reinterpret_cast<T*>(masters_.memory.data()), gradient, learning_rate,
                      clipped ? mean * (options_.clip / result.gradient_norm) : mean);
    masters_changed();
    return result;
  }

  /// One step on one batch.
  StepResult train_step(const Batch& batch, double learning_rate) {
    accumulate(batch);
    return update(learning_rate);
  }

  /// The loss of a batch; changes nothing of the training. Evaluations have states of their own: a batch that continues
  /// goes on where the last evaluated one ended.
  LossSum evaluate(const Batch& batch) {
    check(batch);
    finish();
    Arena& arena = backend_.arena();
    ArenaScope scope(arena);
    const auto [run, states] = prepare(batch, evaluation_, false);
    const auto hidden = arena.template matrix<Activation, Network::embedding_dim>(run.rows());
    {
      ArenaScope inner(arena);
      typename Network::template Saved<B> saved;
      Network::template hidden<B>(backend_, parameters(), run, states, batch.tokens, hidden, saved);
    }
    return loss<Network, B>(backend_, parameters(), hidden, batch.targets, options_.loss);
  }

  /// The recurrent states after the last training batch, (sequences, state_size); what one that continues starts from.
  /// Of a device's, the trainer alone knows.
  std::vector<typename B::State>& states() requires(!DeviceBackend<B>) { return training_.values; }

 private:
  using Activation = typename B::Arithmetic;
  using StatesOfBatches = BatchStates<B, Network::state_size>;

  struct Stored {  // one parameter of both kinds
    const T* master;
    void* weight;
    void (*round)(B& backend, const T* from, void* to, Index count);
    Index count;
  };

  void add_gradient(const Batch& batch) {
    ++pending_batches_;
    Arena& arena = backend_.arena();
    ArenaScope scope(arena);
    const auto [run, states] = prepare(batch, training_, true);
    const auto hidden = arena.template matrix<Activation, Network::embedding_dim>(run.rows());
    const auto dhidden = arena.template matrix<Activation, Network::embedding_dim>(run.rows());
    typename Network::template Saved<B> saved;
    Network::template hidden<B>(backend_, parameters(), run, states, batch.tokens, hidden, saved);
    pending_ += loss_backward<Network, B>(backend_, parameters(), gradients_.parameters, hidden, batch.targets,
                                          options_.loss, 1.0, dhidden);
    Network::template hidden_backward<B>(backend_, parameters(), gradients_.parameters, run, {}, saved, dhidden);
  }

  static const TrainerOptions& checked(const TrainerOptions& options) {
    options.check();
    return options;
  }
  static Index elements(const ParameterBlock<Network, G>& w) {
    return w.memory.bytes() / static_cast<Index>(sizeof(T));
  }

  static void check(const Batch& batch) {
    const auto rows = static_cast<std::size_t>(batch.rows());
    if (batch.sequences < 1 || batch.length < 1) {
      fail("training batch: ", batch.sequences, " sequences of ", batch.length, " tokens, expected at least 1 of each");
    }
    if (batch.tokens.size() != rows || batch.targets.size() != rows) {
      fail("training batch: ", batch.tokens.size(), " tokens and ", batch.targets.size(), " targets, expected ",
           batch.sequences, " x ", batch.length, " of both");
    }
    for (std::size_t r = 0; r < rows; ++r) {
      const Token token = batch.tokens[r];
      const Token target = batch.targets[r];
      if (token < 0 || token >= Network::vocab_size) {
        fail("training batch: token ", token, " at row ", r, ", expected 0 to ", Network::vocab_size - 1);
      }
      if (target != ignored_target && (target < 0 || target >= Network::vocab_size)) {
        fail("training batch: target ", target, " at row ", r, ", expected 0 to ", Network::vocab_size - 1, " or ",
             ignored_target);
      }
    }
  }

  struct Prepared {
    Run run;
    States<B> states;
  };
  /// What a pass over the batch starts from, where the backend computes, until the arena's next release.
  Prepared prepare(const Batch& batch, StatesOfBatches& states, bool training) {
    states.begin(batch.sequences, batch.continues);
    const Run run{.sequences = batch.sequences,
                  .length = batch.length,
                  .starts = batch.starts,
                  .form = Form::chunkwise,
                  .chunk_size = options_.chunk_size,
                  .training = training};
    if constexpr (DeviceBackend<B>) {
      return {backend_.upload(run), backend_.upload(states.slots(), batch.sequences)};
    } else {
      return {run, states.slots()};
    }
  }
  /// Blocks and states are zeroed, read and written beside a device's queue of work: only when that is done.
  void finish() {
    if constexpr (DeviceBackend<B>) backend_.synchronize();
  }

  void discard_gradients() {
    finish();
    gradients_.clear(backend_);
  }

  void skip(StepResult& result) {
    discard_gradients();
    result.skipped = true;
    ++skipped_;
    if (++consecutive_skips_ <= options_.max_consecutive_skips) return;
    std::ostringstream limit;
    limit << "a finite one";
    if (options_.skip_above > 0) limit << " of at most " << options_.skip_above;
    fail("training: ", consecutive_skips_, " steps in a row were skipped; at step ", step_, " the loss is ",
         result.loss, " and the gradient norm ", result.gradient_norm, ", expected ", limit.str(),
         ". Likely causes: input-gate biases that do not start at -10 (gradient-norm spikes in the first 5,000 steps),",
         " no soft caps on gates and logits (divergence after the warm-up), a learning rate too large or a warm-up too",
         " short");
  }

  void collect_stored() {
    for_each_parameter<Network>(weights_->parameters, [&](std::string_view, auto& handle, Initialization) {
      using Element = typename std::remove_cvref_t<decltype(handle)>::Element;
      stored_.push_back({nullptr, handle.data(),
                         [](B& backend, const T* from, void* to, Index count) {
                           backend.round(from, static_cast<Element*>(to), count);
                         },
                         handle.count});
    });
    std::size_t next = 0;
    for_each_parameter<Network>(masters_.parameters, [&](std::string_view, auto& handle, Initialization) {
      stored_[next++].master = handle.data();
    });
  }
  void round_masters() {
    for (const Stored& s : stored_) s.round(backend_, s.master, s.weight, s.count);
  }

  TrainerOptions options_;
  B backend_;
  ParameterBlock<Network, G> masters_;
  ParameterBlock<Network, G> gradients_;
  AdamW<Network, G> optimizer_;
  std::optional<ParameterBlock<Network, B>> weights_;  // where has_masters
  std::vector<Stored> stored_;
  StatesOfBatches training_;
  StatesOfBatches evaluation_;
  LossSum pending_;
  Index pending_batches_ = 0;
  Index step_ = 0;
  Index skipped_ = 0;
  Index consecutive_skips_ = 0;
};

}  // namespace xlstm
