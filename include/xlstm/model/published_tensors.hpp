// SPDX-License-Identifier: Apache-2.0
// The published architecture of a configuration that only run time knows: its tensors with names and shapes, its sizes
// and FLOPs. What the compiler knows of Network<config> (architecture.hpp, counts.hpp), for programs that handle any
// checkpoint without computing with it; tests/model/published_tensors.cpp holds the two together.
#pragma once

#include <string>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/model/causal_lm.hpp"
#include "xlstm/model/config.hpp"
#include "xlstm/nn/mlstm_layer.hpp"
#include "xlstm/nn/parameter.hpp"
#include "xlstm/nn/residual.hpp"
#include "xlstm/nn/rms_norm.hpp"
#include "xlstm/nn/swiglu.hpp"

namespace xlstm {

/// One parameter of the published architecture.
struct PublishedTensor {
  std::string name;          ///< as in the published checkpoints
  std::vector<Index> shape;  ///< (out, in), or (n)
  Initialization initialization;

  Index count() const {
    Index product = 1;
    for (const Index size : shape) product *= size;
    return product;
  }
};

namespace detail {

class PublishedTensors {
 public:
  explicit PublishedTensors(const ModelConfig& config) : c(config) {}

  std::vector<PublishedTensor> list() {
    constexpr Index most_blocks = 1'000'000;
    if (c.num_blocks > most_blocks) fail("num_blocks is ", c.num_blocks, ", expected at most ", most_blocks);
    matrix("backbone.embeddings", c.vocab_size, c.embedding_dim, Initialization::small());
    for (Index i = 0; i < c.num_blocks; ++i) block("backbone.blocks." + std::to_string(i) + '.');
    if (c.add_out_norm) norm("backbone.out_norm", c.embedding_dim, false);
    if (!c.tie_word_embeddings) matrix("lm_head", c.vocab_size, c.embedding_dim, Initialization::small());
    return std::move(tensors_);
  }

 private:
  void block(const std::string& prefix) {
    const auto zero = Initialization::constant(0), small = Initialization::small(), wang = Initialization::wang();
    const Index d = c.embedding_dim, qk = c.qk_dim(), v = c.v_dim(), f = c.ffn_dim();
    norm(prefix + "norm_mlstm", d, c.use_bias);
    const std::string layer = prefix + "mlstm_layer.";
    linear(layer + "q", qk, d, small);
    linear(layer + "k", qk, d, small);
    linear(layer + "v", v, d, small);
    linear(layer + "ogate_preact", v, d, zero);
    matrix(layer + "igate_preact", c.num_heads, d, zero);
    vector(layer + "igate_preact.bias", c.num_heads, Initialization::constant(-10));
    matrix(layer + "fgate_preact", c.num_heads, d, zero);
    vector(layer + "fgate_preact.bias", c.num_heads, Initialization::linspace(3, 6));
    norm(layer + "multihead_norm", v, c.use_bias);
    linear(layer + "out_proj", d, v, wang);
    norm(prefix + "norm_ffn", d, c.use_bias);
    linear(prefix + "ffn.proj_up_gate", f, d, small);
    linear(prefix + "ffn.proj_up", f, d, small);
    linear(prefix + "ffn.proj_down", d, f, wang);
  }
  void vector(std::string name, Index size, Initialization start) {
    tensors_.push_back({std::move(name), {size}, start});
  }
  void matrix(const std::string& module, Index out, Index in, Initialization start) {
    tensors_.push_back({module + ".weight", {out, in}, start});
  }
  void linear(const std::string& module, Index out, Index in, Initialization start) {
    matrix(module, out, in, start);
    if (c.use_bias) vector(module + ".bias", out, Initialization::constant(0));
  }
  void norm(const std::string& module, Index size, bool bias) {
    vector(module + ".weight", size, Initialization::constant(1));
    if (bias) vector(module + ".bias", size, Initialization::constant(0));
  }

  const ModelConfig& c;
  std::vector<PublishedTensor> tensors_;
};

constexpr double published_flops(const ModelConfig& c, const Workload& work, Index logit_rows) {
  const Index d = c.embedding_dim;
  const MLSTMLayerSizes layer{d, c.num_heads, c.qk_head_dim(), c.v_head_dim(), c.chunk_size};
  const double block = 2 * (rms_norm_flops(work, d) + residual_flops(work, d)) + mlstm_layer_flops(work, layer) +
                       swiglu_flops(work, d, c.ffn_dim());
  return static_cast<double>(c.num_blocks) * block + (c.add_out_norm ? rms_norm_flops(work, d) : 0) +
         logit_flops(logit_rows, c.vocab_size, d);
}

}  // namespace detail

/// All parameters of a configuration in the order of for_each_parameter<Network<config>>, which is also that in which
/// checkpoints are written. Error for more than a million blocks.
inline std::vector<PublishedTensor> published_tensors(const ModelConfig& config) {
  return detail::PublishedTensors(config).list();
}

/// Network<config>::state_size: values of one sequence's recurrent state, C, n and m of every head of every block.
constexpr Index published_state_size(const ModelConfig& c) {
  return c.num_blocks * c.num_heads * (c.qk_head_dim() * c.v_head_dim() + c.qk_head_dim() + 1);
}

/// FLOPs of reading a prompt of `length` tokens chunkwise and making the logits of its last token (counts.hpp).
constexpr double published_prefill_flops(const ModelConfig& config, Index length, Index chunk_size) {
  return detail::published_flops(config, Workload{length, chunk_size, false}, 1);
}

/// FLOPs of one decode step: one token in, its logits out (counts.hpp).
constexpr double published_decode_flops(const ModelConfig& config) {
  return detail::published_flops(config, Workload{1, 1, true}, 1);
}

}  // namespace xlstm
