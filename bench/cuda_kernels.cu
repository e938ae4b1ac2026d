// SPDX-License-Identifier: Apache-2.0
// Times of the device's kernels at the sizes of the 7B beside their floors: their bytes at the bandwidth of a copy, or
// their products at the rate of a large product, both measured first. One JSON object on standard output:
//     build/bench/cuda_kernels [--small]
// {"device": …, "copy GB/s": …, "bf16 TFLOP/s": …, "kernels": [{"kernel", "us", "floor us"}, …], "chunkwise": […]}
// --small: shapes so small that it shows only that all of it runs.
#include <cstring>

#include "cuda_timing.hpp"
#include "cuda_work.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/cuda/backend.hpp"

namespace {

using namespace xlstm;
namespace cuda = xlstm::cuda;  // not the toolkit's own cuda
using bench::DeviceValues;
namespace work_of_7b = bench::work_of_7b;

constexpr ModelConfig model = work_of_7b::model;
constexpr Index D = model.embedding_dim, F = model.ffn_dim(), H = model.num_heads, vocabulary = model.vocab_size;
using Cell = MLSTMCell<H, model.qk_head_dim(), model.v_head_dim()>;

class Report {
 public:
  explicit Report(const bench::Ceilings& ceilings) : ceilings_(ceilings) {}
  void begin(std::vector<bench::KernelWork> work) { work_ = std::move(work); }
  void add(const std::string& kernel, double seconds) {
    const auto found = std::find_if(work_.begin(), work_.end(), [&](const auto& w) { return w.kernel == kernel; });
    if (found == work_.end()) fail("cuda_kernels: there is no work for '", kernel, "'");
    const double floor = std::max(found->work.bytes / ceilings_.bandwidth, found->work.products / ceilings_.products);
    std::printf("%s\n  {\"kernel\": \"%s\", \"us\": %.5g, \"floor us\": %.5g}", first_ ? "" : ",", kernel.c_str(),
                1e6 * seconds, 1e6 * floor);
    std::fflush(stdout);
    first_ = false;
  }

 private:
  bench::Ceilings ceilings_;
  std::vector<bench::KernelWork> work_;
  bool first_ = true;
};

DeviceValues<Token> tokens(Index count, Index below) {
  Random random(1);
  std::vector<Token> host(static_cast<std::size_t>(count));
  for (Token& t : host) t = static_cast<Token>(random.below(static_cast<std::uint64_t>(below)));
  return DeviceValues<Token>(host);
}

/// Of the first `rows` rows of x, and as many of y.
void norm_with_gates(Report& report, const char* name, const DeviceValues<bf16>& x, const DeviceValues<bf16>& y,
                     Index rows) {
  const DeviceValues<bf16> igate(H * D), fgate(H * D);
  const DeviceValues<float> weight(D), bias(H), scale(rows), i(rows * H), f(rows * H);
  report.add(name, bench::seconds([&](auto& s) {
               cuda::rms_norm_linear<D, 2 * H, bf16, float, bf16, bf16>(
                   s, x.rows<D>().middle_rows(0, rows), weight.data(), nullptr, 1e-6, y.rows<D>().middle_rows(0, rows),
                   scale.data(), {{igate.data(), bias.data(), i.rows(H)}, {fgate.data(), bias.data(), f.rows(H)}});
             }));
}

void rows_forward(Report& report, Index rows) {
  const DeviceValues<float> weight(D), scale(rows * H), mean(rows * H);
  {
    const DeviceValues<bf16> x(rows * D), y(rows * D), z(rows * D), table(vocabulary * D);
    const auto ids = tokens(rows, vocabulary);
    report.add("embed",
               bench::seconds([&](auto& s) { cuda::embed<D, bf16, bf16>(s, ids.data(), table.data(), y.rows<D>()); }));
    report.add("rms_norm", bench::seconds([&](auto& s) {
                 cuda::rms_norm<D, bf16, float, bf16>(s, x.rows<D>(), weight.data(), nullptr, 1e-6, y.rows<D>(),
                                                      scale.data());
               }));
    norm_with_gates(report, "rms_norm_linear, with the gates", x, y, rows);
    report.add("gated_multihead_norm", bench::seconds([&](auto& s) {
                 cuda::gated_multihead_norm<H, D, bf16, float, bf16>(
                     s, z.rows<D>(), x.rows<D>(), weight.data(), nullptr, 1e-6, y.rows<D>(), mean.data(), scale.data());
               }));
    report.add("add", bench::seconds([&](auto& s) { cuda::add<bf16>(s, x.rows(D), y.rows(D)); }));
  }
  const DeviceValues<bf16> gate(rows * F), up(rows * F), y(rows * F);
  report.add("swiglu", bench::seconds([&](auto& s) { cuda::swiglu<bf16>(s, gate.rows(F), up.rows(F), y.rows(F)); }));
}

void rows_backward(Report& report, Index rows) {
  {
    const DeviceValues<float> weight(D), scale(rows * H), mean(rows * H), dweight(D),
        sums(cuda::norm_backward_bytes(D, false) / 4 + 1);
    const DeviceValues<bf16> x(rows * D), dy(rows * D), dx(rows * D), other(rows * D), gradient(rows * D);
    report.add("rms_norm_backward", bench::seconds([&](auto& s) {
                 cuda::rms_norm_backward<D, bf16, float>(s, x.rows<D>(), weight.data(), scale.data(), dy.rows<D>(),
                                                         dx.rows<D>(), dweight.data(), nullptr, sums.data());
               }));
    report.add("gated_multihead_norm_backward", bench::seconds([&](auto& s) {
                 cuda::gated_multihead_norm_backward<H, D, bf16, float>(
                     s, other.rows<D>(), x.rows<D>(), weight.data(), nullptr, mean.data(), scale.data(), dy.rows<D>(),
                     gradient.rows<D>(), dx.rows<D>(), dweight.data(), nullptr, sums.data());
               }));
    const DeviceValues<float> dtable(vocabulary * D), partial(cuda::column_sums_bytes(rows, D) / 4 + 1);
    const auto ids = tokens(rows, vocabulary);
    report.add("embed_backward, all tokens in use", bench::seconds([&](auto& s) {
                 cuda::embed_backward<D, bf16>(s, ids.data(), dy.rows<D>(), dtable.data());
               }));
    report.add("column_sums", bench::seconds([&](auto& s) {
                 cuda::column_sums<bf16>(s, dy.rows(D), dweight.data(), partial.data());
               }));
  }
  {
    const DeviceValues<bf16> gate(rows * F), up(rows * F), dy(rows * F), dgate(rows * F), dup(rows * F);
    report.add("swiglu_backward", bench::seconds([&](auto& s) {
                 cuda::swiglu_backward<bf16>(s, gate.rows(F), up.rows(F), dy.rows(F), dgate.rows(F), dup.rows(F));
               }));
  }
  const DeviceValues<float> logits(rows * vocabulary, 4);
  const auto targets = tokens(rows, vocabulary);
  const DeviceValues<LossSum> sum(1);
  const DeviceValues<double> losses(cuda::cross_entropy_bytes(rows) / 8 + 1);
  report.add("cross_entropy, fp32", bench::seconds([&](auto& s) {
               cuda::cross_entropy<SoftCap<30.0>, float>(s, logits.rows(vocabulary), targets.data(), 1e-4, 1e-6,
                                                         sum.data(), losses.data());
             }));
}

/// Inputs of the cell for some tokens.
struct CellInputs {
  explicit CellInputs(Index rows)
      : q(rows * Cell::qk_width),
        k(rows * Cell::qk_width),
        v(rows * Cell::v_width),
        h(rows * Cell::v_width),
        igate(rows * Cell::heads, 1, -1),
        fgate(rows * Cell::heads, 1, 4) {}
  DeviceValues<bf16> q, k, v, h;
  DeviceValues<float> igate, fgate;
};

/// Times of a work's launches, medians of five.
template <class Work>
std::vector<double> seconds_of_launches(Work&& work) {
  bench::TimedStream timed;
  std::vector<std::vector<double>> runs;
  for (int i = 0; i < 5; ++i) {
    work(timed);
    runs.push_back(timed.seconds());
  }
  std::vector<double> medians;
  for (std::size_t launch = 0; launch < runs[0].size(); ++launch) {
    std::vector<double> times;
    for (const auto& run : runs) times.push_back(run.at(launch));
    medians.push_back(bench::median(times));
  }
  return medians;
}

/// The three kernels' times, and the whole, in chunks of `chunk_size`.
template <class Tuning>
std::vector<double> chunkwise(const CellInputs& in, Index sequences, Index length, Index chunk_size, double& whole) {
  Run run{.sequences = sequences, .length = length, .chunk_size = chunk_size};
  const DeviceValues<float> memory(cuda::mlstm_chunkwise_bytes<Cell, bf16, Tuning>(run) / 4);
  const auto once = [&](auto& stream) {
    cuda::mlstm_chunkwise<Cell, bf16, float, bf16, Tuning>(
        stream, run, in.q.rows<Cell::qk_width>(), in.k.rows<Cell::qk_width>(), in.v.rows<Cell::v_width>(),
        in.igate.rows<Cell::heads>(), in.fgate.rows<Cell::heads>(), StateSlots<float>{}, in.h.rows<Cell::v_width>(),
        memory.data());
  };
  whole = bench::seconds(once);
  return seconds_of_launches(once);
}

struct Chunkwise {
  std::string work;
  std::string tuning;
  Index chunk_size;
  double seconds;
};

template <class Tuning>
void cell_training(Report& report, const char* name, const CellInputs& in, Index sequences, Index length,
                   std::vector<Chunkwise>& all) {
  const Index rows = sequences * length;
  const CellInputs gradient(rows);  // of q, k, v, the gates, and in place of h that of h
  const DeviceValues<float> inverse(rows * Cell::heads), sign(rows * Cell::heads);
  const cuda::MLSTMDenominators denominators{inverse.data(), sign.data()};
  for (const Index chunk_size : {64, 128, 256}) {
    const Run run{.sequences = sequences, .length = length, .chunk_size = chunk_size};
    const Index bytes = std::max(cuda::mlstm_chunkwise_bytes<Cell, bf16, Tuning>(run),
                                 cuda::mlstm_chunkwise_backward_bytes<Cell, bf16, Tuning>(run));
    const DeviceValues<float> memory(bytes / 4);
    const auto forward = [&](auto& s) {
      cuda::mlstm_chunkwise<Cell, bf16, float, bf16, Tuning>(
          s, run, in.q.rows<Cell::qk_width>(), in.k.rows<Cell::qk_width>(), in.v.rows<Cell::v_width>(),
          in.igate.rows<Cell::heads>(), in.fgate.rows<Cell::heads>(), StateSlots<float>{}, in.h.rows<Cell::v_width>(),
          memory.data(), denominators);
    };
    const auto backward = [&](auto& s) {
      cuda::mlstm_chunkwise_backward<Cell, bf16, float, Tuning>(
          s, run,
          {in.q.rows<Cell::qk_width>(), in.k.rows<Cell::qk_width>(), in.v.rows<Cell::v_width>(),
           in.igate.rows<Cell::heads>(), in.fgate.rows<Cell::heads>()},
          StateSlots<float>{}, in.h.rows<Cell::v_width>(), denominators, gradient.h.rows<Cell::v_width>(),
          {gradient.q.rows<Cell::qk_width>(), gradient.k.rows<Cell::qk_width>(), gradient.v.rows<Cell::v_width>(),
           gradient.igate.rows<Cell::heads>(), gradient.fgate.rows<Cell::heads>()},
          StateSlots<float>{}, memory.data());
    };
    const double time = bench::seconds([&](auto& s) {
      forward(s);
      backward(s);
    });
    all.push_back({"forward and backward", name, chunk_size, time});
    if (!std::is_same_v<Tuning, cuda::MLSTMChunkwiseTuning> || chunk_size != Tuning::chunk_size) continue;
    const auto parts = seconds_of_launches(backward);  // the first two are the forward's
    const char* const kernels[] = {"token gradients", "states", "δq", "δk", "δv", "gates"};
    for (std::size_t i = 0; i < std::size(kernels); ++i) {
      report.add(std::string("mLSTM backward: ") + kernels[i], parts.at(i + 2));
    }
  }
}

std::vector<Chunkwise> cell_forward(Report& report, Index sequences, Index length) {
  const CellInputs in(sequences * length);
  std::vector<Chunkwise> all;
  const auto measure = [&]<class Tuning>(const char* name) {
    for (const Index chunk_size : {64, 128, 256, 512}) {
      double whole = 0;
      const auto parts = chunkwise<Tuning>(in, sequences, length, chunk_size, whole);
      all.push_back({"forward", name, chunk_size, whole});
      if (std::is_same_v<Tuning, cuda::MLSTMChunkwiseTuning> && chunk_size == Tuning::chunk_size) {
        report.add("mLSTM: gate scan", parts[0]);
        report.add("mLSTM: chunk states", parts[1]);
        report.add("mLSTM: chunk outputs", parts[2]);
      }
    }
  };
  measure.template operator()<cuda::MLSTMChunkwiseTuning>("80");
  measure.template operator()<cuda::MLSTMChunkwiseTuning90>("90");
  cell_training<cuda::MLSTMChunkwiseTuning>(report, "80", in, sequences, length, all);
  cell_training<cuda::MLSTMChunkwiseTuning90>(report, "90", in, sequences, length, all);
  return all;
}

void token_by_token(Report& report, bool small) {
  for (const Index sessions : {1, 8, 64}) {
    // States of as many layers in turn, so that none waits in the cache for its next token.
    const Index layers = small ? 2 : std::max<Index>(2, 128 / sessions);
    const CellInputs in(sessions);
    const DeviceValues<float> states(layers * sessions * Cell::state_size, 0.1F);
    std::vector<float*> slots;
    for (Index i = 0; i < layers * sessions; ++i) slots.push_back(states.data() + i * Cell::state_size);
    const DeviceValues<float*> there(slots);
    const DeviceValues<unsigned> tickets(sessions * H);
    Index layer = 0;
    report.add("mLSTM step, " + std::to_string(sessions) + (sessions == 1 ? " session" : " sessions"),
               bench::seconds([&](auto& s) {
                 cuda::mlstm_step<Cell, bf16, float, bf16>(
                     s, in.q.rows<Cell::qk_width>(), in.k.rows<Cell::qk_width>(), in.v.rows<Cell::v_width>(),
                     in.igate.rows<Cell::heads>(), in.fgate.rows<Cell::heads>(),
                     StateSlots<float>{there.data() + layer * sessions},
                     MatrixView<const std::uint8_t, 1>(nullptr, sessions), in.h.rows<Cell::v_width>(), tickets.data());
                 layer = (layer + 1) % layers;
               }));
  }
  const DeviceValues<bf16> gate(64 * F), up(64 * F), y(64 * F);
  report.add("swiglu, 64 sessions",
             bench::seconds([&](auto& s) { cuda::swiglu<bf16>(s, gate.rows(F), up.rows(F), y.rows(F)); }));
  const DeviceValues<bf16> x(64 * D), z(64 * D);
  norm_with_gates(report, "rms_norm_linear, with the gates, 1 session", x, z, 1);
  norm_with_gates(report, "rms_norm_linear, with the gates, 64 sessions", x, z, 64);
  const DeviceValues<float> logits(64 * vocabulary);
  report.add("soft cap of the logits, 64 sessions",
             bench::seconds([&](auto& s) { cuda::soft_cap<SoftCap<30.0>, float>(s, logits.rows(vocabulary)); }));
}

/// Of the up-projection; several of them in turn, so that none waits in the cache for its next token.
template <class Format>
void quantized_weights(Report& report, const std::string& name) {
  constexpr Index matrices = 4, codes_of_one = F * Format::row_bytes(D), scales_of_one = F * Format::groups(D);
  const DeviceValues<bf16> codes(matrices * codes_of_one / 2), scales(matrices * scales_of_one), x(16 * D), y(16 * F);
  const auto codes_of = [&](Index i) { return reinterpret_cast<const std::uint8_t*>(codes.data()) + i * codes_of_one; };
  Index matrix = 0;
  for (const Index rows : {1, 16}) {
    report.add("up-projection, " + name + ", " + std::to_string(rows) + (rows == 1 ? " session" : " sessions"),
               bench::seconds([&](auto& s) {
                 const cuda::QuantizedTerm<bf16> terms[] = {
                     {codes_of(matrix), scales.data() + matrix * scales_of_one, nullptr, F, y.data(), F}};
                 cuda::quantized_linear<Format, bf16, bf16>(s, MatrixView<const bf16>(x.data(), rows, D), terms);
                 matrix = (matrix + 1) % matrices;
               }));
  }
  const DeviceValues<bf16> weights(F * D);
  report.add("dequantise the up-projection, " + name + " to bf16", bench::seconds([&](auto& s) {
               cuda::dequantize<Format>(s, codes_of(matrix), scales.data() + matrix * scales_of_one, F, D,
                                        weights.data());
               matrix = (matrix + 1) % matrices;
             }));
}

void optimizer(Report& report, Index count) {
  const DeviceValues<float> parameter(count), gradient(count), first(count), second(count, 0.1F, 1);
  const DeviceValues<double> sum(1), sums(cuda::squared_norm_bytes(count) / 8 + 1);
  const DeviceValues<bf16> narrow(count);
  report.add("squared_norm",
             bench::seconds([&](auto& s) { cuda::squared_norm(s, gradient.data(), count, sum.data(), sums.data()); }));
  report.add("adamw", bench::seconds([&](auto& s) {
               cuda::adamw(s, parameter.data(), gradient.data(), first.data(), second.data(), count,
                           {.learning_rate = 1e-6, .weight_decay = 0.1, .step = 100});
             }));
  report.add("copy to bf16", bench::seconds([&](auto& s) {
               cuda::copy<float, bf16>(s, MatrixView<const float>(parameter.data(), 1, count),
                                       MatrixView<bf16>(narrow.data(), 1, count));
             }));
}

void measure(bool small) {
  const bench::Ceilings ceilings = bench::measure_ceilings();
  const Index sequences = small ? 1 : 8, length = small ? 512 : 8192, parameters = small ? 1000000 : 1000000000;
  std::printf(
      "{\"device\": \"%s\", \"copy GB/s\": %.5g, \"bf16 TFLOP/s\": %.5g,\n \"sequences\": %td, \"length\": %td,\n"
      " \"kernels\": [",
      ceilings.name.c_str(), 1e-9 * ceilings.bandwidth, 1e-12 * ceilings.products, sequences, length);
  Report report(ceilings);
  report.begin(work_of_7b::of_texts(static_cast<double>(sequences), static_cast<double>(length)));
  rows_forward(report, sequences * length);
  const auto chunks = cell_forward(report, sequences, length);
  rows_backward(report, sequences * length);
  report.begin(work_of_7b::of_tokens());
  token_by_token(report, small);
  report.begin(work_of_7b::of_quantized_weights());
  quantized_weights<xlstm::int8>(report, "int8");
  quantized_weights<xlstm::int4>(report, "int4");
  report.begin(work_of_7b::of_parameters(static_cast<double>(parameters)));
  optimizer(report, parameters);
  std::printf("],\n \"chunkwise\": [");
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    std::printf("%s\n  {\"work\": \"%s\", \"tuning\": \"%s\", \"chunk size\": %td, \"us\": %.5g}", i > 0 ? "," : "",
                chunks[i].work.c_str(), chunks[i].tuning.c_str(), chunks[i].chunk_size, 1e6 * chunks[i].seconds);
  }
  std::printf("]}\n");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    measure(argc > 1 && std::strcmp(argv[1], "--small") == 0);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cuda_kernels: %s\n", error.what());
    return 1;
  }
}
