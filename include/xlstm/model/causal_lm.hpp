// SPDX-License-Identifier: Apache-2.0
// embedding → blocks → norm → head → soft cap (xLSTM 7B, Fig. 3). The blocks are any module of D features: the
// published ones (model/architecture.hpp) or a user's own.
#pragma once

#include <algorithm>
#include <span>

#include "xlstm/cell/gates.hpp"
#include "xlstm/nn/linear.hpp"
#include "xlstm/nn/module.hpp"

namespace xlstm {

/// FLOPs of making `rows` rows of logits, soft cap included, from rows of `width` features.
constexpr double logit_flops(Index rows, Index vocab_size, Index width) {
  return static_cast<double>(rows) * static_cast<double>(vocab_size) * (2.0 * static_cast<double>(width) + 3);
}

template <Index VocabSize, class BlocksModule, class OutNormModule, class LogitCap = SoftCap<30.0>,
          bool TieEmbeddings = false>
struct CausalLM {
  using Blocks = BlocksModule;
  using OutNorm = OutNormModule;
  using Cap = LogitCap;
  static constexpr Index vocab_size = VocabSize;
  static constexpr Index embedding_dim = Blocks::input_dim;
  static constexpr bool tied = TieEmbeddings;
  /// N in the initialisation of projections back into the residual stream: a published block has two branches.
  static constexpr Index num_blocks = std::max<Index>(ceil_div(residual_branches<Blocks>, Index{2}), 1);
  static constexpr Index state_size = Blocks::state_size;
  static_assert(VocabSize > 0, "xlstm: a language model needs a vocabulary; set vocab_size");
  static_assert(Blocks::input_dim == Blocks::output_dim && OutNorm::input_dim == Blocks::output_dim,
                "xlstm: blocks and output norm of a language model must all have embedding_dim features");

  template <class B>
  using EmbeddingWeight = typename B::template PreciseWeight<VocabSize, embedding_dim>;

  template <class B>
  struct Parameters {
    EmbeddingWeight<B> embedding;
    typename Blocks::template Parameters<B> blocks;
    typename OutNorm::template Parameters<B> out_norm;
    HeadWeight<B, tied ? 0 : VocabSize, embedding_dim> head;
  };
  template <class B>
  struct Saved {
    std::span<const Token> tokens;
    typename Blocks::template Saved<B> blocks;
    typename OutNorm::template Saved<B> out_norm;
  };

  template <class P, class V>
  static constexpr void for_each_parameter(P& p, V&& visit) {
    visit.child("backbone")("embeddings.weight", p.embedding, Initialization::small());
    Blocks::for_each_parameter(p.blocks, visit.child("backbone").child("blocks"));
    OutNorm::for_each_parameter(p.out_norm, visit.child("backbone").child("out_norm"));
    if constexpr (!tied) visit("lm_head.weight", p.head, Initialization::small());
  }
  /// Parts of the state: f(name, offset, rows, cols), names such as "0.mlstm_layer.C".
  template <class V>
  static void for_each_state(const V& visit, const std::string& prefix = {}, Index base = 0) {
    xlstm::for_each_state<Blocks>(visit, prefix, base);
  }
  template <class S>
  static double state_unit(const S* state, Index i) {
    return xlstm::state_unit<Blocks>(state, i);
  }

  /// `logit_rows`: for how many of the tokens logits are computed.
  template <class B>
  static constexpr double flops(const Workload& work, Index logit_rows) {
    return xlstm::flops<Blocks, B>(work) + xlstm::flops<OutNorm, B>(work) +
           logit_flops(logit_rows, VocabSize, embedding_dim);
  }

  /// The rows that the head is applied to, after the output norm. tokens: (run.rows()), each in [0, vocab_size).
  template <class B>
  static void hidden(B& backend, const Parameters<B>& p, const Run& run, States<B> state, std::span<const Token> tokens,
                     Output<B, embedding_dim> y, Saved<B>& saved) {
    using T = typename B::Arithmetic;
    saved.tokens = tokens;
    const auto embedded = backend.arena().template matrix<T, embedding_dim>(run.rows());
    const auto out = backend.arena().template matrix<T, embedding_dim>(run.rows());
    backend.embed(tokens, p.embedding, embedded);
    Blocks::template forward<B>(backend, p.blocks, run, state, embedded, out, saved.blocks);
    OutNorm::template forward<B>(backend, p.out_norm, run, state, out, y, saved.out_norm);
  }

  template <class B>
  static void hidden_backward(B& backend, const Parameters<B>& p, Gradients<B, CausalLM>& g, const Run& run,
                              States<B> dstate, const Saved<B>& saved, Input<B, embedding_dim> dy) {
    using T = typename B::Arithmetic;
    ArenaScope scope(backend.arena());
    const auto dout = backend.arena().template matrix<T, embedding_dim>(run.rows());
    const auto dembedded = backend.arena().template matrix<T, embedding_dim>(run.rows());
    OutNorm::template backward<B>(backend, p.out_norm, g.out_norm, run, dstate, saved.out_norm, dy, dout);
    Blocks::template backward<B>(backend, p.blocks, g.blocks, run, dstate, saved.blocks, dout, dembedded);
    const Input<B, embedding_dim> rows = dembedded;  // nvcc does not convert an argument beside deduced ones
    backend.embed_backward(saved.tokens, rows, g.embedding);
  }

  /// The matrix that turns hidden rows into logits: (vocab_size, D).
  template <class P>
  static auto& head(P& p) {
    if constexpr (tied) {
      return p.embedding;
    } else {
      return p.head;
    }
  }

  /// Logits before the soft cap. hidden: (rows, D), y: (rows, vocab_size).
  template <class B>
  static void raw_logits(B& backend, const Parameters<B>& p, Input<B, embedding_dim> hidden,
                         MatrixView<Precise<B>, VocabSize> y) {
    backend.linear(hidden, linear_term(head(p), Vector<B, 0>{}, y));
  }
  /// Logits: cap(W_head hidden).
  template <class B>
  static void logits(B& backend, const Parameters<B>& p, Input<B, embedding_dim> hidden,
                     MatrixView<Precise<B>, VocabSize> y) {
    raw_logits(backend, p, hidden, y);
    if constexpr (Cap::active) backend.template soft_cap<Cap>(y);
  }
};

}  // namespace xlstm
