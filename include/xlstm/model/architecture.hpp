// SPDX-License-Identifier: Apache-2.0
// The published architecture, composed from a configuration (xLSTM 7B, Fig. 3):
//     block:  x += mLSTM(RMSNorm(x));   x += SwiGLU(RMSNorm(x))
// and the sentences with which a configuration that can't work is refused.
#pragma once

#include <type_traits>

#include "xlstm/model/causal_lm.hpp"
#include "xlstm/model/config.hpp"
#include "xlstm/nn/identity.hpp"
#include "xlstm/nn/mlstm_layer.hpp"
#include "xlstm/nn/named.hpp"
#include "xlstm/nn/repeat.hpp"
#include "xlstm/nn/residual.hpp"
#include "xlstm/nn/rms_norm.hpp"
#include "xlstm/nn/sequential.hpp"
#include "xlstm/nn/swiglu.hpp"

namespace xlstm {

/// Instantiated for every configuration that is used; each failing line says what to change.
template <ModelConfig c>
struct CheckedConfig {
  static_assert(c.vocab_size > 0, "xlstm: vocab_size must be at least 1; set .vocab_size");
  static_assert(c.embedding_dim > 0, "xlstm: embedding_dim must be at least 1; set .embedding_dim");
  static_assert(c.num_blocks > 0, "xlstm: num_blocks must be at least 1; set .num_blocks");
  static_assert(c.num_heads > 0, "xlstm: num_heads must be at least 1; set .num_heads");
  static_assert(c.qk_dim_factor > 0, "xlstm: qk_dim_factor must be positive");
  static_assert(c.v_dim_factor > 0, "xlstm: v_dim_factor must be positive");
  static_assert(c.num_heads <= 0 || c.qk_dim() % c.num_heads == 0,
                "xlstm: int(qk_dim_factor * embedding_dim) must be a multiple of num_heads; change one of the three");
  static_assert(c.num_heads <= 0 || c.v_dim() % c.num_heads == 0,
                "xlstm: int(v_dim_factor * embedding_dim) must be a multiple of num_heads; change one of the three");
  static_assert(c.num_heads <= 0 || c.qk_dim() >= c.num_heads,
                "xlstm: each head needs at least one query/key dimension; raise qk_dim_factor or lower num_heads");
  static_assert(c.num_heads <= 0 || c.v_dim() >= c.num_heads,
                "xlstm: each head needs at least one value dimension; raise v_dim_factor or lower num_heads");
  static_assert(c.ffn_round_up_to_multiple_of > 0, "xlstm: ffn_round_up_to_multiple_of must be at least 1");
  static_assert(c.ffn_proj_factor > 0, "xlstm: ffn_proj_factor must be positive");
  static_assert(c.ffn_round_up_to_multiple_of <= 0 || c.ffn_dim() > 0,
                "xlstm: the feed-forward width is zero; raise ffn_proj_factor or lower ffn_round_up_to_multiple_of");
  static_assert(c.norm_eps > 0, "xlstm: norm_eps must be positive");
  static_assert(c.eps >= 0, "xlstm: eps must not be negative");
  static_assert(c.gate_soft_cap >= 0, "xlstm: gate_soft_cap must be positive, or 0 for none");
  static_assert(c.output_logit_soft_cap >= 0, "xlstm: output_logit_soft_cap must be positive, or 0 for none");
  static_assert(c.chunk_size > 0, "xlstm: chunk_size must be at least 1");
  static constexpr ModelConfig value = c;
};

namespace detail {
template <double Cap>
struct SoftCapOrNone {
  using Type = SoftCap<Cap>;
};
template <>
struct SoftCapOrNone<0.0> {
  using Type = NoSoftCap;
};
}  // namespace detail

/// The cell's and layer's policies that a configuration names.
template <ModelConfig c>
struct ConfiguredPolicy : MLSTMLayerPolicy {
  using InputGate =
      std::conditional_t<c.input_gate == xlstm::InputGate::exponential, ExponentialInputGate, SigmoidInputGate>;
  using GateCap = typename detail::SoftCapOrNone<c.gate_soft_cap>::Type;
  using Normalizer = std::conditional_t<c.normalizer == xlstm::Normalizer::max_abs, MaxAbsNormalizer, NoNormalizer>;
  static constexpr double eps = c.eps;
  static constexpr Index chunk_size = c.chunk_size;
  static constexpr bool use_bias = c.use_bias;
  static constexpr double norm_eps = c.norm_eps;
};

/// One block of a configuration, with the parameter names of the published checkpoints.
template <ModelConfig c>
using ConfiguredBlock = Sequential<
    Residual<Named<"norm_mlstm", RMSNorm<c.embedding_dim, c.use_bias, c.norm_eps>>,
             Named<"mlstm_layer", MLSTMLayer<c.embedding_dim, Heads<c.num_heads, c.qk_head_dim(), c.v_head_dim()>,
                                             ConfiguredPolicy<value_of(c)>>>>,
    Residual<Named<"norm_ffn", RMSNorm<c.embedding_dim, c.use_bias, c.norm_eps>>,
             Named<"ffn", SwiGLU<c.embedding_dim, c.ffn_dim(), c.use_bias>>>>;

namespace detail {
template <ModelConfig c, Recompute Policy>
struct ConfiguredNetwork {
  static constexpr ModelConfig config = CheckedConfig<c>::value;
  using Type = CausalLM<
      c.vocab_size, Repeat<c.num_blocks, ConfiguredBlock<c>, Policy>,
      std::conditional_t<c.add_out_norm, RMSNorm<c.embedding_dim, false, c.norm_eps>, Identity<c.embedding_dim>>,
      typename SoftCapOrNone<c.output_logit_soft_cap>::Type, c.tie_word_embeddings>;
};
}  // namespace detail

/// The whole network of a configuration.
template <ModelConfig c, Recompute Policy = Recompute::none>
struct Network : detail::ConfiguredNetwork<CheckedConfig<c>::value, Policy>::Type {
  static constexpr ModelConfig config = c;
};

}  // namespace xlstm
