// SPDX-License-Identifier: Apache-2.0
// Decode steps that are recorded once for each size of the batch and then replayed: on a GPU as a CUDA graph, which
// takes one launch for the hundreds of kernels of a step. What changes from step to step, tokens and the slots of
// states, lies in memory that does not.
//
// A recording holds addresses. So it is valid only as long as no memory has moved: `generation` is a number that
// changes whenever any has. A size's first steps are done directly, until one of them has moved nothing.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "xlstm/core/index.hpp"
#include "xlstm/core/run.hpp"
#include "xlstm/cuda/device_runtime.hpp"

namespace xlstm::cuda {

/// Which steps do the same: those of one model and one number of sequences, that end in the same way.
struct StepKey {
  std::uint64_t model = 0;  ///< Model::identity()
  Index sequences = 1;
  int ending = 0;  ///< what follows the logits

  friend auto operator<=>(const StepKey&, const StepKey&) = default;
};

template <DeviceRuntime R>
class DecodeSteps {
 public:
  using Queue = typename R::Queue;
  using Memory = DeviceMemory<R>;

  explicit DecodeSteps(std::shared_ptr<R> runtime) : runtime_(std::move(runtime)) {}

  /// Memory for so many sequences' tokens and slots. Growing moves it.
  void reserve(Index sequences) {
    if (sequences <= capacity_) return;
    Index grown = capacity_ > 0 ? capacity_ : 1;
    while (grown < sequences) grown *= 2;
    capacity_ = 0;
    tokens_.emplace(runtime_, grown * static_cast<Index>(sizeof(Token)), "a step's tokens");
    slots_.emplace(runtime_, grown * static_cast<Index>(sizeof(float*)), "a step's slots");
    capacity_ = grown;
    ++moves_;
  }
  /// How often memory of this object has moved.
  Index moves() const { return moves_; }

  /// The first `count` tokens and slots of the step.
  std::span<const Token> tokens(Index count) const {
    return {static_cast<const Token*>(tokens_->data()), static_cast<std::size_t>(count)};
  }
  StateSlots<float> slots() const { return {static_cast<float* const*>(slots_->data()), 0}; }
  /// Where the device may write the next step's tokens.
  Token* next_tokens() { return static_cast<Token*>(tokens_->data()); }
  /// Whether tokens are those of the step, in the device's memory.
  bool holds(std::span<const Token> tokens) const { return tokens_ && tokens.data() == tokens_->data(); }

  void upload(Queue& queue, std::span<const Token> tokens) {
    queue.upload(tokens_->data(), tokens.data(), static_cast<Index>(tokens.size_bytes()));
  }
  void upload(Queue& queue, StateSlots<float> states, Index sequences) {
    queue.upload(slots_->data(), states.slots, sequences * static_cast<Index>(sizeof(float*)));
  }

  /// Does work(), which returns a pointer into the device's memory, or replays what it has recorded of it, and returns
  /// the same pointer.
  template <class Work>
  float* run(Queue& queue, const StepKey& key, Index generation, Work&& work) {
    Step& step = steps_[key];
    if (step.generation != generation) {
      step.recording.reset();
      step.generation = generation;
      return work();
    }
    if (!step.recording) step.recording.emplace(queue.record([&] { step.result = work(); }));
    queue.replay(*step.recording);
    return step.result;
  }

 private:
  struct Step {
    Index generation = -1;
    std::optional<typename Queue::Recording> recording;
    float* result = nullptr;
  };

  std::shared_ptr<R> runtime_;
  std::optional<Memory> tokens_, slots_;
  Index capacity_ = 0;
  Index moves_ = 0;
  std::map<StepKey, Step> steps_;
};

}  // namespace xlstm::cuda
