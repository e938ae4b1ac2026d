// SPDX-License-Identifier: Apache-2.0
// The backend of NVIDIA GPUs: the operations of cpu::Backend under the same names. Weights and
// activations are of one element type, bf16, f16 or float, or weights are quantised; sums, gates, norms, their
// parameters, the cell's state and logits are fp32. Kernels are those of this folder, matrix products those of cuBLASLt
// (cuda/runtime.hpp).
//
// An instance has a queue of work on the device, in which each operation waits for the one before, and an arena of the
// device's memory. Views point there; what the host has, tokens and a batch's slots, is brought over by the operation
// that takes it. Weights, states and logits cross in Model, Session and Trainer (DeviceBackend, nn/module.hpp).
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <tuple>
#include <type_traits>
#include <vector>

#include "xlstm/cell/mlstm.hpp"
#include "xlstm/core/arena.hpp"
#include "xlstm/cuda/column_sums.hpp"
#include "xlstm/cuda/cross_entropy.hpp"
#include "xlstm/cuda/decode_steps.hpp"
#include "xlstm/cuda/device_runtime.hpp"
#include "xlstm/cuda/elementwise.hpp"
#include "xlstm/cuda/embedding.hpp"
#include "xlstm/cuda/linear.hpp"
#include "xlstm/cuda/mlstm_chunkwise_backward.hpp"
#include "xlstm/cuda/mlstm_kept_states.hpp"
#include "xlstm/cuda/mlstm_step.hpp"
#include "xlstm/cuda/multihead_norm.hpp"
#include "xlstm/cuda/norm_backward.hpp"
#include "xlstm/cuda/optimizer.hpp"
#include "xlstm/cuda/rms_norm.hpp"
#include "xlstm/cuda/rms_norm_linear.hpp"
#include "xlstm/cuda/sampling.hpp"
#include "xlstm/nn/linear.hpp"
#include "xlstm/nn/module.hpp"
#include "xlstm/train/step.hpp"

namespace xlstm::cuda {

class Runtime;

/// W is how weight matrices are stored: float, xlstm::bf16, xlstm::f16; or, for inference, xlstm::int8 or xlstm::int4.
/// R is where it computes: cuda::Runtime, a GPU, or on the host testing::EmulatedRuntime. ChunkwiseTuning: sizes of the
/// chunkwise mLSTM's kernels; on a GPU, unless a program says, each device's own. T is the element of activations, and
/// of the gates' weights and the embedding: W, or, for quantised weights, bf16, f16 or float.
template <class W = bf16, class R = Runtime,
          class ChunkwiseTuning =
              std::conditional_t<std::is_same_v<R, Runtime>, MLSTMChunkwiseTunings, MLSTMChunkwiseTuning>,
          class T = typename WeightStorage<W>::Element>
class Backend {
  static_assert(
      std::is_same_v<T, float> || std::is_same_v<T, bf16> || std::is_same_v<T, f16>,
      "xlstm: weights on a device are float, xlstm::bf16, xlstm::f16, xlstm::int8 or xlstm::int4, activations "
      "one of the first three");
  static_assert(QuantizedFormat<W> || std::is_same_v<W, T>,
                "xlstm: on a device, activations are of the weights' element unless those are quantised");
  static_assert(DeviceRuntime<R>,
                "xlstm: cuda::Backend needs a device: include xlstm/cuda/runtime.hpp and compile "
                "with nvcc, or, for tests, name testing::EmulatedRuntime");

 public:
  using Arithmetic = T;
  using Precise = float;
  using State = float;
  using GradientBackend = Backend<float, R, ChunkwiseTuning>;
  template <Index Out, Index In>
  using Weight = typename WeightStorage<W>::template Weight<Out, In>;
  template <Index Out, Index In>
  using HeadWeight = typename WeightStorage<W>::template HeadWeight<Out, In>;
  template <Index Out, Index In>
  using PreciseWeight = DenseWeight<T, Out, In>;
  /// In the arena's memory.
  template <class Cell>
  struct MLSTMSaved {
    StateSlots<float> first_state;  ///< copies of the states that forward began with, or null: zeros
    MLSTMDenominators denominators;
    void* chunks = nullptr;  ///< what mlstm_chunkwise left, where the tuning keeps it
  };

  using Options = typename R::Options;
  using Resources = R;  ///< what all instances for one model share: the device
  using DeviceMemory = cuda::DeviceMemory<R>;
  using SampledToken = cuda::SampledToken;
  /// Tokens between begin_sampling() and end_sampling(), at most.
  static constexpr Index most_sampled_tokens = SamplingState::most_tokens;

  explicit Backend(std::shared_ptr<R> runtime = std::make_shared<R>(Options{}))
      : runtime_(std::move(runtime)),
        queue_(*runtime_),
        arena_memory_(runtime_, "activations"),
        arena_(arena_memory_),
        steps_(runtime_),
        sampler_(runtime_) {}

  Arena& arena() { return arena_; }
  typename R::Queue& queue() { return queue_; }
  R& runtime() { return *runtime_; }

  // ---- between host and device ----

  /// The run with `starts` in the device's memory.
  Run upload(const Run& run) {
    queue_.activate();
    Run there = run;
    if (run.starts == nullptr) return there;
    auto* const starts = arena_.allocate<std::uint8_t>(run.rows());
    queue_.upload(starts, run.starts, run.rows());
    there.starts = starts;
    return there;
  }
  /// The slots' array in the device's memory, where the states already are.
  StateSlots<float> upload(StateSlots<float> states, Index sequences) {
    if (!states) return states;
    auto** const slots = arena_.allocate<float*>(sequences);
    queue_.upload(slots, states.slots, sequences * static_cast<Index>(sizeof(float*)));
    return {slots, states.offset};
  }
  /// The rows in the host's memory, until the next call.
  template <Index D>
  MatrixView<float, D> download(MatrixView<float, D> rows) {
    const auto size = static_cast<std::size_t>(rows.rows() * D);
    if (downloaded_.size() < size) downloaded_.resize(size);
    if (rows.contiguous()) {
      queue_.download(downloaded_.data(), rows.data(), rows.size() * static_cast<Index>(sizeof(float)));
    } else {
      for (Index r = 0; r < rows.rows(); ++r) {
        queue_.download(downloaded_.data() + r * D, rows.row(r), D * static_cast<Index>(sizeof(float)));
      }
    }
    return {downloaded_.data(), rows.rows()};
  }
  /// One token for each of so many sequences, as a step that is repeated: tokens and slots (with offset 0) in memory
  /// that stays where it is. step_tokens and step_states are what work() is to use.
  void upload_step(std::span<const Token> tokens, StateSlots<float> states) {
    queue_.activate();
    steps_.reserve(static_cast<Index>(tokens.size()));
    steps_.upload(queue_, tokens);
    steps_.upload(queue_, states, static_cast<Index>(tokens.size()));
  }
  std::span<const Token> step_tokens(Index count) const { return steps_.tokens(count); }
  StateSlots<float> step_states() const { return steps_.slots(); }
  /// Does work(), the step that `key` stands for, or what was recorded of it, and returns the rows that it returned.
  template <class Work>
  float* repeated(const StepKey& key, Work&& work) {
    const Arena::Mark mark = arena_.mark();
    if (mark.block != 0 || mark.used != 0) return work();  // what lies below may lie elsewhere next time
    return steps_.run(queue_, key, arena_.system_allocations() + steps_.moves() + sampler_.moves() + ticket_moves_,
                      work);
  }
  /// What the next sample() calls choose by (cuda/sampling.hpp); sampling() is what their steps end in, `seen` is
  /// (vocabulary), or empty where there is no repetition penalty.
  void begin_sampling(const SamplingOptions& options, const Random::State& random, std::span<const std::uint8_t> seen,
                      Index vocabulary) {
    sampler_.begin(queue_, options, random, seen, vocabulary);
  }
  int sampling() const { return sampler_.kind(); }
  /// Chooses a token by the logits: that of the next step.
  void sample(std::span<const float> logits) { sampler_.sample(queue_, arena_, logits, steps_.next_tokens()); }
  /// The tokens since begin_sampling(), for the host.
  std::span<const SampledToken> end_sampling() { return sampler_.end(queue_); }
  /// Copies within the device's memory, in the order of the operations.
  void copy_state(const float* from, float* to, Index count) {
    queue_.activate();
    queue_.copy(to, from, count * static_cast<Index>(sizeof(float)));
  }
  /// Waits until all that was asked for is done, and throws what went wrong with it.
  void synchronize() { queue_.synchronize(); }

  // ---- matrices ----

  /// y_r = weight[tokens[r]]; `tokens` are the host's, or step_tokens().
  template <class Matrix>
  void embed(std::span<const Token> tokens, const Matrix& weight, MatrixView<T, Matrix::cols> y) {
    const ArenaScope scope(arena_);
    cuda::embed<Matrix::cols, T, T>(queue_, brought(tokens), weight.data(), y);
  }
  /// Each term: y = x Wᵀ + bias, y in T or fp32.
  template <Index In, class... Matrices, class... Ys>
  void linear([[maybe_unused]] MatrixView<const T, In> x, LinearTerm<Matrices, Ys, float>... terms) {
    static_assert(((Matrices::cols == In) && ...),
                  "xlstm: a weight matrix must have as many columns as its input has features");
    cuda::linear(queue_, arena_, x, terms...);
  }
  /// dweight[tokens[r]] += dy_r; `tokens` are the host's.
  template <class Matrix>
  void embed_backward(std::span<const Token> tokens, MatrixView<const T, Matrix::cols> dy, Matrix& dweight) {
    const ArenaScope scope(arena_);
    cuda::embed_backward<Matrix::cols, T>(queue_, brought(tokens), dy, dweight.data());
  }
  /// dx (+)= dy W, of dy rounded to T.
  template <class Matrix, class Y>
  void linear_backward_input(MatrixView<const Y, Matrix::rows> dy, const Matrix& weight, MatrixView<T, Matrix::cols> dx,
                             bool add) {
    if (dy.rows() == 0) return;
    const ArenaScope scope(arena_);
    const auto from = rounded(dy);
    queue_.multiply(
        linear_backward_input_product(dy.rows(), Matrix::cols, Matrix::rows, from.stride(), dx.stride(), add),
        from.data(), weight.data(), dx.data(), static_cast<const T*>(nullptr));
  }
  /// dW += dyᵀ x, of dy rounded to T; dbias += Σ_r dy_r. The gradients are fp32.
  template <class Matrix, Index N, class Y>
  void linear_backward_weight(MatrixView<const T, Matrix::cols> x, MatrixView<const Y, Matrix::rows> dy,
                              Matrix& dweight, VectorParameter<float, N>& dbias) {
    if (dy.rows() == 0) return;
    const ArenaScope scope(arena_);
    const auto from = rounded(dy);
    queue_.multiply(linear_backward_weight_product(dy.rows(), Matrix::cols, Matrix::rows, from.stride(), x.stride()),
                    from.data(), x.data(), dweight.data(), static_cast<const float*>(nullptr));
    if constexpr (N > 0) {
      void* const memory = arena_.allocate<std::byte>(column_sums_bytes(dy.rows(), N));
      cuda::column_sums<Y>(queue_, dy, dbias.data(), memory);
    }
  }

  // ---- norms ----

  template <Index D, Index N>
  void rms_norm(MatrixView<const T, D> x, const VectorParameter<float, D>& weight,
                const VectorParameter<float, N>& bias, double eps, MatrixView<T, D> y, float* scale) {
    cuda::rms_norm<D, T, float, T>(queue_, x, weight.data(), N > 0 ? bias.data() : nullptr, eps, y, scale);
  }
  /// rms_norm() and linear() of y. Terms of few outputs in fp32, the gates', are the norm's own kernel's work.
  template <Index D, Index N, class... Matrices, class... Ys>
  void rms_norm_linear(MatrixView<const T, D> x, const VectorParameter<float, D>& weight,
                       const VectorParameter<float, N>& bias, double eps, MatrixView<T, D> y, float* scale,
                       LinearTerm<Matrices, Ys, float>... terms) {
    constexpr int products = (0 + ... + (is_narrow<Matrices, Ys> ? 1 : 0));
    if constexpr (products == 0) {
      rms_norm(x, weight, bias, eps, y, scale);
    } else {
      constexpr Index outputs = (0 + ... + (is_narrow<Matrices, Ys> ? Matrices::rows : 0));
      NarrowProduct<T> narrow[products];
      NarrowProduct<T>* next = narrow;
      const auto take = [&]<class Matrix, class Y>(const LinearTerm<Matrix, Y, float>& term) {
        if constexpr (is_narrow<Matrix, Y>) *next++ = {term.weight.data(), term.bias, term.y};
      };
      (take(terms), ...);
      cuda::rms_norm_linear<D, static_cast<int>(outputs), T, float, T>(
          queue_, x, weight.data(), N > 0 ? bias.data() : nullptr, eps, y, scale, narrow);
    }
    const auto wide = []<class Matrix, class Y>(const LinearTerm<Matrix, Y, float>& term) {
      if constexpr (is_narrow<Matrix, Y>) {
        return std::tuple<>();
      } else {
        return std::tuple(term);
      }
    };
    std::apply([&](const auto&... rest) { linear(MatrixView<const T, D>(y), rest...); },
               std::tuple_cat(wide(terms)...));
  }
  template <Index Heads, Index Width, Index N>
  void multihead_norm(MatrixView<const T, Width> x, const VectorParameter<float, Width>& weight,
                      const VectorParameter<float, N>& bias, double eps, MatrixView<T, Width> y, float* mean,
                      float* scale) {
    cuda::multihead_norm<Heads, Width, T, float, T>(queue_, x, weight.data(), N > 0 ? bias.data() : nullptr, eps, y,
                                                    mean, scale);
  }
  /// Writes dx; adds to dweight and dbias, which are fp32.
  template <Index D, Index N>
  void rms_norm_backward(MatrixView<const T, D> x, const VectorParameter<float, D>& weight, const float* scale,
                         MatrixView<const T, D> dy, MatrixView<T, D> dx, VectorParameter<float, D>& dweight,
                         VectorParameter<float, N>& dbias) {
    const ArenaScope scope(arena_);
    void* const memory = arena_.allocate<std::byte>(norm_backward_bytes(D, N > 0));
    cuda::rms_norm_backward<D>(queue_, x, weight.data(), scale, dy, dx, dweight.data(), N > 0 ? dbias.data() : nullptr,
                               memory);
  }
  template <Index Heads, Index Width, Index N>
  void multihead_norm_backward(MatrixView<const T, Width> x, const VectorParameter<float, Width>& weight,
                               const float* mean, const float* scale, MatrixView<const T, Width> dy,
                               MatrixView<T, Width> dx, VectorParameter<float, Width>& dweight,
                               VectorParameter<float, N>& dbias) {
    const ArenaScope scope(arena_);
    void* const memory = arena_.allocate<std::byte>(norm_backward_bytes(Width, N > 0));
    cuda::multihead_norm_backward<Heads, Width>(queue_, x, weight.data(), mean, scale, dy, dx, dweight.data(),
                                                N > 0 ? dbias.data() : nullptr, memory);
  }
  /// y = σ(gate) ⊙ multihead_norm(x).
  template <Index Heads, Index Width, Index N>
  void gated_multihead_norm(MatrixView<T, Width> gate, MatrixView<const T, Width> x,
                            const VectorParameter<float, Width>& weight, const VectorParameter<float, N>& bias,
                            double eps, MatrixView<T, Width> y, float* mean, float* scale) {
    cuda::gated_multihead_norm<Heads, Width, T, float, T>(queue_, gate, x, weight.data(), N > 0 ? bias.data() : nullptr,
                                                          eps, y, mean, scale);
  }
  template <Index Heads, Index Width, Index N>
  void gated_multihead_norm_backward(MatrixView<T, Width> gate, MatrixView<const T, Width> x,
                                     const VectorParameter<float, Width>& weight, const VectorParameter<float, N>& bias,
                                     const float* mean, const float* scale, MatrixView<T, Width> dy,
                                     MatrixView<T, Width> dgate, MatrixView<T, Width> dx,
                                     VectorParameter<float, Width>& dweight, VectorParameter<float, N>& dbias) {
    const ArenaScope scope(arena_);
    void* const memory = arena_.allocate<std::byte>(norm_backward_bytes(Width, N > 0));
    cuda::gated_multihead_norm_backward<Heads, Width, T, float>(
        queue_, gate, x, weight.data(), N > 0 ? bias.data() : nullptr, mean, scale, dy, dgate, dx, dweight.data(),
        N > 0 ? dbias.data() : nullptr, memory);
  }

  // ---- element by element ----

  /// y = x.
  template <Index D>
  void copy(MatrixView<const T, D> x, MatrixView<T, D> y) {
    cuda::copy<T, T>(queue_, x, y);
  }
  /// y += x.
  template <Index D>
  void add(MatrixView<const T, D> x, MatrixView<T, D> y) {
    cuda::add<T>(queue_, x, y);
  }
  /// y = silu(gate) ⊙ up.
  template <Index F>
  void swiglu(MatrixView<T, F> gate, MatrixView<T, F> up, MatrixView<T, F> y) {
    cuda::swiglu<T>(queue_, gate, up, y);
  }
  /// dup may be dy itself.
  template <Index F>
  void swiglu_backward(MatrixView<T, F> gate, MatrixView<T, F> up, MatrixView<T, F> dy, MatrixView<T, F> dgate,
                       MatrixView<T, F> dup) {
    cuda::swiglu_backward<T>(queue_, gate, up, dy, dgate, dup);
  }
  /// y = cap(y) in place.
  template <class Cap, Index D>
  void soft_cap(MatrixView<float, D> y) {
    cuda::soft_cap<Cap, float>(queue_, y);
  }

  // ---- the cell ----

  /// h = mLSTM(in) in the form that `run` names; states in place. Run and state as upload() gives them.
  template <class Cell>
  void mlstm(const Run& run, const MLSTMInput<const T, Cell, const float>& in, StateSlots<float> state,
             MatrixView<T, Cell::v_width> h, MLSTMSaved<Cell>& saved) {
    if (run.rows() == 0) return;
    if (state && !run.training && (run.form == Form::recurrent || run.length == 1)) {
      return mlstm_steps<Cell>(run, in, state, h);
    }
    const Run chunks = in_chunks(run);
    if (run.training) {
      saved.first_state = {};
      if (state) {
        auto** const slots = arena_.allocate<float*>(run.sequences);
        keep_states(queue_, state, run.sequences, Cell::state_size,
                    arena_.allocate<float>(run.sequences * Cell::state_size), slots);
        saved.first_state = {slots, 0};
      }
      saved.denominators = {arena_.allocate<float>(run.rows() * Cell::heads),
                            arena_.allocate<float>(run.rows() * Cell::heads)};
    }
    with_chunkwise_tuning<ChunkwiseTuning>(runtime_->compute_capability(), [&]<class Tuning>() {
      const auto forward = [&] {
        void* const memory = arena_.allocate<std::byte>(mlstm_chunkwise_bytes<Cell, T, Tuning>(chunks));
        mlstm_chunkwise<Cell, T, float, T, Tuning>(queue_, chunks, in.q, in.k, in.v, in.igate, in.fgate, state, h,
                                                   memory, run.training ? saved.denominators : MLSTMDenominators{});
        return memory;
      };
      saved.chunks = nullptr;
      if (run.training && Tuning::keep_states) {
        saved.chunks = forward();
      } else {
        const ArenaScope scope(arena_);
        forward();
      }
    });
  }
  /// Writes the gradient of the cell's input; turns dstate (if any) from the last state's gradient into the first's.
  template <class Cell>
  void mlstm_backward(const Run& run, const MLSTMInput<const T, Cell, const float>& in, MatrixView<T, Cell::v_width> h,
                      const MLSTMSaved<Cell>& saved, MatrixView<T, Cell::v_width> dh,
                      const MLSTMInput<T, Cell, float>& gradient, StateSlots<float> dstate) {
    if (run.rows() == 0) return;
    const Run chunks = in_chunks(run);
    const ArenaScope scope(arena_);
    with_chunkwise_tuning<ChunkwiseTuning>(runtime_->compute_capability(), [&]<class Tuning>() {
      const bool kept = saved.chunks != nullptr;
      void* const memory = arena_.allocate<std::byte>(mlstm_chunkwise_backward_bytes<Cell, T, Tuning>(chunks, kept));
      mlstm_chunkwise_backward<Cell, T, float, Tuning>(queue_, chunks, in, saved.first_state, h, saved.denominators, dh,
                                                       gradient, dstate, memory, saved.chunks);
    });
  }

  // ---- training ----

  /// As the CPU's, of fp32 logits; `targets` are the host's.
  template <class Cap, Index V>
  LossSum cross_entropy(MatrixView<float, V> logits, std::span<const Token> targets, double z_loss,
                        double gradient_scale) {
    const ArenaScope scope(arena_);
    LossSum* const sum = arena_.allocate<LossSum>(1);
    void* const memory = arena_.allocate<std::byte>(cross_entropy_bytes(logits.rows()));
    cuda::cross_entropy<Cap, float>(queue_, logits, brought(targets), z_loss, gradient_scale, sum, memory);
    return fetched(sum);
  }
  /// to = from, rounded; both in the device's memory.
  template <class U>
  void round(const float* from, U* to, Index count) {
    cuda::copy<float, U>(queue_, MatrixView<const float>(from, 1, count), MatrixView<U>(to, 1, count));
  }
  double squared_norm(const float* x, Index count) {
    const ArenaScope scope(arena_);
    double* const sum = arena_.allocate<double>(1);
    cuda::squared_norm(queue_, x, count, sum, arena_.allocate<std::byte>(squared_norm_bytes(count)));
    return fetched(sum);
  }
  void adamw(float* parameter, float* gradient, float* first_moment, float* second_moment, Index count,
             const AdamWStep& step) {
    cuda::adamw(queue_, parameter, gradient, first_moment, second_moment, count, step);
  }

 private:
  template <class Matrix, class Y>
  static constexpr bool is_narrow =
      std::is_same_v<Matrix, DenseWeight<T, Matrix::rows, Matrix::cols>>&& std::is_same_v<Y, float>&& Matrix::rows <=
      RMSNormLinearTuning::narrow_outputs;

  /// Tokens of the host, or of the step, in the device's memory.
  const Token* brought(std::span<const Token> tokens) {
    if (steps_.holds(tokens)) return tokens.data();
    const auto count = static_cast<Index>(tokens.size());
    Token* const there = arena_.allocate<Token>(count);
    queue_.upload(there, tokens.data(), count * static_cast<Index>(sizeof(Token)));
    return there;
  }
  template <class Value>
  Value fetched(const Value* there) {
    Value value{};
    queue_.download(&value, there, static_cast<Index>(sizeof(Value)));
    return value;
  }
  /// The rows in T.
  template <class Y, Index D>
  MatrixView<const T, D> rounded(MatrixView<const Y, D> rows) {
    if constexpr (std::is_same_v<Y, T>) {
      return rows;
    } else {
      const auto there = arena_.matrix<T, D>(rows.rows());
      cuda::copy<Y, T>(queue_, rows, there);
      return there;
    }
  }
  /// The run with the size of chunks that its form asks for.
  static Run in_chunks(const Run& run) {
    Run chunks = run;
    if (run.form == Form::parallel) chunks.chunk_size = run.length;
    if (run.form == Form::recurrent) chunks.chunk_size = 1;
    return chunks;
  }
  /// Token by token, all sequences at once.
  template <class Cell>
  void mlstm_steps(const Run& run, const MLSTMInput<const T, Cell, const float>& in, StateSlots<float> state,
                   MatrixView<T, Cell::v_width> h) {
    unsigned* const tickets = zero_tickets(run.sequences * Cell::heads);
    const auto tokens = [&]<class V>(const V& all, Index t) {  // row b: token t of sequence b
      return V(all.row(t), run.sequences, all.cols(), run.length * all.stride());
    };
    const MatrixView<const std::uint8_t, 1> starts(run.starts, run.rows());
    for (Index t = 0; t < run.length; ++t) {
      mlstm_step<Cell, T, float, T>(queue_, tokens(in.q, t), tokens(in.k, t), tokens(in.v, t), tokens(in.igate, t),
                                    tokens(in.fgate, t), state, run.starts != nullptr ? tokens(starts, t) : starts,
                                    tokens(h, t), tickets);
    }
  }
  /// Zeros, which the step's kernel leaves as zeros.
  unsigned* zero_tickets(Index count) {
    const Index bytes = count * static_cast<Index>(sizeof(unsigned));
    if (!tickets_ || tickets_->bytes() < bytes) {
      tickets_ = DeviceMemory(runtime_, bytes, "tickets");
      ++ticket_moves_;
    }
    return static_cast<unsigned*>(tickets_->data());
  }

  std::shared_ptr<R> runtime_;
  typename R::Queue queue_;
  DeviceArenaMemory<R> arena_memory_;
  Arena arena_;
  DecodeSteps<R> steps_;
  DeviceSampler<R> sampler_;
  std::optional<DeviceMemory> tickets_;
  Index ticket_moves_ = 0;
  std::vector<float> downloaded_;
};

}  // namespace xlstm::cuda
