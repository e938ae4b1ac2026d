// SPDX-License-Identifier: Apache-2.0
// The CPU backend: weights stored as float, bf16, f16 or quantised (core/quantization.hpp), arithmetic and states in
// fp32, work shared among the threads of a pool. An instance is an execution context (a workspace and the pool); it
// serves one caller at a time. Models keep a few and lend them. Derive from it to replace a single operation: modules
// call the most derived one.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <type_traits>

#include "xlstm/core/element.hpp"
#include "xlstm/cpu/bf16_activations.hpp"
#include "xlstm/cpu/elementwise.hpp"
#include "xlstm/cpu/embedding.hpp"
#include "xlstm/cpu/int8_activations.hpp"
#include "xlstm/cpu/integer_product.hpp"
#include "xlstm/cpu/linear.hpp"
#include "xlstm/cpu/mlstm.hpp"
#include "xlstm/cpu/mlstm_backward.hpp"
#include "xlstm/cpu/norm.hpp"
#include "xlstm/cpu/precision.hpp"
#include "xlstm/cpu/quantized_rows.hpp"
#include "xlstm/cpu/thread_pool.hpp"
#include "xlstm/cpu/training.hpp"
#include "xlstm/nn/linear.hpp"
#include "xlstm/nn/module.hpp"
#include "xlstm/nn/quantized_weight.hpp"

namespace xlstm::cpu {

/// How weights are stored: projections, the head, and those that need precision, the gates' and the embedding.
template <class W>
struct WeightStorage {
  template <Index Out, Index In>
  using Weight = DenseWeight<W, Out, In>;
  template <Index Out, Index In>
  using HeadWeight = Weight<Out, In>;
  template <Index Out, Index In>
  using PreciseWeight = DenseWeight<W, Out, In>;
};
template <QuantizedFormat F>
struct WeightStorage<F> {
  template <Index Out, Index In>
  using Weight = QuantizedWeight<F, Out, In>;
  template <Index Out, Index In>
  using HeadWeight = QuantizedWeight<typename F::Head, Out, In>;
  template <Index Out, Index In>
  using PreciseWeight = DenseWeight<bf16, Out, In>;
};

/// W is how weight matrices are stored: float, xlstm::bf16, xlstm::f16; or, for inference, xlstm::int8 or xlstm::int4
/// (gates and embedding are bf16 then). Activations: whether those that meet weights are rounded: FloatActivations;
/// Int8Activations, for quantised weights (int8_activations.hpp); Bf16Activations, for bf16 (bf16_activations.hpp).
/// Precision: of products of floats, HighestPrecision or HighPrecision (precision.hpp).
template <class W = float, class Activations = FloatActivations, class Precision = HighestPrecision>
class Backend {
  static_assert(std::is_same_v<W, float> || std::is_same_v<W, bf16> || std::is_same_v<W, f16> || QuantizedFormat<W>,
                "xlstm: a CPU backend stores weights as float, xlstm::bf16, xlstm::f16, xlstm::int8 or xlstm::int4; "
                "xlstm::reference::Backend<double> computes in double");
  static constexpr bool rounds_to_bf16 = std::is_same_v<Activations, Bf16Activations>;
  static_assert(rounds_to_bf16 || std::is_same_v<Activations, FloatActivations> ||
                    std::is_same_v<Activations, Int8Activations>,
                "xlstm: a CPU backend's activations are FloatActivations, Int8Activations or Bf16Activations; its "
                "precision comes after them: Backend<float, FloatActivations, HighPrecision>");
  static_assert(std::is_same_v<Precision, HighestPrecision> || std::is_same_v<Precision, HighPrecision>,
                "xlstm: a CPU backend's precision is HighestPrecision or HighPrecision");
  static_assert(!rounds_to_bf16 || std::is_same_v<W, bf16>,
                "xlstm: Bf16Activations are for weights in bf16: Backend<xlstm::bf16, xlstm::cpu::Bf16Activations>");

 public:
  using Arithmetic = float;
  using State = float;
  using GradientBackend = Backend<float, FloatActivations, Precision>;
  template <Index Out, Index In>
  using Weight = typename WeightStorage<W>::template Weight<Out, In>;
  template <Index Out, Index In>
  using HeadWeight = typename WeightStorage<W>::template HeadWeight<Out, In>;
  template <Index Out, Index In>
  using PreciseWeight = typename WeightStorage<W>::template PreciseWeight<Out, In>;
  template <class Cell>
  using MLSTMSaved = cpu::MLSTMSaved<Cell>;

  struct Options {
    int threads = 0;  ///< 0: every core that the process may use
  };
  /// What all instances for one model share: the threads.
  struct Resources {
    explicit Resources(const Options& options = {}) : threads(options.threads) {}
    ThreadPool threads;
  };

  explicit Backend(std::shared_ptr<Resources> resources = std::make_shared<Resources>())
      : resources_(std::move(resources)) {}

  Arena& arena() { return arena_; }
  ThreadPool& threads() { return resources_->threads; }

  // ---- matrices ----

  /// y_r = weight[tokens[r]].
  template <class Matrix>
  void embed(std::span<const Token> tokens, const Matrix& weight, MatrixView<float, Matrix::cols> y) {
    cpu::embed(threads(), tokens, weight.data(), y);
  }
  /// dweight[tokens[r]] += dy_r.
  template <class Matrix>
  void embed_backward(std::span<const Token> tokens, MatrixView<const float, Matrix::cols> dy, Matrix& dweight) {
    cpu::embed_backward(threads(), tokens, dy, dweight.data());
  }
  /// Each term: y = x Wᵀ + bias; all terms in one parallel region.
  template <Index In, class... Matrices>
  void linear(MatrixView<const float, In> x, LinearTerm<Matrices, float>... terms) {
    static_assert(((Matrices::cols == In) && ...),
                  "xlstm: a weight matrix must have as many columns as its input has features");
    if constexpr (rounds_to_bf16) {
      const std::array tasks{LinearTask<bf16>{terms.weight.data(), Matrices::rows, terms.bias, terms.y}...};
      return rounded_linear_group(threads(), arena_, x, In, std::span<const LinearTask<bf16>>(tasks));
    } else {
      linear_of_floats(x, terms...);
    }
  }
  /// dx (+)= dy W.
  template <class Matrix>
  void linear_backward_input(MatrixView<const float, Matrix::rows> dy, const Matrix& weight,
                             MatrixView<float, Matrix::cols> dx, bool add) {
    static_assert(!QuantizedHandle<Matrix>,
                  "xlstm: quantised weights cannot be trained; train in float and quantise the result");
    cpu::linear_backward_input<Precision>(threads(), arena_, dy, weight.data(), Matrix::rows, Matrix::cols, dx, add);
  }
  /// dW += dyᵀ x, dbias += Σ_r dy_r.
  template <class Matrix, Index N>
  void linear_backward_weight(MatrixView<const float, Matrix::cols> x, MatrixView<const float, Matrix::rows> dy,
                              Matrix& dweight, VectorParameter<float, N>& dbias) {
    cpu::linear_backward_weight<Precision>(threads(), arena_, dy, x, dweight.data(), N > 0 ? dbias.data() : nullptr);
  }

  /// Back through linear(x, ...): dx = Σ dy W over all terms; for each dW += dyᵀ x, dbias += Σ_r dy_r.
  template <Index In, class... Terms>
  void linear_backward(MatrixView<const float, In> x, MatrixView<float, In> dx, const Terms&... terms) {
    static_assert(!(QuantizedHandle<typename Terms::Matrix> || ...),
                  "xlstm: quantised weights cannot be trained; train in float and quantise the result");
    const std::array tasks{
        LinearBackwardTask<W>{terms.dy, terms.weight.data(), terms.dweight.data(), bias_gradient(terms.dbias)}...};
    cpu::linear_backward<Precision>(threads(), arena_, MatrixView<const float>(x),
                                    std::span<const LinearBackwardTask<W>>(tasks), MatrixView<float>(dx));
  }

  // ---- norms ----

  template <Index D, Index N>
  void rms_norm(MatrixView<const float, D> x, const VectorParameter<float, D>& weight,
                const VectorParameter<float, N>& bias, double eps, MatrixView<float, D> y, float* scale) {
    cpu::rms_norm(threads(), x, weight.data(), N > 0 ? bias.data() : nullptr, eps, y, scale);
  }
  template <Index D, Index N>
  void rms_norm_backward(MatrixView<const float, D> x, const VectorParameter<float, D>& weight, const float* scale,
                         MatrixView<const float, D> dy, MatrixView<float, D> dx, VectorParameter<float, D>& dweight,
                         VectorParameter<float, N>& dbias) {
    cpu::rms_norm_backward(threads(), arena_, x, weight.data(), scale, dy, dx, dweight.data(),
                           N > 0 ? dbias.data() : nullptr);
  }
  template <Index Heads, Index Width, Index N>
  void multihead_norm(MatrixView<const float, Width> x, const VectorParameter<float, Width>& weight,
                      const VectorParameter<float, N>& bias, double eps, MatrixView<float, Width> y, float* mean,
                      float* scale) {
    cpu::multihead_norm<Heads>(threads(), x, weight.data(), N > 0 ? bias.data() : nullptr, eps, y, mean, scale);
  }
  template <Index Heads, Index Width, Index N>
  void multihead_norm_backward(MatrixView<const float, Width> x, const VectorParameter<float, Width>& weight,
                               const float* mean, const float* scale, MatrixView<const float, Width> dy,
                               MatrixView<float, Width> dx, VectorParameter<float, Width>& dweight,
                               VectorParameter<float, N>& dbias) {
    cpu::multihead_norm_backward<Heads>(threads(), arena_, x, weight.data(), mean, scale, dy, dx, dweight.data(),
                                        N > 0 ? dbias.data() : nullptr);
  }
  /// y = σ(gate) ⊙ multihead_norm(x).
  template <Index Heads, Index Width, Index N>
  void gated_multihead_norm(MatrixView<float, Width> gate, MatrixView<const float, Width> x,
                            const VectorParameter<float, Width>& weight, const VectorParameter<float, N>& bias,
                            double eps, MatrixView<float, Width> y, float* mean, float* scale) {
    cpu::gated_multihead_norm<Heads, ThreadPool, Width>(threads(), gate, x, weight.data(),
                                                        N > 0 ? bias.data() : nullptr, eps, y, mean, scale);
  }
  /// dy becomes the gradient of the norm's result.
  template <Index Heads, Index Width, Index N>
  void gated_multihead_norm_backward(MatrixView<float, Width> gate, MatrixView<const float, Width> x,
                                     const VectorParameter<float, Width>& weight, const VectorParameter<float, N>& bias,
                                     const float* mean, const float* scale, MatrixView<float, Width> dy,
                                     MatrixView<float, Width> dgate, MatrixView<float, Width> dx,
                                     VectorParameter<float, Width>& dweight, VectorParameter<float, N>& dbias) {
    cpu::gated_multihead_norm_backward<Heads, ThreadPool, Width>(threads(), arena_, gate, x, weight.data(),
                                                                 N > 0 ? bias.data() : nullptr, mean, scale, dy, dgate,
                                                                 dx, dweight.data(), N > 0 ? dbias.data() : nullptr);
  }

  // ---- element by element ----

  /// y += x.
  template <Index D>
  void add(MatrixView<const float, D> x, MatrixView<float, D> y) {
    cpu::add(threads(), x, y);
  }
  /// y = x.
  template <Index D>
  void copy(MatrixView<const float, D> x, MatrixView<float, D> y) {
    for (Index r = 0; r < x.rows(); ++r) array_row(y, r) = array_row(x, r);
  }
  /// y = silu(gate) ⊙ up.
  template <Index F>
  void swiglu(MatrixView<float, F> gate, MatrixView<float, F> up, MatrixView<float, F> y) {
    cpu::swiglu<ThreadPool, F>(threads(), gate, up, y);
  }
  /// dup may be dy itself.
  template <Index F>
  void swiglu_backward(MatrixView<float, F> gate, MatrixView<float, F> up, MatrixView<float, F> dy,
                       MatrixView<float, F> dgate, MatrixView<float, F> dup) {
    cpu::swiglu_backward<ThreadPool, F>(threads(), gate, up, dy, dgate, dup);
  }
  /// y = cap(y) in place.
  template <class Cap, Index D>
  void soft_cap(MatrixView<float, D> y) {
    cpu::soft_cap<Cap>(threads(), y);
  }

  // ---- the cell ----

  /// h = mLSTM(in) in the form that `run` names; states in place.
  template <class Cell>
  void mlstm(const Run& run, const MLSTMInput<const float, Cell>& in, StateSlots<float> state,
             MatrixView<float, Cell::v_width> h, MLSTMSaved<Cell>& saved) {
    cpu::mlstm<Cell, Precision>(threads(), arena_, run, in, state, h, saved);
  }
  /// Writes the gradient of the cell's input; turns dstate (if any) from the last state's gradient into the first's.
  template <class Cell>
  void mlstm_backward(const Run& run, const MLSTMInput<const float, Cell>& in, MatrixView<float, Cell::v_width> h,
                      const MLSTMSaved<Cell>& saved, MatrixView<float, Cell::v_width> dh,
                      const MLSTMInput<float, Cell>& gradient, StateSlots<float> dstate) {
    cpu::mlstm_backward<Cell, Precision>(threads(), arena_, run, in, h, saved, dh, gradient, dstate);
  }

  // ---- training ----

  template <class Cap, Index V>
  LossSum cross_entropy(MatrixView<float, V> logits, std::span<const Token> targets, double z_loss,
                        double gradient_scale) {
    return cpu::cross_entropy<Cap>(threads(), arena_, logits, targets, z_loss, gradient_scale);
  }
  void zero(float* x, Index count) { cpu::zero(threads(), x, count); }
  template <class U>
  void round(const float* from, U* to, Index count) {
    cpu::round(threads(), from, to, count);
  }
  double squared_norm(const float* x, Index count) { return cpu::squared_norm(threads(), arena_, x, count); }
  void adamw(float* parameter, float* gradient, float* first_moment, float* second_moment, Index count,
             const AdamWStep& step) {
    cpu::adamw(threads(), parameter, gradient, first_moment, second_moment, count, step);
  }

 private:
  /// Null where there is no bias.
  template <Index N>
  static float* bias_gradient(VectorParameter<float, N>& dbias) {
    return N > 0 ? dbias.data() : nullptr;
  }

  /// linear() with activations that are not rounded to bf16.
  template <Index In, class... Matrices>
  void linear_of_floats(MatrixView<const float, In> x, LinearTerm<Matrices, float>... terms) {
    const auto products = [&](const auto&... rows) {
      const std::array tasks{WeightTask{AnyWeightRows(rows), Matrices::rows, terms.bias, terms.y}...};
      linear_group<Precision>(threads(), arena_, x, In, std::span<const WeightTask>(tasks));
    };
    using F = typename FormatOf<Matrices...>::type;
    if constexpr (QuantizedFormat<F> && has_integer_products && std::is_same_v<Activations, Int8Activations>) {
      if (x.rows() >= IntegerProductTuning::least_rows) return integer_linear<F>(x, terms...);
      const ArenaScope scope(arena_);
      const Int8Input<F> input(arena_, x);
      return products(integer_rows(terms.weight, input)...);
    }
    products(weight_rows(terms.weight)...);
  }
  /// linear() in integers for weights of format F, and in floats for the others.
  template <QuantizedFormat F, Index In, class... Matrices>
  void integer_linear(MatrixView<const float, In> x, LinearTerm<Matrices, float>... terms) {
    std::array<IntegerTask<F>, sizeof...(Matrices)> integers;
    std::array<WeightTask, sizeof...(Matrices)> others;
    std::size_t integer_count = 0, other_count = 0;
    const auto add = [&]<class Matrix>(const LinearTerm<Matrix, float>& term, const auto& rows) {
      if constexpr (std::is_same_v<typename FormatOf<Matrix>::type, F>) {
        integers[integer_count++] = {rows, Matrix::rows, term.bias, term.y};
      } else {
        others[other_count++] = {AnyWeightRows(rows), Matrix::rows, term.bias, term.y};
      }
    };
    const auto add_all = [&](const auto&... rows) {
      (add(terms, rows), ...);
      integer_products<F>(threads(), arena_, x, std::span<const IntegerTask<F>>(integers.data(), integer_count));
      if (other_count > 0) {
        linear_group<Precision>(threads(), arena_, x, In, std::span<const WeightTask>(others.data(), other_count));
      }
    };
    add_all(weight_rows(terms.weight)...);
  }

  std::shared_ptr<Resources> resources_;
  Arena arena_;
};

}  // namespace xlstm::cpu
