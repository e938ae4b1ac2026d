// SPDX-License-Identifier: Apache-2.0
// An experiment of the xLSTM 7B paper (§4, gate soft caps and the input gate's bias) at a size that a CPU trains in
// minutes: the gates' soft cap on and off × the input gate's bias −10 and 0, several seeds each. Writes every step's
// loss and gradient norm as JSON lines and draws them.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "command_line.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/model/architecture.hpp"
#include "xlstm/text/tokenizer.hpp"
#include "xlstm/train/batches.hpp"
#include "xlstm/train/plot.hpp"
#include "xlstm/train/schedule.hpp"
#include "xlstm/train/text_data.hpp"
#include "xlstm/train/trainer.hpp"

namespace {

using xlstm::Index;

const command_line::Program program = {
    .name = "gate_experiment",
    .purpose =
        "Trains small models with and without the gates' soft cap, and with input-gate biases of -10 and 0.\n"
        "DIR gets gates.jsonl (every step of every run) and gates.svg.",
    .words = {},
    .flags = {{"data", "FILE", "text, documents between blank lines", command_line::Flag::Kind::required},
              {"tokenizer", "FILE", "tokenizer.json of at most 1536 tokens", command_line::Flag::Kind::required},
              {"out", "DIR", "where the results go", command_line::Flag::Kind::required},
              {"steps", "N", "of every run (200)"},
              {"seeds", "N", "runs of every kind (3)"},
              {"learning-rate", "R", "after 50 steps of warm-up (3e-3)"},
              {"threads", "N", "how many threads (one for every core)"}},
    .notes = ""};

constexpr xlstm::ModelConfig with_cap{.vocab_size = 1536, .embedding_dim = 128, .num_blocks = 4, .num_heads = 4};
constexpr xlstm::ModelConfig without_cap = [] {
  xlstm::ModelConfig config = with_cap;
  config.gate_soft_cap = 0;
  return config;
}();

struct Settings {
  Index steps, seeds;
  double learning_rate;
  int threads;
};

struct Point {
  double loss, gradient_norm;
};

// One run. A step that is not finite ends it: everything after would be noise.
template <xlstm::ModelConfig config>
std::vector<Point> run(const xlstm::TokenData& data, double igate_bias, std::uint64_t seed, const Settings& settings) {
  using Network = xlstm::Network<config>;
  using B = xlstm::cpu::Backend<float>;
  xlstm::TrainerOptions options;
  options.skip_above = 0;
  options.max_consecutive_skips = 0;
  xlstm::Trainer<Network, B> trainer(seed, options,
                                     std::make_shared<B::Resources>(B::Options{.threads = settings.threads}));
  xlstm::for_each_parameter<Network>(trainer.masters().parameters, [&](std::string_view name, auto& handle, auto) {
    if (name.ends_with("igate_preact.bias")) std::fill_n(handle.data(), handle.count, static_cast<float>(igate_bias));
  });
  xlstm::PackedRows rows(data, data.documents(), 256, seed);
  xlstm::BatchBuffer batch(8, 256);
  std::vector<Point> points;
  for (Index step = 1; step <= settings.steps; ++step) {
    rows.next(batch);
    trainer.accumulate(batch.view());
    try {
      const auto result = trainer.update(settings.learning_rate * std::min(1.0, static_cast<double>(step) / 50));
      points.push_back({result.loss, result.gradient_norm});
    } catch (const xlstm::Error&) {
      break;
    }
  }
  return points;
}

// The mean over the seeds, and the largest gradient norm of any.
void add_data(std::ostream& script, const std::string& name, const std::vector<std::vector<Point>>& runs) {
  script << '$' << name << " << end_of_data\n";
  std::size_t steps = 0;
  for (const auto& points : runs) steps = std::max(steps, points.size());
  for (std::size_t i = 0; i < steps; ++i) {
    double loss = 0, norm = 0, count = 0;
    for (const auto& points : runs) {
      if (i >= points.size()) continue;
      loss += points[i].loss;
      norm = std::max(norm, points[i].gradient_norm);
      count += 1;
    }
    script << i + 1 << ' ' << loss / count << ' ' << norm << '\n';
  }
  script << "end_of_data\n";
}

int experiment(const command_line::Arguments& a) {
  const Settings settings{a.number<Index>("steps", 200, 1), a.number<Index>("seeds", 3, 1),
                          a.number<double>("learning-rate", 3e-3, 0.0), a.threads()};
  const std::filesystem::path out = a.text("out");
  std::error_code error;
  std::filesystem::create_directories(out, error);
  if (error) xlstm::io::fail_with_errno(out, "cannot be created", error.value());
  const std::string tokenizer_json = xlstm::io::read_text_file(a.text("tokenizer"), std::size_t{1} << 28);
  const auto tokenizer = xlstm::Tokenizer::parse(tokenizer_json, a.text("tokenizer"));
  xlstm::TextDataOptions options;
  options.document_end = xlstm::DocumentEnd::blank_line;
  const auto prepared =
      xlstm::prepare_text_data({a.text("data")}, tokenizer, tokenizer_json, with_cap.vocab_size, out / "data", options);
  const xlstm::TokenData data(prepared.shards);

  std::ostringstream script, plots[2];
  script << "set terminal svg size 900,800 background rgb 'white'\n";
  xlstm::io::AtomicFile lines(out / "gates.jsonl");
  for (const bool capped : {true, false}) {
    for (const double bias : {-10.0, 0.0}) {
      std::vector<std::vector<Point>> runs;
      double largest = 0;
      std::size_t finished = 0;
      double last = 0;
      for (Index seed = 1; seed <= settings.seeds; ++seed) {
        const auto s = static_cast<std::uint64_t>(seed);
        runs.push_back(capped ? run<with_cap>(data, bias, s, settings) : run<without_cap>(data, bias, s, settings));
        Index step = 0;
        for (const Point& p : runs.back()) {
          largest = std::max(largest, p.gradient_norm);
          lines.write(nlohmann::json{{"soft_cap", capped},
                                     {"igate_bias", bias},
                                     {"seed", seed},
                                     {"step", ++step},
                                     {"loss", p.loss},
                                     {"gradient_norm", p.gradient_norm}}
                          .dump() +
                      "\n");
        }
        if (step == settings.steps) {
          ++finished;
          last += runs.back().back().loss;
        }
      }
      char row[200];
      std::snprintf(row, sizeof row, "| %s | %3.0f | %zu of %td | %.3f | %.2f |\n", capped ? "15  " : "none", bias,
                    finished, settings.seeds, last / static_cast<double>(std::max<std::size_t>(finished, 1)), largest);
      command_line::print(row);
      const std::string name = std::string(capped ? "cap" : "nocap") + (bias == 0 ? "0" : "10");
      add_data(script, name, runs);
      const std::string title = std::string(capped ? "cap 15" : "no cap") + (bias == 0 ? ", bias 0" : ", bias -10");
      for (int p = 0; p < 2; ++p) {
        plots[p] << (plots[p].str().empty() ? "plot " : ", ") << '$' << name << " using 1:" << p + 2
                 << " with lines title '" << title << '\'';
      }
    }
  }
  lines.commit();
  script << "set multiplot layout 2,1\nset grid\nset xlabel 'step'\nset ylabel 'loss, mean of the seeds'\n"
         << plots[0].str() << "\nset ylabel 'gradient norm, largest of the seeds'\nset logscale y\n"
         << plots[1].str() << "\nunset multiplot\n";
  const std::string warning = xlstm::run_gnuplot(script.str(), out / "gates.svg");
  if (!warning.empty()) command_line::say("gate_experiment: warning: ", warning);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return command_line::run_program(program, argc, argv, experiment); }
