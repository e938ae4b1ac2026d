// SPDX-License-Identifier: Apache-2.0
// The loss of a language model and its gradient through soft cap and head, in slices of rows:
//     L = Σ_r −log softmax(cap(W_head h_r))[target_r] + z_loss·(log Z_r)²        over targets that are not ignored
// A vocabulary of 50304 times 8192 tokens would be 1.6 GB of logits; no more than one slice of them exists at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/error.hpp"
#include "xlstm/nn/module.hpp"
#include "xlstm/train/step.hpp"

namespace xlstm {

struct LossOptions {
  double z_loss = 0;                         ///< coefficient of (log Z)²
  Index slice_bytes = Index{128} * 1048576;  ///< of logits at a time; a slice has at least one row

  /// Throws Error for what can't work.
  void check() const {
    if (!(z_loss >= 0) || !std::isfinite(z_loss)) fail("loss: z_loss is ", z_loss, ", expected at least 0");
  }
};

/// Rows of a slice: as many as slice_bytes hold, spread evenly over the slices.
template <class T>
constexpr Index loss_slice_rows(Index rows, Index vocab_size, Index slice_bytes) {
  const Index row_bytes = vocab_size * static_cast<Index>(sizeof(T));
  const Index most = std::clamp<Index>(slice_bytes / row_bytes, 1, std::max<Index>(rows, 1));
  return ceil_div(rows, std::max<Index>(ceil_div(rows, most), 1));
}

/// Sums of the loss over the rows of `hidden` (rows, D), what Network::hidden gives. targets: (rows), each a token or
/// ignored_target.
template <class Network, class B>
LossSum loss(B& backend, const typename Network::template Parameters<B>& p, Input<B, Network::embedding_dim> hidden,
             std::span<const Token> targets, const LossOptions& options = {}) {
  using T = Precise<B>;
  constexpr Index vocab_size = Network::vocab_size;
  ArenaScope scope(backend.arena());
  const Index slice = loss_slice_rows<T>(hidden.rows(), vocab_size, options.slice_bytes);
  const auto logits = backend.arena().template matrix<T, vocab_size>(slice);
  LossSum sum;
  for (Index first = 0; first < hidden.rows(); first += slice) {
    const Index n = std::min(slice, hidden.rows() - first);
    const auto z = logits.middle_rows(0, n);
    Network::template raw_logits<B>(backend, p, hidden.middle_rows(first, n), z);
    sum += backend.template cross_entropy<typename Network::Cap>(
        z, targets.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(n)), options.z_loss, 0);
  }
  return sum;
}

/// The same, and the gradient of gradient_scale · L: written to dhidden (rows, D), added to the head's gradient in `g`
/// (the embedding's, where they are tied).
template <class Network, class B>
LossSum loss_backward(B& backend, const typename Network::template Parameters<B>& p, Gradients<B, Network>& g,
                      Input<B, Network::embedding_dim> hidden, std::span<const Token> targets,
                      const LossOptions& options, double gradient_scale, Output<B, Network::embedding_dim> dhidden) {
  using T = Precise<B>;
  constexpr Index vocab_size = Network::vocab_size;
  ArenaScope scope(backend.arena());
  const Index slice = loss_slice_rows<T>(hidden.rows(), vocab_size, options.slice_bytes);
  const auto logits = backend.arena().template matrix<T, vocab_size>(slice);
  VectorParameter<T, 0> no_bias;
  LossSum sum;
  for (Index first = 0; first < hidden.rows(); first += slice) {
    const Index n = std::min(slice, hidden.rows() - first);
    const auto z = logits.middle_rows(0, n);
    const auto rows = hidden.middle_rows(first, n);
    Network::template raw_logits<B>(backend, p, rows, z);
    sum += backend.template cross_entropy<typename Network::Cap>(
        z, targets.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(n)), options.z_loss,
        gradient_scale);
    const MatrixView<const T, vocab_size> dz = z;
    backend.linear_backward_weight(rows, dz, Network::head(g), no_bias);
    backend.linear_backward_input(dz, Network::head(p), dhidden.middle_rows(first, n), false);
  }
  return sum;
}

}  // namespace xlstm
