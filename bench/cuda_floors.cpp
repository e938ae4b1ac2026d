// SPDX-License-Identifier: Apache-2.0
// What the kernels of include/xlstm/cuda cannot be faster than, at the sizes of the 7B: every byte of an input read
// once and of a result written once at the memory's bandwidth, or the products at the peak of the tensor cores, or the
// other operations at that of fp32, whichever takes longest. The tables of docs/cuda.md:
//   g++ -std=c++20 -Iinclude bench/cuda_floors.cpp -o cuda_floors && ./cuda_floors
// Operations count as in nn/: an addition or a multiplication is one, as is an exponential, which costs more.
#include <algorithm>
#include <cstdio>

#include "xlstm/cuda/mlstm_chunkwise_tuning.hpp"
#include "xlstm/model/presets.hpp"

namespace {

/// The makers' figures: bytes a second, operations a second of dense bf16 products and of fp32.
struct Machine {
  const char* name;
  double bandwidth;
  double products = 989e12;
  double fp32 = 67e12;
};
constexpr Machine machines[] = {{"H100", 3.35e12}, {"H200", 4.8e12}};

struct Work {
  double bytes = 0;
  double fp32 = 0;
  double products = 0;
};

constexpr double microseconds(const Machine& machine, const Work& work) {
  return 1e6 * std::max({work.bytes / machine.bandwidth, work.products / machine.products, work.fp32 / machine.fp32});
}

/// Three digits, or all before the point.
void cell(double x) { std::printf(x >= 100 ? " %.0f |" : " %.3g |", x); }

void begin_table(const char* kernel) {
  std::printf("| %s | MB | Gop, fp32 | Gop, products |", kernel);
  for (const Machine& machine : machines) std::printf(" floor %s, µs |", machine.name);
  std::printf("\n|---|---:|---:|---:|---:|---:|\n");
}
void row(const char* kernel, const Work& work) {
  std::printf("| %s |", kernel);
  cell(work.bytes * 1e-6);
  cell(work.fp32 * 1e-9);
  cell(work.products * 1e-9);
  for (const Machine& machine : machines) cell(microseconds(machine, work));
  std::printf("\n");
}

constexpr auto model = xlstm::presets::xlstm_7b;
constexpr double half = 2, single = 4;  // bytes of bf16 and fp32
constexpr double D = model.embedding_dim, F = model.ffn_dim(), H = model.num_heads, vocabulary = model.vocab_size;
constexpr double Q = model.qk_head_dim(), V = model.v_head_dim();
constexpr double width = H * V;

/// Of `rows` tokens: `read` and `written` matrices of `columns` in bf16, and operations for each element.
constexpr Work elements(double rows, double columns, double read, double written, double operations) {
  return {half * rows * columns * (read + written), operations * rows * columns};
}

constexpr Work plus(Work work, double bytes) {
  work.bytes += bytes;
  return work;
}

/// One token for each of some sequences: the whole state, in and out.
constexpr Work step(double sequences) {
  const double state = H * (Q * V + Q + 1);
  return {sequences * (2 * single * state + half * (2 * H * Q + 2 * width) + 2 * single * H),
          sequences * 5 * H * Q * V};
}

void forward() {
  constexpr double sequences = 8, length = 8192, rows = sequences * length;
  constexpr double L = xlstm::cuda::MLSTMChunkwiseTuning::chunk_size, chunks = sequences * length / L;
  constexpr double states = half * chunks * H * Q * V;
  constexpr double q = half * rows * H * Q, v = half * rows * width, gates = single * rows * H;
  constexpr double with_state = 2 * rows * H * Q * V;                  // products k vᵀ, or with C
  constexpr double inside = rows * H * (L + 1) / 2 * (2 * Q + 2 * V);  // q·k and P·v, up to the token itself
  begin_table("kernel, 8 × 8192 tokens");
  row("embed", plus(elements(rows, D, 1, 1, 0), 4 * rows));
  row("rms_norm", plus(elements(rows, D, 1, 1, 4), single * rows));
  row("multihead_norm", plus(elements(rows, width, 1, 1, 7), 2 * single * rows * H));
  row("output_gate", elements(rows, width, 2, 1, 5));
  row("swiglu", elements(rows, F, 2, 1, 6));
  row("add", elements(rows, D, 2, 1, 1));
  row("mLSTM: gate scan", {5 * gates, 30 * rows * H});
  row("mLSTM: chunk states", {q + v + states + gates, states, with_state});
  row("mLSTM: chunk outputs", {2 * q + 2 * v + states + 3 * gates, 6 * rows * H * (L + 1) / 2, with_state + inside});
  row("rms_norm_backward", elements(rows, D, 2, 1, 12));
  row("multihead_norm_backward", elements(rows, width, 2, 1, 14));
  row("output_gate_backward", elements(rows, width, 3, 2, 9));
  row("swiglu_backward", elements(rows, F, 3, 2, 12));
  row("embed_backward, all tokens in use", {half * rows * D + 2 * single * vocabulary * D, rows * D});
  row("column_sums", elements(rows, D, 1, 0, 1));
  row("cross_entropy, fp32", {2 * single * rows * vocabulary, 12 * rows * vocabulary});
}

void token_by_token() {
  std::printf("\n");
  begin_table("kernel, one token of each session");
  row("mLSTM step, 1 session", step(1));
  row("mLSTM step, 8 sessions", step(8));
  row("mLSTM step, 64 sessions", step(64));
  row("swiglu, 64 sessions", elements(64, F, 2, 1, 6));
  row("rms_norm, 64 sessions", elements(64, D, 1, 1, 4));
}

void optimizer() {
  constexpr double parameters = 1e9;
  std::printf("\n");
  begin_table("kernel, 10⁹ parameters, fp32");
  row("squared_norm", {single * parameters, 2 * parameters});
  row("adamw", {7 * single * parameters, 14 * parameters});
  row("copy to bf16", {(single + half) * parameters, 0});
}

}  // namespace

int main() {
  forward();
  token_by_token();
  optimizer();
}
