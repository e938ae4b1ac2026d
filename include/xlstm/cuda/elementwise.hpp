// SPDX-License-Identifier: Apache-2.0
// Element-by-element operations on a device: a function of some floats, applied to matrices of one shape. Arithmetic is
// in fp32 whatever the elements are. A result's matrix may be one of the inputs' (not overlap it otherwise), as each
// element is read by the thread that writes it, before it does.
//
// A function of one's own is a type like these:
//
//     struct Square {
//       static constexpr int inputs = 1, outputs = 1;
//       XLSTM_HOST_DEVICE cuda::Floats<1> operator()(const cuda::Floats<1>& x) const { return {{x[0] * x[0]}}; }
//     };
//     cuda::map_elements<bf16, bf16>(stream, Square{}, {x}, {y});
#pragma once

#include <algorithm>

#include "xlstm/core/view.hpp"
#include "xlstm/cuda/floats.hpp"
#include "xlstm/cuda/launch.hpp"

namespace xlstm::cuda {

/// y… = f(x…): a thread has Width adjacent elements, a block as many rows as it has threads for, or part of a row.
/// rows_are_aligned<Width> of all matrices.
template <class F, class X, class Y, int Width>
struct ElementwiseKernel {
  F function;
  MatrixView<const X> x[F::inputs];
  MatrixView<Y> y[F::outputs];
  int across;           ///< threads of a row in a block
  int blocks_of_a_row;  ///< blocks side by side

  static constexpr int threads = 256;

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const int block = thread.block_index().x;
    const Index row = Index{block / blocks_of_a_row} * (threads / across) + thread.index() / across;
    const Index column = (Index{block % blocks_of_a_row} * across + thread.index() % across) * Width;
    if (thread.index() / across >= threads / across || row >= y[0].rows() || column >= y[0].cols()) return;

    Floats<Width> from[F::inputs];
    XLSTM_UNROLL
    for (int j = 0; j < F::inputs; ++j) from[j] = load_floats<Width>(thread, x[j].row(row) + column);
    Floats<Width> to[F::outputs];
    XLSTM_UNROLL
    for (int i = 0; i < Width; ++i) {
      Floats<F::inputs> arguments;
      XLSTM_UNROLL
      for (int j = 0; j < F::inputs; ++j) arguments[j] = from[j][i];
      const Floats<F::outputs> results = function(arguments);
      XLSTM_UNROLL
      for (int j = 0; j < F::outputs; ++j) to[j][i] = results[j];
    }
    XLSTM_UNROLL
    for (int j = 0; j < F::outputs; ++j) store_floats(thread, y[j].row(row) + column, to[j]);
  }
};

/// y… = f(x…) for matrices of one shape, whatever their strides.
template <class X, class Y, class F, Launcher L>
void map_elements(L& launcher, const F& function, const MatrixView<const X> (&x)[F::inputs],
                  const MatrixView<Y> (&y)[F::outputs]) {
  const Index rows = y[0].rows();
  const Index columns = y[0].cols();
  if (rows == 0 || columns == 0) return;
  const auto for_each_matrix = [&](auto&& visit) {
    for (int j = 0; j < F::inputs; ++j) visit(x[j]);
    for (int j = 0; j < F::outputs; ++j) visit(y[j]);
  };
  bool is_one_row = true;
  for_each_matrix([&](const auto& matrix) { is_one_row = is_one_row && (matrix.contiguous() || rows == 1); });
  const auto shaped = [&]<class T>(const MatrixView<T>& matrix) {
    return is_one_row ? MatrixView<T>(matrix.data(), 1, rows * columns) : matrix;
  };

  const auto launch = [&]<int Width>() {
    ElementwiseKernel<F, X, Y, Width> kernel{function, {}, {}, 0, 0};
    for (int j = 0; j < F::inputs; ++j) kernel.x[j] = shaped(x[j]);
    for (int j = 0; j < F::outputs; ++j) kernel.y[j] = shaped(y[j]);
    const Index vectors = kernel.y[0].cols() / Width;
    kernel.across = static_cast<int>(std::min<Index>(vectors, kernel.threads));
    kernel.blocks_of_a_row = static_cast<int>(ceil_div(vectors, kernel.across));
    const Index blocks = ceil_div(kernel.y[0].rows(), kernel.threads / kernel.across) * kernel.blocks_of_a_row;
    launcher.launch({static_cast<int>(blocks)}, kernel);
  };
  constexpr int widest = std::max(vector_width<X>, vector_width<Y>);
  bool aligned = true;
  for_each_matrix([&](const auto& matrix) {
    const auto m = shaped(matrix);
    aligned = aligned && m.cols() % widest == 0 && rows_are_aligned<widest>(m.data(), m.stride());
  });
  if (aligned) return launch.template operator()<widest>();
  launch.template operator()<1>();
}

struct CopyFunction {
  static constexpr int inputs = 1, outputs = 1;
  XLSTM_HOST_DEVICE Floats<1> operator()(const Floats<1>& x) const { return x; }
};
struct AddFunction {
  static constexpr int inputs = 2, outputs = 1;
  XLSTM_HOST_DEVICE Floats<1> operator()(const Floats<2>& x) const { return {{x[0] + x[1]}}; }
};
template <class Cap>
struct SoftCapFunction {
  static constexpr int inputs = 1, outputs = 1;
  XLSTM_HOST_DEVICE Floats<1> operator()(const Floats<1>& x) const { return {{Cap::apply(x[0])}}; }
};
/// Of gate and up.
struct SwiGLUFunction {
  static constexpr int inputs = 2, outputs = 1;
  XLSTM_HOST_DEVICE Floats<1> operator()(const Floats<2>& x) const { return {{x[0] * sigmoid(x[0]) * x[1]}}; }
};
/// Of gate, up, dy: dgate = dy·up·σ(g)(1 + g(1 − σ(g))), dup = dy·silu(g).
struct SwiGLUBackwardFunction {
  static constexpr int inputs = 3, outputs = 2;
  XLSTM_HOST_DEVICE Floats<2> operator()(const Floats<3>& x) const {
    const float s = sigmoid(x[0]);
    return {{x[2] * x[1] * s * (1.0F + x[0] * (1.0F - s)), x[2] * x[0] * s}};
  }
};

/// y = x, rounded to Y.
template <class X, class Y, Launcher L>
void copy(L& launcher, MatrixView<const X> x, MatrixView<Y> y) {
  map_elements<X, Y>(launcher, CopyFunction{}, {x}, {y});
}
/// y += x.
template <class T, Launcher L>
void add(L& launcher, MatrixView<const T> x, MatrixView<T> y) {
  map_elements<T, T>(launcher, AddFunction{}, {y, x}, {y});
}
/// y = cap(y) in place; nothing for NoSoftCap.
template <class Cap, class T, Launcher L>
void soft_cap(L& launcher, MatrixView<T> y) {
  if constexpr (Cap::active) map_elements<T, T>(launcher, SoftCapFunction<Cap>{}, {y}, {y});
}
/// y = silu(gate) ⊙ up.
template <class T, Launcher L>
void swiglu(L& launcher, MatrixView<const T> gate, MatrixView<const T> up, MatrixView<T> y) {
  map_elements<T, T>(launcher, SwiGLUFunction{}, {gate, up}, {y});
}
/// dup may be dy itself.
template <class T, Launcher L>
void swiglu_backward(L& launcher, MatrixView<const T> gate, MatrixView<const T> up, MatrixView<const T> dy,
                     MatrixView<T> dgate, MatrixView<T> dup) {
  map_elements<T, T>(launcher, SwiGLUBackwardFunction{}, {gate, up, dy}, {dgate, dup});
}

}  // namespace xlstm::cuda
