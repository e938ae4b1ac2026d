// SPDX-License-Identifier: Apache-2.0
// Where the time goes: every operation of a decode step (of one session and of eight) and of a prefill of 512 tokens,
// of the 160M preset with random weights. Floor: the bytes of weights and states that an operation must move at the
// bandwidth measured here, or its multiplications at the peak measured here of what makes them, whichever takes longer:
// vectors in fp32, AMX (at fp32's precision several products of bf16 for one, amx_tiles.hpp), vectors of bytes.
//   operations [--json] [THREADS [f32|bf16|bf16_a16|int8|int4]]        bf16_a16: activations rounded to bf16
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include "machine.hpp"
#include "random_model.hpp"
#include "xlstm/generate/session.hpp"
#include "xlstm/model/presets.hpp"

namespace {

using namespace xlstm;

constexpr ModelConfig config = presets::xlstm_160m;

/// What an operation must move and multiply.
struct Work {
  double bytes = 0, flops = 0, amx_flops = 0, byte_operations = 0;
};
struct Entry : Work {
  double seconds = 0;
  Index calls = 0;
};
std::map<std::string, Entry> entries;

/// Times one operation: until it is destroyed.
class Timed {
 public:
  Timed(std::string name, const Work& work) : entry_(entries[std::move(name)]) {
    entry_.bytes += work.bytes;
    entry_.flops += work.flops;
    entry_.amx_flops += work.amx_flops;
    entry_.byte_operations += work.byte_operations;
    ++entry_.calls;
    begin_ = std::chrono::steady_clock::now();
  }
  ~Timed() { entry_.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count(); }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  Entry& entry_;
  std::chrono::steady_clock::time_point begin_;
};

constexpr double floats(Index count) { return 4.0 * static_cast<double>(count); }

/// Adds the product of `rows` rows with a matrix, as Backend::linear makes it.
template <class Matrix, class Activations>
void add_product(Work& work, Index rows) {
  work.bytes += static_cast<double>(Matrix::bytes);
  const double flops = 2.0 * static_cast<double>(rows * Matrix::rows * Matrix::cols);
  [[maybe_unused]] constexpr bool rounded = std::is_same_v<Activations, cpu::Bf16Activations>;
  constexpr bool quantized = QuantizedHandle<Matrix>;
  bool on_amx = false;
  double products = 1;
#if defined(XLSTM_SIMD_AMX)
  Index least = cpu::AmxTiles<cpu::HighestPrecision>::least_rows;
  if constexpr (!quantized) {
    constexpr bool bf16_weights = std::is_same_v<typename Matrix::Element, bf16>;
    products = rounded ? 1 : bf16_weights ? 3 : 6;
    if (rounded) {
      least = cpu::AmxRowTuning::least_rounded_rows;
    } else if (bf16_weights && rows <= cpu::few_rows) {
      least = cpu::AmxRowTuning::least_rows;
    }
  } else {
    products = 5;
  }
  on_amx = rows >= least && cpu::amx::permitted();
#endif
  if (quantized && cpu::has_integer_products && std::is_same_v<Activations, cpu::Int8Activations>) {
    work.byte_operations += flops;
  } else if (on_amx) {
    work.amx_flops += products * flops;
  } else {
    work.flops += flops;
  }
}

/// The backend, with a clock at every operation of inference.
template <class W, class Activations>
class TimedBackend : public cpu::Backend<W, Activations> {
  using Base = cpu::Backend<W, Activations>;

 public:
  using Base::Base;

  template <class Matrix>
  void embed(std::span<const Token> tokens, const Matrix& weight, MatrixView<float, Matrix::cols> y) {
    const Timed timed("embedding", {.bytes = floats(y.rows() * y.cols())});
    Base::embed(tokens, weight, y);
  }
  template <Index In, class... Matrices>
  void linear(MatrixView<const float, In> x, LinearTerm<Matrices, float>... terms) {
    constexpr Index out = (Matrices::rows + ...);
    Work work;
    (add_product<Matrices, Activations>(work, x.rows()), ...);
    const Timed timed("linear " + std::to_string(out) + " x " + std::to_string(In), work);
    Base::linear(x, terms...);
  }
  template <Index D, Index N>
  void rms_norm(MatrixView<const float, D> x, const VectorParameter<float, D>& weight,
                const VectorParameter<float, N>& bias, double eps, MatrixView<float, D> y, float* scale) {
    const Timed timed("rms_norm", {});
    Base::rms_norm(x, weight, bias, eps, y, scale);
  }
  template <Index Heads, Index Width, Index N>
  void gated_multihead_norm(MatrixView<float, Width> gate, MatrixView<const float, Width> x,
                            const VectorParameter<float, Width>& weight, const VectorParameter<float, N>& bias,
                            double eps, MatrixView<float, Width> y, float* mean, float* scale) {
    const Timed timed("gated_multihead_norm", {});
    Base::template gated_multihead_norm<Heads>(gate, x, weight, bias, eps, y, mean, scale);
  }
  template <Index D>
  void add(MatrixView<const float, D> x, MatrixView<float, D> y) {
    const Timed timed("residual", {});
    Base::add(x, y);
  }
  template <Index F>
  void swiglu(MatrixView<float, F> gate, MatrixView<float, F> up, MatrixView<float, F> y) {
    const Timed timed("swiglu", {});
    Base::swiglu(gate, up, y);
  }
  template <class Cap, Index D>
  void soft_cap(MatrixView<float, D> y) {
    const Timed timed("soft_cap of logits", {});
    Base::template soft_cap<Cap>(y);
  }
  template <class Cell>
  void mlstm(const Run& run, const MLSTMInput<const float, Cell>& in, StateSlots<float> state,
             MatrixView<float, Cell::v_width> h, cpu::MLSTMSaved<Cell>& saved) {
    const Workload work{run.length, cpu::mlstm_chunk_size<Cell>(run), run.form == Form::recurrent};
    const MLSTMLayerSizes sizes{0, Cell::heads, Cell::qk_dim, Cell::v_dim, work.chunk_size};
    const double sequences = static_cast<double>(run.sequences);
    const Timed timed("cell", {.bytes = 2 * sequences * floats(Cell::state_size),
                               .flops = sequences * mlstm_cell_flops(work, sizes)});
    Base::template mlstm<Cell>(run, in, state, h, saved);
  }
};

struct Row {
  std::string name;
  Index calls;
  double microseconds, floor;  // floor 0: not known
};
struct Table {
  std::string title;
  double microseconds;
  std::vector<Row> rows;
};

/// Runs `pass` for about a second: what it and its operations took on average.
template <class Pass>
Table measured(const std::string& title, const bench::Machine& machine, Pass&& pass) {
  pass();
  entries.clear();
  Index passes = 0;
  const auto begin = std::chrono::steady_clock::now();
  double seconds = 0;
  for (; seconds < 1 || passes < 2; ++passes) {
    pass();
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  const double to_each = 1e6 / static_cast<double>(passes);
  Table table{title, seconds * to_each, {}};
  double rest = seconds;
  for (const auto& [name, e] : entries) {
    const double computing = e.flops / machine.peak + (e.amx_flops > 0 ? e.amx_flops / machine.bf16_peak : 0) +
                             (e.byte_operations > 0 ? e.byte_operations / machine.byte_peak : 0);
    const double floor = std::max(e.bytes / machine.bandwidth, computing) * to_each;
    table.rows.push_back({name, e.calls / passes, e.seconds * to_each, floor >= 1 ? floor : 0});
    rest -= e.seconds;
  }
  std::sort(table.rows.begin(), table.rows.end(),
            [](const Row& a, const Row& b) { return a.microseconds > b.microseconds; });
  table.rows.push_back({"all else", 0, rest * to_each, 0});
  return table;
}

void print_markdown(const Table& table) {
  std::printf(
      "\n%s: %.3f ms\n\n| operation | calls | µs | share | floor, µs | time / floor |\n|---|---|---|---|---|---|\n",
      table.title.c_str(), table.microseconds * 1e-3);
  for (const Row& r : table.rows) {
    std::printf("| %s | %s | %.1f | %.1f %% | ", r.name.c_str(), r.calls > 0 ? std::to_string(r.calls).c_str() : "",
                r.microseconds, 100 * r.microseconds / table.microseconds);
    if (r.floor > 0) {
      std::printf("%.1f | %.2f |\n", r.floor, r.microseconds / r.floor);
    } else {
      std::printf("| |\n");
    }
  }
}

void print_json(const std::vector<Table>& all) {
  const char* between_tables = "";
  for (const Table& table : all) {
    std::printf("%s\n {\"title\": \"%s\", \"us\": %.1f, \"operations\": [", between_tables, table.title.c_str(),
                table.microseconds);
    const char* between_rows = "";
    for (const Row& r : table.rows) {
      std::printf("%s\n  {\"name\": \"%s\", \"calls\": %td, \"us\": %.1f, \"floor us\": %.1f}", between_rows,
                  r.name.c_str(), r.calls, r.microseconds, r.floor);
      between_rows = ",";
    }
    std::printf("]}");
    between_tables = ",";
  }
}

template <class W, class Activations = cpu::FloatActivations>
void measure(const std::string& format, int threads, const bench::Machine& machine, std::vector<Table>& tables) {
  using M = LanguageModel<config, TimedBackend<W, Activations>>;
  const M model = bench::random_model<M>(threads);
  Random random(2);
  const auto tokens = [&](std::size_t count) {
    std::vector<Token> all(count);
    for (Token& t : all) t = static_cast<Token>(random.below(static_cast<std::uint64_t>(config.vocab_size)));
    return all;
  };
  for (const std::size_t count : {std::size_t{1}, std::size_t{8}}) {
    std::vector<Session<M>> sessions(count, model.session());
    std::vector<Session<M>*> pointers;
    for (auto& s : sessions) pointers.push_back(&s);
    const std::vector<Token> next = tokens(count);
    const std::string title = format + ", one token of " + std::to_string(count);
    tables.push_back(measured(title, machine, [&] { Session<M>::step(pointers, next); }));
  }
  const std::vector<Token> prompt = tokens(512);
  auto session = model.session();
  tables.push_back(measured(format + ", prefill of 512", machine, [&] {
    session.reset();
    session.prefill(prompt);
  }));
}

}  // namespace

int main(int argc, char** argv) {
  const bool json = argc > 1 && std::string(argv[1]) == "--json";
  const char* const* const arguments = argv + (json ? 1 : 0);
  const int count = argc - (json ? 1 : 0);
  const int threads = count > 1 ? std::atoi(arguments[1]) : 2;
  const std::string only = count > 2 ? arguments[2] : "";
  try {
    const bench::Machine machine(threads);
    std::vector<Table> tables;
    if (only.empty() || only == "f32") measure<float>("f32", threads, machine, tables);
    if (only.empty() || only == "bf16") measure<bf16>("bf16", threads, machine, tables);
    if (only.empty() || only == "bf16_a16") {
      measure<bf16, cpu::Bf16Activations>("bf16, activations bf16", threads, machine, tables);
    }
    if (only.empty() || only == "int8") measure<int8, cpu::Int8Activations>("int8", threads, machine, tables);
    if (only.empty() || only == "int4") measure<int4, cpu::Int8Activations>("int4", threads, machine, tables);
    const double gigabytes = machine.bandwidth * 1e-9, gigaflops = machine.peak * 1e-9;
    const double amx = machine.bf16_peak * 1e-9, bytes = machine.byte_peak * 1e-9;
    if (json) {
      std::printf(
          "{\"threads\": %d, \"GB/s\": %.1f, \"fp32 GFLOP/s\": %.0f, \"AMX bf16 GFLOP/s\": %.0f, \"VNNI int8 GOP/s\": "
          "%.0f, "
          "\"passes\": [",
          threads, gigabytes, gigaflops, amx, bytes);
      print_json(tables);
      std::printf("]}\n");
    } else {
      std::printf("%d threads, %.1f GB/s, %.0f GFLOP/s, on AMX %.0f of bf16, %.0f GOP/s of bytes\n", threads, gigabytes,
                  gigaflops, amx, bytes);
      for (const Table& table : tables) print_markdown(table);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
