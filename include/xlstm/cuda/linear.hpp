// SPDX-License-Identifier: Apache-2.0
// Linear layers on a device: how weights are stored there, and y = x Wᵀ + b for each way. Dense weights, and quantised
// ones applied to many rows, are products of the queue's library, quantised ones applied to few rows a kernel's
// (quantized_linear.hpp). For many rows, quantised weights are first made dense, in the activations' element, some
// rows of them at a time.
#pragma once

#include <algorithm>
#include <array>
#include <span>
#include <type_traits>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/element.hpp"
#include "xlstm/cuda/elementwise.hpp"
#include "xlstm/cuda/matrix_product.hpp"
#include "xlstm/cuda/quantized_linear.hpp"
#include "xlstm/nn/linear.hpp"
#include "xlstm/nn/quantized_weight.hpp"

namespace xlstm::cuda {

/// How weights are stored: projections, the head, and those that need precision, the gates' and the embedding. Element
/// is that of activations if a user does not name one.
template <class W>
struct WeightStorage {
  using Element = W;
  template <Index Out, Index In>
  using Weight = DenseWeight<W, Out, In>;
  template <Index Out, Index In>
  using HeadWeight = DenseWeight<W, Out, In>;
};
template <QuantizedFormat F>
struct WeightStorage<F> {
  using Element = bf16;
  template <Index Out, Index In>
  using Weight = QuantizedWeight<F, Out, In>;
  template <Index Out, Index In>
  using HeadWeight = QuantizedWeight<typename F::Head, Out, In>;
};

/// Dense weights that are made of quantised ones at a time, in bytes.
inline constexpr Index dequantized_bytes = Index{64} << 20;

namespace detail {

/// A product adds its bias in the type of its result.
template <class Y, class Queue>
const Y* bias_in(Queue& queue, Arena& arena, const float* bias, Index count) {
  if constexpr (std::is_same_v<Y, float>) {
    return bias;
  } else {
    if (bias == nullptr) return nullptr;
    Y* const there = arena.allocate<Y>(count);
    cuda::copy<float, Y>(queue, MatrixView<const float>(bias, 1, count), MatrixView<Y>(there, 1, count));
    return there;
  }
}

template <class T, class Queue, Index In, class Matrix, class Y>
void library_linear(Queue& queue, Arena& arena, MatrixView<const T, In> x, const LinearTerm<Matrix, Y, float>& term) {
  if (x.rows() == 0) return;
  const ArenaScope scope(arena);
  const Y* const bias = bias_in<Y>(queue, arena, term.bias, Matrix::rows);
  if constexpr (QuantizedHandle<Matrix>) {
    using F = typename Matrix::Format;
    constexpr Index stride = dequantized_stride(In);
    constexpr Index most =
        std::min(Matrix::rows, std::max<Index>(1, dequantized_bytes / static_cast<Index>(sizeof(T)) / stride));
    T* const weights = arena.allocate<T>(most * stride);
    for (Index first = 0; first < Matrix::rows; first += most) {
      const Index rows = std::min(most, Matrix::rows - first);
      dequantize<F>(queue, term.weight.codes() + first * Matrix::row_bytes,
                    term.weight.scales() + first * Matrix::row_scales, rows, In, weights);
      MatrixProduct product = linear_product(x.rows(), In, rows, x.stride(), term.y.stride());
      product.b_stride = stride;
      queue.multiply(product, x.data(), weights, term.y.data() + first, bias != nullptr ? bias + first : nullptr);
    }
  } else {
    queue.multiply(linear_product(x.rows(), In, Matrix::rows, x.stride(), term.y.stride()), x.data(),
                   term.weight.data(), term.y.data(), bias);
  }
}

/// One launch for every four of the quantised terms whose format is F and whose result's element is Y.
template <QuantizedFormat F, class Y, class T, class Queue, Index In, class... Terms>
void kernel_linear(Queue& queue, MatrixView<const T, In> x, const Terms&... terms) {
  std::array<QuantizedTerm<Y>, sizeof...(Terms)> chosen;
  std::size_t count = 0;
  const auto choose = [&]<class Matrix, class Z>(const LinearTerm<Matrix, Z, float>& term) {
    if constexpr (QuantizedHandle<Matrix> && std::is_same_v<Z, Y>) {
      if constexpr (std::is_same_v<typename Matrix::Format, F>) {
        chosen[count++] = {term.weight.codes(), term.weight.scales(), term.bias,
                           Matrix::rows,        term.y.data(),        term.y.stride()};
      }
    }
  };
  (choose(terms), ...);
  for (std::size_t done = 0; done < count; done += most_quantized_terms) {
    quantized_linear<F>(
        queue, MatrixView<const T>(x),
        std::span<const QuantizedTerm<Y>>(chosen.data() + done, std::min(count - done, most_quantized_terms)));
  }
}

}  // namespace detail

/// Each term: y = x Wᵀ + bias, y in T or fp32. All quantised ones are of one format.
template <class T, class Queue, Index In, class... Matrices, class... Ys>
void linear(Queue& queue, Arena& arena, MatrixView<const T, In> x, const LinearTerm<Matrices, Ys, float>&... terms) {
  const bool few = x.rows() <= quantized_linear_rows;
  [[maybe_unused]] const auto by_library = [&]<class Matrix, class Y>(const LinearTerm<Matrix, Y, float>& term) {
    if (!QuantizedHandle<Matrix> || !few) detail::library_linear(queue, arena, x, term);
  };
  if constexpr ((QuantizedHandle<Matrices> || ...)) {
    using F = typename FormatOf<Matrices...>::type;
    static_assert(((!QuantizedHandle<Matrices> || std::is_same_v<typename FormatOf<Matrices>::type, F>)&&...),
                  "xlstm: quantised matrices that are applied together have one format");
    if (few) {
      detail::kernel_linear<F, T>(queue, x, terms...);
      if constexpr (!std::is_same_v<T, float>) detail::kernel_linear<F, float>(queue, x, terms...);
    }
  }
  (by_library(terms), ...);
}

}  // namespace xlstm::cuda
