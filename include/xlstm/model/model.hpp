// SPDX-License-Identifier: Apache-2.0
// A network with its weights, ready to run. Immutable and shared: copies are cheap, any number of threads may use one.
// What changes is private to a session (generate/session.hpp).
#pragma once

#include <algorithm>
#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/model/architecture.hpp"
#include "xlstm/model/counts.hpp"
#include "xlstm/model/sequence_state.hpp"
#include "xlstm/model/weights.hpp"

namespace xlstm {

class Checkpoint;
template <class Model>
class Session;

/// A device's backend that chooses tokens itself: sample(logits) takes its choice as the next step's token. sampling()
/// tells kinds of sampling apart (cuda::Backend).
template <class B>
concept SamplingBackend = DeviceBackend<B> && requires(B& b, std::span<const Precise<B>> logits) {
  typename B::SampledToken;
  b.sample(logits);
  { b.sampling() } -> std::convertible_to<int>;
};

/// A network (xlstm::Network<config>, or any CausalLM) on a backend.
template <class NetworkType, Backend B>
class Model {
  struct Shared;

 public:
  using Network = NetworkType;
  using BackendType = B;
  using Arithmetic = typename B::Arithmetic;
  using State = typename B::State;
  using Parameters = typename Network::template Parameters<B>;
  using Options = typename B::Options;
  using Logit = Precise<B>;
  using Logits = MatrixView<Logit, Network::vocab_size>;
  using SequenceState = xlstm::SequenceState<B, Network::state_size>;

  static constexpr Index vocab_size = Network::vocab_size;
  static constexpr Index embedding_dim = Network::embedding_dim;
  static constexpr Index state_size = Network::state_size;

  explicit Model(Weights<Network, B> weights, const Options& options = {})
      : shared_(std::make_shared<Shared>(std::move(weights), options)) {}

  /// Opens a checkpoint directory (io/load.hpp). Weights whose stored type is the backend's stay in the mapped file.
  /// Throws Error if a file or tensor is missing or damaged, or the sizes are not those of this network.
  static Model load(const std::filesystem::path& directory, const Options& options = {});
  static Model load(const Checkpoint& checkpoint, const Options& options = {});

  /// A model with the initial weights of training.
  static Model initialized(std::uint64_t seed, const Options& options = {}) {
    Weights<Network, B> weights = allocate_weights<Network, B>();
    initialize(weights, seed);
    return Model(std::move(weights), options);
  }

  /// A fresh session: the state before the first token (generate/session.hpp).
  Session<Model> session() const;

  /// The state before the first token, where the backend computes.
  SequenceState new_state() const { return SequenceState(shared_->resources); }

  /// Where the backend computes: not for the host to read if that is a device.
  const Parameters& parameters() const { return shared_->weights.parameters; }
  /// Whether both are the same loaded model.
  bool same_as(const Model& other) const { return shared_ == other.shared_; }
  /// Distinguishes this model's weights from another's, whatever machine they are on: 64 bits over samples of every
  /// parameter. For refusing saved sessions of another model.
  std::uint64_t fingerprint() const {
    std::call_once(shared_->fingerprinted, [&] { shared_->fingerprint = compute_fingerprint(parameters()); });
    return shared_->fingerprint;
  }

  /// An execution context on loan from the model: returned, still warm, when the lease ends.
  class Lease {
   public:
    explicit Lease(const Model& model) : shared_(model.shared_), backend_(shared_->take()) {}
    ~Lease() {
      if (backend_ != nullptr) shared_->give_back(std::move(backend_));
    }
    Lease(Lease&&) noexcept = default;
    Lease& operator=(Lease&&) = delete;
    B& operator*() const { return *backend_; }
    B* operator->() const { return backend_.get(); }

   private:
    std::shared_ptr<Shared> shared_;
    std::unique_ptr<B> backend_;
  };
  Lease lease() const { return Lease(*this); }

  /// A state of any value on loan from the model, to compute in; where it was lent before, nothing is allocated.
  class SpareState {
   public:
    explicit SpareState(const Model& model) : shared_(model.shared_), state_(shared_->take_state()) {}
    ~SpareState() {
      if (state_ != nullptr) shared_->give_back(std::move(state_));
    }
    SpareState(SpareState&&) noexcept = default;
    SpareState& operator=(SpareState&&) = delete;
    SequenceState& operator*() const { return *state_; }

   private:
    std::shared_ptr<Shared> shared_;
    std::unique_ptr<SequenceState> state_;
  };

  /// Runs the tokens of `run` (rows in the order sequence, position), moves the states on, and calls
  /// use(first_row, logits) for the wanted rows in order, a slice of bounded size at a time. `states` point to memory
  /// of SequenceState; run.starts, the slots' array and the logits are the host's.
  /// `wanted`: all rows, or only each sequence's last token.
  /// Error, and nothing has changed, if `tokens` are not run.rows() of the vocabulary. What else is thrown while it
  /// computes leaves the states undefined.
  enum class Rows { all, last, none };
  template <class Use>
  void run(B& backend, const Run& run, std::span<const Token> tokens, StateSlots<State> states, Rows wanted,
           Use&& use) const {
    check(run, tokens);
    const ArenaScope scope(backend.arena());
    if constexpr (DeviceBackend<B>) {
      if (is_step(run, states) && wanted != Rows::none) {
        step(backend, run, tokens, states, use);
      } else {
        compute(backend, backend.upload(run), tokens, backend.upload(states, run.sequences), wanted,
                [&](Index first, const Logits& logits) { use(first, backend.download(logits)); });
      }
      backend.synchronize();
    } else {
      compute(backend, run, tokens, states, wanted, use);
    }
  }

  /// `count` tokens that follow `token`, each chosen by backend.sample() and taken in but for the last, in the device's
  /// memory all the while. begin_sampling() comes before, end_sampling() has the tokens. `state` is that before
  /// `token`.
  void sample_steps(B& backend, Token token, State* state, Index count) const requires SamplingBackend<B> {
    backend.upload_step({&token, 1}, {&state, 0});
    for (Index i = 0; i < count; ++i) {
      const ArenaScope scope(backend.arena());
      repeated_step(backend, 1, backend.sampling(), [&](const Logits& logits) {
        backend.sample({logits.data(), static_cast<std::size_t>(vocab_size)});
      });
    }
  }

  // ---- what the compiler knows ----

  static constexpr Index parameter_count() { return xlstm::parameter_count<Network, B>(); }
  static constexpr Index weight_bytes() { return xlstm::weight_bytes<Network, B>(); }
  static constexpr Index state_bytes() { return xlstm::state_bytes<Network, B>(); }
  static constexpr double prefill_flops(Index length, Index chunk_size) {
    return xlstm::prefill_flops<Network, B>(length, chunk_size);
  }
  static constexpr double decode_flops() { return xlstm::decode_flops<Network, B>(); }

 private:
  friend class Lease;
  struct Shared {
    Shared(Weights<Network, B> w, const Options& options)
        : weights(std::move(w)), resources(std::make_shared<typename B::Resources>(options)) {
      if constexpr (DeviceBackend<B>) {
        std::call_once(fingerprinted, [&] { fingerprint = compute_fingerprint(weights.parameters); });
        weights = upload_weights<Network, B>(weights, resources);
      }
    }

    std::unique_ptr<B> take() {
      {
        const std::lock_guard lock(mutex);
        if (!idle.empty()) {
          std::unique_ptr<B> backend = std::move(idle.back());
          idle.pop_back();
          return backend;
        }
        idle.reserve(++made);  // leases end in destructors, where there must be room for all that were made
      }
      return std::make_unique<B>(resources);
    }
    void give_back(std::unique_ptr<B> backend) noexcept {
      const std::lock_guard lock(mutex);
      idle.push_back(std::move(backend));
    }
    std::unique_ptr<SequenceState> take_state() {
      {
        const std::lock_guard lock(mutex);
        if (!idle_states.empty()) {
          std::unique_ptr<SequenceState> state = std::move(idle_states.back());
          idle_states.pop_back();
          return state;
        }
        idle_states.reserve(++states_made);  // see take()
      }
      return std::make_unique<SequenceState>(resources);
    }
    void give_back(std::unique_ptr<SequenceState> state) noexcept {
      const std::lock_guard lock(mutex);
      idle_states.push_back(std::move(state));
    }

    static std::uint64_t next_identity() {
      static std::atomic<std::uint64_t> last{0};
      return ++last;
    }

    const std::uint64_t identity = next_identity();  ///< no other model of the process has it
    Weights<Network, B> weights;
    std::shared_ptr<typename B::Resources> resources;
    std::mutex mutex;
    std::vector<std::unique_ptr<B>> idle;
    std::size_t made = 0;
    std::vector<std::unique_ptr<SequenceState>> idle_states;
    std::size_t states_made = 0;
    std::once_flag fingerprinted;
    std::uint64_t fingerprint = 0;
  };

  /// Rows of logits that are there at the same time.
  static constexpr Index slice = 64;

  MatrixView<Arithmetic, embedding_dim> hidden_rows(B& backend, const Run& run, std::span<const Token> tokens,
                                                    StateSlots<State> states) const {
    Arena& arena = backend.arena();
    const auto hidden = arena.template matrix<Arithmetic, embedding_dim>(run.rows());
    const ArenaScope inner(arena);
    typename Network::template Saved<B> saved;
    Network::template hidden<B>(backend, parameters(), run, states, tokens, hidden, saved);
    return hidden;
  }

  /// Whether a run does the same every time, but for tokens and states: a device may repeat it as it is.
  static bool is_step(const Run& run, StateSlots<State> states) {
    return run.length == 1 && run.starts == nullptr && run.form == Form::recurrent && !run.training && states &&
           states.offset == 0;
  }
  /// The step of the uploaded tokens, and then end(logits). `ending` tells different ends apart.
  template <class End>
  Logits repeated_step(B& backend, Index sequences, int ending, End&& end) const {
    const Run run{.sequences = sequences, .length = 1, .form = Form::recurrent};
    Logit* const data = backend.repeated({shared_->identity, sequences, ending}, [&] {
      const Logits logits = backend.arena().template matrix<Logit, vocab_size>(sequences);
      const auto hidden = hidden_rows(backend, run, backend.step_tokens(sequences), backend.step_states());
      Network::template logits<B>(backend, parameters(), hidden, logits);
      end(logits);
      return logits.data();
    });
    return Logits(data, sequences);
  }
  template <class Use>
  void step(B& backend, const Run& run, std::span<const Token> tokens, StateSlots<State> states, Use&& use) const {
    backend.upload_step(tokens, states);
    const Logits logits = repeated_step(backend, run.sequences, 0, [](const Logits&) {});
    for (Index done = 0; done < run.sequences; done += slice) {
      use(done, backend.download(logits.middle_rows(done, std::min(slice, run.sequences - done))));
    }
  }

  template <class Use>
  void compute(B& backend, const Run& run, std::span<const Token> tokens, StateSlots<State> states, Rows wanted,
               Use&& use) const {
    Arena& arena = backend.arena();
    const auto hidden = hidden_rows(backend, run, tokens, states);
    if (wanted == Rows::none) return;
    const Index first = wanted == Rows::all ? 0 : run.length - 1;
    const Index stride = wanted == Rows::all ? 1 : run.length;
    const Index count = wanted == Rows::all ? run.rows() : run.sequences;
    const auto logits = arena.template matrix<Logit, vocab_size>(std::min(slice, count));
    for (Index done = 0; done < count; done += slice) {
      const Index n = std::min(slice, count - done);
      const MatrixView<Arithmetic, embedding_dim> rows(hidden.row(first + done * stride), n, embedding_dim,
                                                       stride * embedding_dim);
      const Logits out = logits.middle_rows(0, n);
      Network::template logits<B>(backend, parameters(), rows, out);
      use(done, out);
    }
  }

  static void check(const Run& run, std::span<const Token> tokens) {
    if (run.sequences < 1 || run.length < 1 || static_cast<Index>(tokens.size()) != run.rows()) {
      fail("model: ", tokens.size(), " tokens for ", run.sequences, " sequences of ", run.length,
           ", expected at least one of both and a token for each place");
    }
    for (std::size_t row = 0; row < tokens.size(); ++row) {
      if (tokens[row] >= 0 && tokens[row] < vocab_size) continue;
      fail("model: token ", tokens[row], " at row ", row, ", expected 0 to ", vocab_size - 1);
    }
  }

  static std::uint64_t compute_fingerprint(const Parameters& parameters) {
    // Words that hold whole elements: fp32 weights that came from bf16 all have the same lower bytes.
    constexpr Index samples = 64, word = 8;
    std::uint64_t hash = 0;
    for_each_parameter<Network>(parameters, [&](std::string_view name, const auto& handle, Initialization) {
      for (const char c : name) hash = splitmix64(hash) ^ static_cast<unsigned char>(c);
      for_each_array(handle, [&](const void* memory, Index size) {
        const auto* bytes = static_cast<const std::byte*>(memory);
        const Index step = std::max(word, round_up(size / samples, word));
        for (Index i = 0; i < size; i += step) {
          std::uint64_t value = 0;
          std::memcpy(&value, bytes + i, static_cast<std::size_t>(std::min(word, size - i)));
          hash = splitmix64(hash) ^ value;
        }
      });
    });
    return hash;
  }

  std::shared_ptr<Shared> shared_;
};

/// The published architecture of a configuration on a backend:
/// `xlstm::LanguageModel<xlstm::presets::xlstm_7b, xlstm::cpu::Backend<xlstm::bf16>>`.
template <ModelConfig config, class B = cpu::Backend<float>>
using LanguageModel = Model<Network<value_of(config)>, B>;

}  // namespace xlstm
