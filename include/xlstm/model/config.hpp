// SPDX-License-Identifier: Apache-2.0
// A model's configuration is a value that the compiler knows: a structural struct, used as a template argument.
// Field names are those of the published config.json (xLSTM 7B, arXiv 2503.13427).
#pragma once

#include "xlstm/core/index.hpp"

namespace xlstm {

/// exponential: i = exp(ĩ), stabilised by m (xLSTM 7B, Eq. 5–7). sigmoid: i = σ(ĩ), no m (mLSTMsig; TFLA §3).
enum class InputGate { exponential, sigmoid };

/// max_abs: h = C ᵀq̂ / max(|nᵀq̂|, 1) in unstabilised units (xLSTM 7B, Eq. 9). none: h = Cᵀq̂ (TFLA §3).
enum class Normalizer { max_abs, none };

/// Sizes and options of a language model of the published "post-up" architecture.
/// The defaults are those of the published configuration; what has no sensible default is 0 and must be given.
struct ModelConfig {
  Index vocab_size = 0;     ///< number of tokens
  Index embedding_dim = 0;  ///< D
  Index num_blocks = 0;     ///< N
  Index num_heads = 0;      ///< H
  bool use_bias = false;    ///< a bias on every linear layer and norm of the blocks
  double norm_eps = 1e-6;   ///< ε of RMSNorm and of the multi-head norm
  double eps = 1e-6;        ///< ε in the cell's denominator
  bool add_out_norm = true;
  double qk_dim_factor = 0.5;  ///< H·Q = int(qk_dim_factor·D)
  double v_dim_factor = 1.0;   ///< H·V = int(v_dim_factor·D)
  double ffn_proj_factor = 2.667;
  Index ffn_round_up_to_multiple_of = 64;
  double gate_soft_cap = 15.0;          ///< a of a·tanh(x/a) on both gates; 0: none
  double output_logit_soft_cap = 30.0;  ///< likewise on the logits; 0: none
  bool tie_word_embeddings = false;     ///< lm_head is the embedding matrix
  Index chunk_size = 64;                ///< a hint: changes speed, never results
  InputGate input_gate = InputGate::exponential;
  Normalizer normalizer = Normalizer::max_abs;

  friend constexpr bool operator==(const ModelConfig&, const ModelConfig&) = default;

  /// H·Q: width of the query and of the key projection.
  constexpr Index qk_dim() const { return static_cast<Index>(qk_dim_factor * static_cast<double>(embedding_dim)); }
  /// H·V: width of the value and of the output-gate projection.
  constexpr Index v_dim() const { return static_cast<Index>(v_dim_factor * static_cast<double>(embedding_dim)); }
  constexpr Index qk_head_dim() const { return num_heads > 0 ? qk_dim() / num_heads : 0; }  ///< Q
  constexpr Index v_head_dim() const { return num_heads > 0 ? v_dim() / num_heads : 0; }    ///< V
  /// F = ⌊(ffn_proj_factor·D + r − 1) / r⌋·r; the product stays real, so 128.5 with r = 64 gives 128.
  constexpr Index ffn_dim() const {
    const Index r = ffn_round_up_to_multiple_of;
    if (r <= 0) return 0;
    const double up = ffn_proj_factor * static_cast<double>(embedding_dim) + static_cast<double>(r - 1);
    return static_cast<Index>(up / static_cast<double>(r)) * r;
  }
};

/// c, as an expression: `Network<value_of(c)>` where c is a template's parameter. For a bare parameter nvcc 13.0 may
/// hand the host's compiler a name that it declares nowhere (__T0); of an expression it writes the value.
constexpr ModelConfig value_of(const ModelConfig& c) { return c; }

}  // namespace xlstm
