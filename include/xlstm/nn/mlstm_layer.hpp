// SPDX-License-Identifier: Apache-2.0
// The mLSTM layer of xLSTM 7B (arXiv 2503.13427, §3.1, "post-up"):
//     q, k, v, õ = W_q x, W_k x, W_v x, W_o x        ĩ, f̃ = W_i x + b_i, W_f x + b_f
//     y = W_out( σ(õ) ⊙ multihead_norm(mLSTM(q, k, v, ĩ, f̃)) )
// The soft caps on ĩ and f̃ are part of the cell's policy.
#pragma once

#include <cmath>

#include "xlstm/cell/mlstm.hpp"
#include "xlstm/nn/linear.hpp"
#include "xlstm/nn/module.hpp"
#include "xlstm/nn/multihead_norm.hpp"

namespace xlstm {

/// Heads of a layer: their number, and the dimensions of one of them.
template <Index Count, Index QkDim, Index VDim>
struct Heads {
  static constexpr Index count = Count;
  static constexpr Index qk_dim = QkDim;
  static constexpr Index v_dim = VDim;
};

/// The sizes on which an mLSTM layer's FLOPs depend: those of Heads, and the chunk size where a workload names none.
struct MLSTMLayerSizes {
  Index width = 0;  ///< D
  Index heads = 0;
  Index qk_dim = 0;
  Index v_dim = 0;
  Index chunk_size = 64;
};

/// FLOPs of the cell alone. Token by token: decay and update of C and n (4 and 4 FLOPs an entry less those shared),
/// products with q. Chunkwise with chunks of L: per chunk the products q·k and P·v on and below the diagonal, the two
/// products with the state, and its decay.
constexpr double mlstm_cell_flops(const Workload& work, const MLSTMLayerSizes& sizes) {
  const double h = static_cast<double>(sizes.heads), q = static_cast<double>(sizes.qk_dim),
               v = static_cast<double>(sizes.v_dim);
  if (work.recurrent) return static_cast<double>(work.length) * h * (5 * q * (v + 1) + 2 * v + q + 20);
  const Index chunk = work.chunk_size > 0 ? work.chunk_size : sizes.chunk_size;
  const auto chunk_flops = [&](Index length) {
    const double l = static_cast<double>(length);
    return h * (l * (l + 1) / 2 * (2 * q + 2 * v + 6) + l * (4 * q * (v + 1) + 2 * v + q) + q * (v + 1));
  };
  const Index last = work.length % chunk;
  return static_cast<double>(work.length / chunk) * chunk_flops(chunk) + (last > 0 ? chunk_flops(last) : 0);
}

/// FLOPs of the layer: projections, the cell in the form that `work` names, norm and output gate.
constexpr double mlstm_layer_flops(const Workload& work, const MLSTMLayerSizes& sizes) {
  const double s = static_cast<double>(work.length), h = static_cast<double>(sizes.heads),
               v = static_cast<double>(sizes.heads * sizes.v_dim);
  const double outputs = static_cast<double>(2 * sizes.heads * (sizes.qk_dim + 1)) + 3 * v;
  const double matrices = 2.0 * static_cast<double>(sizes.width) * outputs;
  return s * (matrices + 5.0 * v + 30.0 * h) + mlstm_cell_flops(work, sizes) +
         multihead_norm_flops(work, sizes.heads * sizes.v_dim);
}

/// What a layer does beyond its cell.
struct MLSTMLayerPolicy : MLSTMPolicy {
  static constexpr bool use_bias = false;   ///< on q, k, v, ogate, the norm and out_proj; the gates always have one
  static constexpr double norm_eps = 1e-6;  ///< of the multi-head norm
};

template <Index D, class HeadsType, class Policy = MLSTMLayerPolicy>
struct MLSTMLayer {
  static_assert(
      requires {
        Policy::use_bias;
        Policy::norm_eps;
      },
      "xlstm: a layer's policy lacks something that MLSTMLayerPolicy has; derive it from xlstm::MLSTMLayerPolicy");
  using Cell = MLSTMCell<HeadsType::count, HeadsType::qk_dim, HeadsType::v_dim, Policy>;
  static constexpr bool use_bias = Policy::use_bias;
  using Norm = MultiHeadNorm<Cell::heads, Cell::v_dim, use_bias, Policy::norm_eps>;

  static constexpr Index input_dim = D;
  static constexpr Index output_dim = D;
  static constexpr Index state_size = Cell::state_size;
  static constexpr Index qk_width = Cell::qk_width;
  static constexpr Index v_width = Cell::v_width;
  static constexpr Index heads = Cell::heads;

  template <class B>
  using GateWeight = typename B::template PreciseWeight<heads, D>;

  template <class B>
  struct Parameters {
    Weight<B, qk_width, D> q, k;
    Weight<B, v_width, D> v, ogate;
    GateWeight<B> igate, fgate;
    Vector<B, heads> igate_bias, fgate_bias;
    OptionalVector<B, use_bias, qk_width> q_bias, k_bias;
    OptionalVector<B, use_bias, v_width> v_bias, ogate_bias;
    typename Norm::template Parameters<B> norm;
    Weight<B, D, v_width> out_proj;
    OptionalVector<B, use_bias, D> out_proj_bias;
  };
  template <class B>
  struct Saved {
    Input<B, D> x;
    MLSTMInput<typename B::Arithmetic, Cell, Precise<B>> cell_input;
    Output<B, v_width> ogate, h, gated;
    typename B::template MLSTMSaved<Cell> cell;
    typename Norm::template Saved<B> norm;
  };

  template <class P, class V>
  static constexpr void for_each_parameter(P& p, V&& visit) {
    visit("q.weight", p.q, Initialization::small());
    visit("q.bias", p.q_bias, Initialization::constant(0));
    visit("k.weight", p.k, Initialization::small());
    visit("k.bias", p.k_bias, Initialization::constant(0));
    visit("v.weight", p.v, Initialization::small());
    visit("v.bias", p.v_bias, Initialization::constant(0));
    visit("ogate_preact.weight", p.ogate, Initialization::constant(0));
    visit("ogate_preact.bias", p.ogate_bias, Initialization::constant(0));
    visit("igate_preact.weight", p.igate, Initialization::constant(0));
    visit("igate_preact.bias", p.igate_bias, Initialization::constant(-10));
    visit("fgate_preact.weight", p.fgate, Initialization::constant(0));
    visit("fgate_preact.bias", p.fgate_bias, Initialization::linspace(3, 6));
    Norm::for_each_parameter(p.norm, visit.child("multihead_norm"));
    visit("out_proj.weight", p.out_proj, Initialization::wang());
    visit("out_proj.bias", p.out_proj_bias, Initialization::constant(0));
  }
  template <class V>
  static void for_each_state(const V& visit, const std::string& prefix, Index base) {
    visit(prefix + "C", base, heads * Cell::qk_dim, Cell::v_dim);
    visit(prefix + "n", base + Cell::n_offset, heads, Cell::qk_dim);
    visit(prefix + "m", base + Cell::m_offset, heads, Index{1});
  }
  /// C and n are multiples of exp(m) of their head; m has no gradient.
  template <class S>
  static double state_unit(const S* state, Index i) {
    if (i >= Cell::m_offset) return 0;
    const Index head = i < Cell::n_offset ? i / (Cell::qk_dim * Cell::v_dim) : (i - Cell::n_offset) / Cell::qk_dim;
    return std::exp(static_cast<double>(state[Cell::m_offset + head]));
  }

  static constexpr double flops(const Workload& work) {
    return mlstm_layer_flops(work, {D, heads, Cell::qk_dim, Cell::v_dim, Cell::chunk_size});
  }

  template <class B>
  static void forward(B& backend, const Parameters<B>& p, const Run& run, States<B> state, Input<B, D> x,
                      Output<B, D> y, Saved<B>& saved) {
    forward_after<B>(backend, p, run, state, x, y, saved, [&](auto... terms) { backend.linear(x, terms...); });
  }
  /// See Residual.
  template <class B, class Products>
  static void forward_after(B& backend, const Parameters<B>& p, const Run& run, States<B> state, Input<B, D> x,
                            Output<B, D> y, Saved<B>& saved, const Products& products_of_x) {
    saved.x = x;
    allocate(backend, x.rows(), saved.cell_input);
    saved.ogate = matrix<v_width>(backend, x.rows());
    saved.h = matrix<v_width>(backend, x.rows());
    saved.gated = matrix<v_width>(backend, x.rows());
    const auto& in = saved.cell_input;

    products_of_x(linear_term(p.q, p.q_bias, in.q), linear_term(p.k, p.k_bias, in.k), linear_term(p.v, p.v_bias, in.v),
                  linear_term(p.ogate, p.ogate_bias, saved.ogate), linear_term(p.igate, p.igate_bias, in.igate),
                  linear_term(p.fgate, p.fgate_bias, in.fgate));
    backend.template mlstm<Cell>(run, constant(in), state, saved.h, saved.cell);
    Norm::template forward_gated<B>(backend, p.norm, saved.ogate, saved.h, saved.gated, saved.norm);
    backend.linear(Input<B, v_width>(saved.gated), linear_term(p.out_proj, p.out_proj_bias, y));
  }

  template <class B>
  static void backward(B& backend, const Parameters<B>& p, Gradients<B, MLSTMLayer>& g, const Run& run,
                       States<B> dstate, const Saved<B>& saved, Input<B, D> dy, Output<B, D> dx) {
    ArenaScope scope(backend.arena());
    const auto dgated = matrix<v_width>(backend, dy.rows());
    const auto dogate = matrix<v_width>(backend, dy.rows());
    const auto dh = matrix<v_width>(backend, dy.rows());
    MLSTMInput<typename B::Arithmetic, Cell, Precise<B>> din;
    allocate(backend, dy.rows(), din);

    linear_backward(backend, Input<B, v_width>(saved.gated), dgated,
                    linear_backward_term(dy, p.out_proj, g.out_proj, g.out_proj_bias));
    Norm::template backward_gated<B>(backend, p.norm, g.norm, saved.norm, saved.ogate, dgated, dogate, dh);
    backend.template mlstm_backward<Cell>(run, constant(saved.cell_input), saved.h, saved.cell, dh, din, dstate);

    linear_backward(backend, saved.x, dx, linear_backward_term(din.q, p.q, g.q, g.q_bias),
                    linear_backward_term(din.k, p.k, g.k, g.k_bias), linear_backward_term(din.v, p.v, g.v, g.v_bias),
                    linear_backward_term(dogate, p.ogate, g.ogate, g.ogate_bias),
                    linear_backward_term(din.igate, p.igate, g.igate, g.igate_bias),
                    linear_backward_term(din.fgate, p.fgate, g.fgate, g.fgate_bias));
  }

 private:
  template <Index Width, class B>
  static Output<B, Width> matrix(B& backend, Index rows) {
    return backend.arena().template matrix<typename B::Arithmetic, Width>(rows);
  }
  template <class B>
  static void allocate(B& backend, Index rows, MLSTMInput<typename B::Arithmetic, Cell, Precise<B>>& in) {
    in.q = matrix<qk_width>(backend, rows);
    in.k = matrix<qk_width>(backend, rows);
    in.v = matrix<v_width>(backend, rows);
    in.igate = backend.arena().template matrix<Precise<B>, heads>(rows);
    in.fgate = backend.arena().template matrix<Precise<B>, heads>(rows);
  }
  template <class T, class Gate>
  static MLSTMInput<const T, Cell, const Gate> constant(const MLSTMInput<T, Cell, Gate>& in) {
    return {in.q, in.k, in.v, in.igate, in.fgate};
  }
};

}  // namespace xlstm
