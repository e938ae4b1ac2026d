// SPDX-License-Identifier: Apache-2.0
// The reference backend: every operation as straight loops from its equation, in double or float, sharing nothing with
// an optimised path. Public, for people who test kernels of their own; slow by intention.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <vector>

#include "xlstm/nn/linear.hpp"
#include "xlstm/nn/module.hpp"
#include "xlstm/reference/mlstm_backward.hpp"
#include "xlstm/reference/mlstm_chunkwise.hpp"
#include "xlstm/reference/mlstm_parallel.hpp"
#include "xlstm/reference/mlstm_recurrent.hpp"
#include "xlstm/reference/training.hpp"

namespace xlstm::reference {

/// Storage, arithmetic and states in T. Operations have the names and signatures of every other backend's.
template <class T = double>
class Backend {
 public:
  using Arithmetic = T;
  using State = T;
  using GradientBackend = Backend;
  template <Index Out, Index In>
  using Weight = DenseWeight<T, Out, In>;
  template <Index Out, Index In>
  using PreciseWeight = DenseWeight<T, Out, In>;

  template <class Cell>
  struct MLSTMSaved {
    T* first_state;  ///< (sequences, Cell::state_size)
  };

  struct Options {};
  /// What the instances for one model share: nothing here.
  struct Resources {
    explicit Resources(const Options& = {}) {}
  };

  explicit Backend(std::shared_ptr<Resources> = nullptr) {}

  Arena& arena() { return arena_; }

  // ---- matrices ----

  /// y_r = weight[tokens[r]].
  template <class W>
  void embed(std::span<const Token> tokens, const W& weight, MatrixView<T, W::cols> y) {
    for (Index r = 0; r < y.rows(); ++r) {
      for (Index c = 0; c < W::cols; ++c) y(r, c) = weight.data()[tokens[static_cast<std::size_t>(r)] * W::cols + c];
    }
  }
  /// dweight[tokens[r]] += dy_r.
  template <class W>
  void embed_backward(std::span<const Token> tokens, MatrixView<const T, W::cols> dy, W& dweight) {
    for (Index r = 0; r < dy.rows(); ++r) {
      for (Index c = 0; c < W::cols; ++c) dweight.data()[tokens[static_cast<std::size_t>(r)] * W::cols + c] += dy(r, c);
    }
  }

  /// Each term: y = x Wᵀ + bias.
  template <Index In, class... Ws>
  void linear(MatrixView<const T, In> x, LinearTerm<Ws, T>... terms) {
    (one_linear(x, terms), ...);
  }
  /// dx (+)= dy W.
  template <class W>
  void linear_backward_input(MatrixView<const T, W::rows> dy, const W& weight, MatrixView<T, W::cols> dx, bool add) {
    for (Index r = 0; r < dy.rows(); ++r) {
      for (Index c = 0; c < W::cols; ++c) {
        T sum = 0;
        for (Index o = 0; o < W::rows; ++o) sum += dy(r, o) * weight.data()[o * W::cols + c];
        dx(r, c) = add ? dx(r, c) + sum : sum;
      }
    }
  }
  /// dW += dyᵀ x, dbias += Σ_r dy_r.
  template <class W, Index N>
  void linear_backward_weight(MatrixView<const T, W::cols> x, MatrixView<const T, W::rows> dy, W& dweight,
                              VectorParameter<T, N>& dbias) {
    for (Index o = 0; o < W::rows; ++o) {
      for (Index c = 0; c < W::cols; ++c) {
        T sum = 0;
        for (Index r = 0; r < x.rows(); ++r) sum += dy(r, o) * x(r, c);
        dweight.data()[o * W::cols + c] += sum;
      }
      if constexpr (N > 0) {
        for (Index r = 0; r < x.rows(); ++r) dbias.data()[o] += dy(r, o);
      }
    }
  }

  // ---- norms ----

  /// y = x·scale ⊙ w (+ b), scale_r = 1/√(mean(x_r²) + eps).
  template <Index D, Index N>
  void rms_norm(MatrixView<const T, D> x, const VectorParameter<T, D>& weight, const VectorParameter<T, N>& bias,
                double eps, MatrixView<T, D> y, T* scale) {
    for (Index r = 0; r < x.rows(); ++r) {
      T sum = 0;
      for (Index c = 0; c < D; ++c) sum += x(r, c) * x(r, c);
      scale[r] = T{1} / std::sqrt(sum / T(D) + T(eps));
      for (Index c = 0; c < D; ++c) y(r, c) = x(r, c) * scale[r] * weight[c] + (N > 0 ? bias[c] : T{0});
    }
  }
  template <Index D, Index N>
  void rms_norm_backward(MatrixView<const T, D> x, const VectorParameter<T, D>& weight, const T* scale,
                         MatrixView<const T, D> dy, MatrixView<T, D> dx, VectorParameter<T, D>& dweight,
                         VectorParameter<T, N>& dbias) {
    for (Index r = 0; r < x.rows(); ++r) {
      T dot = 0;
      for (Index c = 0; c < D; ++c) dot += dy(r, c) * weight[c] * x(r, c);
      const T s = scale[r];
      for (Index c = 0; c < D; ++c) {
        dweight.data()[c] += dy(r, c) * x(r, c) * s;
        if constexpr (N > 0) dbias.data()[c] += dy(r, c);
        dx(r, c) = s * (dy(r, c) * weight[c] - x(r, c) * s * s * dot / T(D));
      }
    }
  }

  /// Per head: y = (x − mean)·scale ⊙ w (+ b); mean and scale are (rows, Heads).
  template <Index Heads, Index W, Index N>
  void multihead_norm(MatrixView<const T, W> x, const VectorParameter<T, W>& weight, const VectorParameter<T, N>& bias,
                      double eps, MatrixView<T, W> y, T* mean, T* scale) {
    constexpr Index dim = W / Heads;
    for (Index r = 0; r < x.rows(); ++r) {
      for (Index h = 0; h < Heads; ++h) {
        T sum = 0;
        for (Index c = h * dim; c < (h + 1) * dim; ++c) sum += x(r, c);
        const T mu = sum / T(dim);
        T variance = 0;
        for (Index c = h * dim; c < (h + 1) * dim; ++c) variance += (x(r, c) - mu) * (x(r, c) - mu);
        const T s = T{1} / std::sqrt(variance / T(dim) + T(eps));
        mean[r * Heads + h] = mu;
        scale[r * Heads + h] = s;
        for (Index c = h * dim; c < (h + 1) * dim; ++c) {
          y(r, c) = (x(r, c) - mu) * s * weight[c] + (N > 0 ? bias[c] : T{0});
        }
      }
    }
  }
  template <Index Heads, Index W, Index N>
  void multihead_norm_backward(MatrixView<const T, W> x, const VectorParameter<T, W>& weight, const T* mean,
                               const T* scale, MatrixView<const T, W> dy, MatrixView<T, W> dx,
                               VectorParameter<T, W>& dweight, VectorParameter<T, N>& dbias) {
    constexpr Index dim = W / Heads;
    for (Index r = 0; r < x.rows(); ++r) {
      for (Index h = 0; h < Heads; ++h) {
        const T mu = mean[r * Heads + h];
        const T s = scale[r * Heads + h];
        T sum = 0;
        T dot = 0;
        for (Index c = h * dim; c < (h + 1) * dim; ++c) {
          const T normed = (x(r, c) - mu) * s;
          sum += dy(r, c) * weight[c];
          dot += dy(r, c) * weight[c] * normed;
          dweight.data()[c] += dy(r, c) * normed;
          if constexpr (N > 0) dbias.data()[c] += dy(r, c);
        }
        for (Index c = h * dim; c < (h + 1) * dim; ++c) {
          dx(r, c) = s * (dy(r, c) * weight[c] - sum / T(dim) - (x(r, c) - mu) * s * dot / T(dim));
        }
      }
    }
  }

  /// y = σ(gate) ⊙ multihead_norm(x).
  template <Index Heads, Index W, Index N>
  void gated_multihead_norm(MatrixView<T, W> gate, MatrixView<const T, W> x, const VectorParameter<T, W>& weight,
                            const VectorParameter<T, N>& bias, double eps, MatrixView<T, W> y, T* mean, T* scale) {
    multihead_norm<Heads>(x, weight, bias, eps, y, mean, scale);
    for (Index r = 0; r < y.rows(); ++r) {
      for (Index c = 0; c < W; ++c) y(r, c) *= sigmoid(gate(r, c));
    }
  }
  /// dy becomes the gradient of the norm's result.
  template <Index Heads, Index W, Index N>
  void gated_multihead_norm_backward(MatrixView<T, W> gate, MatrixView<const T, W> x,
                                     const VectorParameter<T, W>& weight, const VectorParameter<T, N>& bias,
                                     const T* mean, const T* scale, MatrixView<T, W> dy, MatrixView<T, W> dgate,
                                     MatrixView<T, W> dx, VectorParameter<T, W>& dweight,
                                     VectorParameter<T, N>& dbias) {
    for (Index r = 0; r < x.rows(); ++r) {
      for (Index c = 0; c < W; ++c) {
        const Index head = r * Heads + c / (W / Heads);
        const T normed = (x(r, c) - mean[head]) * scale[head] * weight[c] + (N > 0 ? bias[c] : T{0});
        const T s = sigmoid(gate(r, c));
        dgate(r, c) = dy(r, c) * normed * s * (T{1} - s);
        dy(r, c) *= s;
      }
    }
    multihead_norm_backward<Heads>(x, weight, mean, scale, MatrixView<const T, W>(dy), dx, dweight, dbias);
  }

  // ---- element by element ----

  /// y += x.
  template <Index D>
  void add(MatrixView<const T, D> x, MatrixView<T, D> y) {
    for (Index r = 0; r < x.rows(); ++r) {
      for (Index c = 0; c < x.cols(); ++c) y(r, c) += x(r, c);
    }
  }
  /// y = x.
  template <Index D>
  void copy(MatrixView<const T, D> x, MatrixView<T, D> y) {
    for (Index r = 0; r < x.rows(); ++r) std::copy_n(x.row(r), x.cols(), y.row(r));
  }
  /// y = silu(gate) ⊙ up.
  template <Index F>
  void swiglu(MatrixView<T, F> gate, MatrixView<T, F> up, MatrixView<T, F> y) {
    for (Index r = 0; r < y.rows(); ++r) {
      for (Index c = 0; c < F; ++c) y(r, c) = gate(r, c) * sigmoid(gate(r, c)) * up(r, c);
    }
  }
  /// dup may be dy itself.
  template <Index F>
  void swiglu_backward(MatrixView<T, F> gate, MatrixView<T, F> up, MatrixView<T, F> dy, MatrixView<T, F> dgate,
                       MatrixView<T, F> dup) {
    for (Index r = 0; r < dy.rows(); ++r) {
      for (Index c = 0; c < F; ++c) {
        const T s = sigmoid(gate(r, c));
        const T d = dy(r, c);
        dgate(r, c) = d * up(r, c) * s * (T{1} + gate(r, c) * (T{1} - s));
        dup(r, c) = d * gate(r, c) * s;
      }
    }
  }
  /// y = cap(y) in place; Cap is a SoftCap<a> or NoSoftCap.
  template <class Cap, Index D>
  void soft_cap(MatrixView<T, D> y) {
    for (Index r = 0; r < y.rows(); ++r) {
      for (Index c = 0; c < y.cols(); ++c) y(r, c) = Cap::apply(y(r, c));
    }
  }

  // ---- the cell ----

  /// h = mLSTM(in) in the form that `run` names; states in place.
  template <class Cell>
  void mlstm(const Run& run, const MLSTMInput<const T, Cell>& in, StateSlots<T> state, MatrixView<T, Cell::v_width> h,
             MLSTMSaved<Cell>& saved) {
    if (run.training) {
      saved.first_state = arena_.template allocate<T>(run.sequences * Cell::state_size);
      for (Index b = 0; b < run.sequences; ++b) {
        std::copy_n(state[b], Cell::state_size, saved.first_state + b * Cell::state_size);
      }
    }
    switch (run.form) {
      case Form::recurrent:
        return mlstm_recurrent<Cell, T>(run, in, state, h);
      case Form::parallel:
        return mlstm_parallel<Cell, T>(run, in, state, h);
      case Form::chunkwise:
        return mlstm_chunkwise<Cell, T>(run, in, state, h);
    }
  }
  /// Writes the gradient of the cell's input; turns dstate (if any) from the last state's gradient into the first's.
  template <class Cell>
  void mlstm_backward(const Run& run, const MLSTMInput<const T, Cell>& in, MatrixView<T, Cell::v_width> /*h*/,
                      const MLSTMSaved<Cell>& saved, MatrixView<T, Cell::v_width> dh,
                      const MLSTMInput<T, Cell>& gradient, StateSlots<T> dstate) {
    std::vector<const T*> first(static_cast<std::size_t>(run.sequences));
    for (Index b = 0; b < run.sequences; ++b) {
      first[static_cast<std::size_t>(b)] = saved.first_state + b * Cell::state_size;
    }
    reference::mlstm_backward<Cell, T>(run, in, StateSlots<const T>{first.data(), 0}, dh, gradient, dstate);
  }

  // ---- training ----

  /// See reference/training.hpp.
  template <class Cap, Index V>
  LossSum cross_entropy(MatrixView<T, V> logits, std::span<const Token> targets, double z_loss, double gradient_scale) {
    return reference::cross_entropy<Cap>(logits, targets, z_loss, gradient_scale);
  }
  void zero(T* x, Index count) { std::fill_n(x, count, T(0)); }
  double squared_norm(const T* x, Index count) { return reference::squared_norm(x, count); }
  void adamw(T* parameter, T* gradient, T* first_moment, T* second_moment, Index count, const AdamWStep& step) {
    reference::adamw(parameter, gradient, first_moment, second_moment, count, step);
  }

 private:
  template <Index In, class W>
  void one_linear(MatrixView<const T, In> x, const LinearTerm<W, T>& term) {
    static_assert(W::cols == In, "xlstm: a weight matrix must have as many columns as its input has features");
    for (Index r = 0; r < x.rows(); ++r) {
      for (Index o = 0; o < W::rows; ++o) {
        T sum = term.bias != nullptr ? term.bias[o] : T{0};
        for (Index c = 0; c < In; ++c) sum += x(r, c) * term.weight.data()[o * In + c];
        term.y(r, o) = sum;
      }
    }
  }

  Arena arena_;
};

}  // namespace xlstm::reference
