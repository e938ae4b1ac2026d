// SPDX-License-Identifier: Apache-2.0
// A network that nobody has published, composed from the library's parts and one of one's own: blocks with an mLSTM of
// other soft caps alternate with blocks whose mixer is a moving average, written here.
#pragma once

#include <string>

#include "xlstm/cell/gates.hpp"
#include "xlstm/model/causal_lm.hpp"
#include "xlstm/nn/mlstm_layer.hpp"
#include "xlstm/nn/repeat.hpp"
#include "xlstm/nn/residual.hpp"
#include "xlstm/nn/rms_norm.hpp"
#include "xlstm/nn/sequential.hpp"
#include "xlstm/nn/swiglu.hpp"

namespace custom {

using xlstm::Index;

/// y_t = scale ⊙ s_t,  s_t = λ ⊙ s_{t−1} + (1 − λ) ⊙ x_t,  λ = σ(decay): a moving average of each feature, with a
/// recurrent state of D values. What a module must have is said in xlstm/nn/module.hpp.
template <Index D>
struct MovingAverage {
  static constexpr Index input_dim = D;
  static constexpr Index output_dim = D;
  static constexpr Index state_size = D;

  template <class B>
  struct Parameters {
    xlstm::Vector<B, D> decay;
    xlstm::Vector<B, D> scale;
  };
  template <class B>
  struct Saved {
    xlstm::Input<B, D> x;
    xlstm::Output<B, D> s;      // after each token
    xlstm::Output<B, D> first;  // before the first token of each sequence
  };

  template <class P, class V>
  static constexpr void for_each_parameter(P& p, V&& visit) {
    visit("decay", p.decay, xlstm::Initialization::linspace(-2, 2));
    visit("scale", p.scale, xlstm::Initialization::constant(1));
  }
  template <class V>
  static void for_each_state(const V& visit, const std::string& prefix, Index base) {
    visit(prefix + "average", base, Index{1}, D);
  }
  static constexpr double flops(const xlstm::Workload& work) { return 4.0 * D * static_cast<double>(work.length); }

  template <class B>
  static void forward(B& backend, const Parameters<B>& p, const xlstm::Run& run, xlstm::States<B> state,
                      xlstm::Input<B, D> x, xlstm::Output<B, D> y, Saved<B>& saved) {
    using T = typename B::Arithmetic;
    saved = {x, backend.arena().template matrix<T, D>(x.rows()), backend.arena().template matrix<T, D>(run.sequences)};
    for (Index b = 0; b < run.sequences; ++b) {
      for (Index d = 0; d < D; ++d) {
        const T lambda = xlstm::sigmoid(p.decay[d]);
        T s = saved.first(b, d) = static_cast<T>(state[b][d]);
        for (Index t = 0; t < run.length; ++t) {
          const Index row = b * run.length + t;
          if (run.starts_document(b, t)) s = 0;
          s = lambda * s + (1 - lambda) * x(row, d);
          saved.s(row, d) = s;
          y(row, d) = p.scale[d] * s;
        }
        state[b][d] = s;
      }
    }
  }

  template <class B>
  static void backward(B&, const Parameters<B>& p, xlstm::Gradients<B, MovingAverage>& g, const xlstm::Run& run,
                       xlstm::States<B> dstate, const Saved<B>& saved, xlstm::Input<B, D> dy, xlstm::Output<B, D> dx) {
    using T = typename B::Arithmetic;
    for (Index b = 0; b < run.sequences; ++b) {
      for (Index d = 0; d < D; ++d) {
        const T lambda = xlstm::sigmoid(p.decay[d]);
        T ds = dstate ? static_cast<T>(dstate[b][d]) : T{0}, dlambda = 0, dscale = 0;
        for (Index t = run.length - 1; t >= 0; --t) {
          const Index row = b * run.length + t;
          const bool starts = run.starts_document(b, t);
          const T before = starts ? T{0} : t > 0 ? saved.s(row - 1, d) : saved.first(b, d);
          dscale += dy(row, d) * saved.s(row, d);
          ds += dy(row, d) * p.scale[d];
          dlambda += ds * (before - saved.x(row, d));
          dx(row, d) = (1 - lambda) * ds;
          ds = starts ? T{0} : lambda * ds;
        }
        g.decay.data()[d] += dlambda * lambda * (1 - lambda);
        g.scale.data()[d] += dscale;
        if (dstate) dstate[b][d] = ds;
      }
    }
  }
};

constexpr Index width = 64, heads = 4, pairs = 2, bytes = 256;

struct OtherCaps : xlstm::MLSTMLayerPolicy {
  using GateCap = xlstm::SoftCap<8.0>;
};
template <class Mixer>
using Block = xlstm::Sequential<xlstm::Residual<xlstm::RMSNorm<width>, Mixer>,
                                xlstm::Residual<xlstm::RMSNorm<width>, xlstm::SwiGLU<width, 3 * width>>>;
using MLSTM = xlstm::MLSTMLayer<width, xlstm::Heads<heads, 8, 16>, OtherCaps>;
using Blocks = xlstm::Repeat<pairs, xlstm::Sequential<xlstm::Named<"mlstm", Block<MLSTM>>,
                                                      xlstm::Named<"average", Block<MovingAverage<width>>>>>;
using Network = xlstm::CausalLM<bytes, Blocks, xlstm::RMSNorm<width>, xlstm::SoftCap<20.0>>;

}  // namespace custom
