// SPDX-License-Identifier: Apache-2.0
// What the kernels of include/xlstm/cuda must read, write and compute at the sizes of the 7B: every byte of an input
// read once and of a result written once. Operations count as in nn/: an addition or a multiplication is one, as is an
// exponential, which costs more. cuda_floors.cpp makes floors of them, cuda_kernels.cu measures beside them.
#pragma once

#include <string>
#include <vector>

#include "xlstm/cuda/mlstm_chunkwise_tuning.hpp"
#include "xlstm/model/presets.hpp"

namespace xlstm::bench {

struct Work {
  double bytes = 0;
  double fp32 = 0;
  double products = 0;
};
struct KernelWork {
  std::string kernel;
  Work work;
};

namespace work_of_7b {

inline constexpr ModelConfig model = presets::xlstm_7b;
inline constexpr double half = 2, single = 4;  // bytes of bf16 and fp32
inline constexpr double D = model.embedding_dim, F = model.ffn_dim(), H = model.num_heads;
inline constexpr double vocabulary = model.vocab_size;
inline constexpr double Q = model.qk_head_dim(), V = model.v_head_dim();
inline constexpr double width = H * V;
inline constexpr double state = H * (Q * V + Q + 1);

/// Of `rows` tokens: `read` and `written` matrices of `columns` in bf16, and operations for each element.
constexpr Work elements(double rows, double columns, double read, double written, double operations) {
  return {half * rows * columns * (read + written), operations * rows * columns};
}
constexpr Work plus(Work work, double bytes) {
  work.bytes += bytes;
  return work;
}

/// The norm and the gates' pre-activations, 2·H outputs in fp32, of weights that are read once.
constexpr Work norm_with_gates(double rows) {
  return {half * D * (2 * rows + 2 * H) + single * rows * (1 + 2 * H), rows * D * (4 + 2 * 2 * H)};
}

/// One token for each of some sequences: the whole state, in and out.
constexpr Work step(double sequences) {
  return {sequences * (2 * single * state + half * (2 * H * Q + 2 * width) + 2 * single * H),
          sequences * 5 * H * Q * V};
}

inline std::vector<KernelWork> of_texts(double sequences, double length) {
  const double rows = sequences * length;
  const double L = cuda::MLSTMChunkwiseTuning::chunk_size, chunks = sequences * length / L;
  const double states = half * chunks * H * Q * V;
  const double q = half * rows * H * Q, v = half * rows * width, gates = single * rows * H;
  const double with_state = 2 * rows * H * Q * V;  // products k vᵀ, or with C
  const double pairs = rows * H * (L + 1) / 2;     // of a token and one that it looks at, itself too
  const double inside = pairs * (2 * Q + 2 * V);   // q·k and P·v
  const double sums = 2 * gates;                   // a double for each token of a head
  return {
      {"embed", plus(elements(rows, D, 1, 1, 0), 4 * rows)},
      {"rms_norm", plus(elements(rows, D, 1, 1, 4), single * rows)},
      {"rms_norm_linear, with the gates", norm_with_gates(rows)},
      {"gated_multihead_norm", plus(elements(rows, width, 2, 1, 12), 2 * single * rows * H)},
      {"swiglu", elements(rows, F, 2, 1, 6)},
      {"add", elements(rows, D, 2, 1, 1)},
      {"mLSTM: gate scan", {5 * gates, 30 * rows * H}},
      {"mLSTM: chunk states", {q + v + states + gates, states, with_state}},
      {"mLSTM: chunk outputs", {2 * q + 2 * v + states + 3 * gates, 6 * pairs, with_state + inside}},
      {"mLSTM backward: token gradients", {2 * v + 8 * gates, 2 * rows * width}},
      {"mLSTM backward: states", {q + v + 2 * states + 2 * gates, 2 * states, with_state}},
      {"mLSTM backward: δq",
       {3 * q + 2 * v + states + 5 * gates + 2 * sums, 8 * pairs, with_state + inside + pairs * 2 * Q}},
      {"mLSTM backward: δk",
       {3 * q + 2 * v + states + 5 * gates + 3 * sums, 8 * pairs, with_state + inside + pairs * 2 * Q}},
      {"mLSTM backward: δv", {2 * q + 2 * v + states + 3 * gates, 4 * pairs, with_state + inside}},
      {"mLSTM backward: gates", {4 * gates + 5 * sums, 40 * rows * H}},
      {"copies of the first states", {2 * single * sequences * state, 0}},
      {"rms_norm_backward", elements(rows, D, 2, 1, 12)},
      {"gated_multihead_norm_backward", plus(elements(rows, width, 3, 2, 25), 2 * single * rows * H)},
      {"swiglu_backward", elements(rows, F, 3, 2, 12)},
      {"embed_backward, all tokens in use", {half * rows * D + 2 * single * vocabulary * D, rows * D}},
      {"column_sums", elements(rows, D, 1, 0, 1)},
      {"cross_entropy, fp32", {2 * single * rows * vocabulary, 12 * rows * vocabulary}},
  };
}

inline std::vector<KernelWork> of_tokens() {
  return {{"mLSTM step, 1 session", step(1)},
          {"mLSTM step, 8 sessions", step(8)},
          {"mLSTM step, 64 sessions", step(64)},
          {"swiglu, 64 sessions", elements(64, F, 2, 1, 6)},
          {"soft cap of the logits, 64 sessions", {64 * vocabulary * 2 * single, 64 * vocabulary * 4}},
          {"scores of the next token", {vocabulary * (3 * single + 1), vocabulary}},
          {"draw of the next token", {vocabulary * 2 * single, 12 * vocabulary}},
          {"rms_norm_linear, with the gates, 1 session", norm_with_gates(1)},
          {"rms_norm_linear, with the gates, 64 sessions", norm_with_gates(64)}};
}

/// y = x Wᵀ of `rows` tokens and a matrix (out, in) in `bits` a weight.
constexpr Work linear(double rows, double out, double in, double bits) {
  return {out * in * bits / 8 + half * rows * (in + out), 2 * rows * out * in};
}
/// All matrices that `quantize` quantises: of each block, and the head.
constexpr Work all_weights(double rows, double bits, double head_bits) {
  const double block = D * (2 * H * Q + 3 * width) + 3 * D * F;
  Work work = linear(rows, vocabulary, D, head_bits);
  work.bytes += model.num_blocks * block * bits / 8;
  work.fp32 += model.num_blocks * 2 * rows * block;
  return work;
}
inline std::vector<KernelWork> of_quantized_weights() {
  return {{"up-projection, int8, 1 session", linear(1, F, D, 8.125)},
          {"up-projection, int4, 1 session", linear(1, F, D, 4.5)},
          {"up-projection, int8, 16 sessions", linear(16, F, D, 8.125)},
          {"up-projection, int4, 16 sessions", linear(16, F, D, 4.5)},
          {"all, int8, 1 session", all_weights(1, 8.125, 8.125)},
          {"all, int4 (head int8), 1 session", all_weights(1, 4.5, 8.125)},
          {"all, bf16, 1 session", all_weights(1, 16, 16)},
          {"dequantise the up-projection, int8 to bf16", {F * D * (8.125 / 8 + half), F * D}},
          {"dequantise the up-projection, int4 to bf16", {F * D * (4.5 / 8 + half), F * D}}};
}

inline std::vector<KernelWork> of_parameters(double count) {
  return {{"squared_norm", {single * count, 2 * count}},
          {"adamw", {8 * single * count, 14 * count}},
          {"copy to bf16", {(single + half) * count, 0}}};
}

}  // namespace work_of_7b

}  // namespace xlstm::bench
