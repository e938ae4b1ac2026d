// SPDX-License-Identifier: Apache-2.0
// Trains a model on text (docs/training.md).
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "device.hpp"
#include "train_settings.hpp"
#include "xlstm/compiled_models.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/generate/generation.hpp"
#include "xlstm/io/directory_lock.hpp"
#include "xlstm/model/architecture.hpp"
#include "xlstm/model/model_list.hpp"
#include "xlstm/train/export_checkpoint.hpp"
#include "xlstm/train/metrics.hpp"
#include "xlstm/train/plot.hpp"
#include "xlstm/train/training_checkpoint.hpp"

namespace {

using command_line::Arguments;
using command_line::say;
using training::Settings;
using xlstm::Index;
using xlstm::Token;
using Clock = std::chrono::steady_clock;

volatile std::sig_atomic_t stop_signal = 0;

// The first Ctrl-C (or SIGTERM) ends the run after its step; the second one at once.
void stop_on_signals() {
  struct ::sigaction action {};
  action.sa_handler = [](int signal) {
    if (stop_signal != 0) {
      std::signal(signal, SIG_DFL);
      std::raise(signal);
    }
    stop_signal = signal;
  };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

std::string format(const char* pattern, auto... values) {
  std::string text(200, '\0');
  text.resize(static_cast<std::size_t>(std::snprintf(text.data(), text.size(), pattern, values...)));
  return text;
}

// One line about where the run is: over and over in place on a terminal, every so often elsewhere.
class Progress {
 public:
  explicit Progress(double every) : terminal_(::isatty(STDERR_FILENO) != 0), every_(terminal_ ? 0.2 : every) {}
  bool due() const { return std::chrono::duration<double>(Clock::now() - last_).count() >= every_; }
  void show(const std::string& line) {
    last_ = Clock::now();
    if (!terminal_) return say(line);
    put("\r" + line + "\x1b[K");
    open_ = true;
  }
  // Other lines do not write over it.
  void end() {
    if (open_) put("\n");
    open_ = false;
  }

 private:
  static void put(const std::string& text) {
    [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, text.data(), text.size());
  }
  bool terminal_;
  double every_;
  bool open_ = false;
  Clock::time_point last_ = Clock::now();
};

void write_file(const std::filesystem::path& path, const std::string& text) {
  xlstm::io::AtomicFile file(path);
  file.write(text);
  file.commit();
}

// What all models share: text, tokens, settings.
struct Task {
  const Arguments* flags;
  Settings settings;
  xlstm::CheckpointConfig model;
  std::string tokenizer_json;
  xlstm::Tokenizer tokenizer;
  xlstm::PreparedData prepared;
  bool resume;

  std::filesystem::path file(const char* name) const { return settings.out / name; }

  // Whoever resumes finds these. The flags come last: without them there is no run.
  void remember() const {
    write_file(file("tokenizer.json"), tokenizer_json);
    write_file(file("checkpoints/config.json"),
               xlstm::to_json(model.model, settings.bf16 ? xlstm::DType::bf16 : xlstm::DType::f32, model.tokens));
    training::store_flags(file("run.json"), *flags);
  }

  // What may not change while a run goes on.
  std::string identity() const {
    return nlohmann::json{{"config", xlstm::to_json(model.model, xlstm::DType::f32)},
                          {"data", prepared.fingerprint},
                          {"batch", settings.batch},
                          {"length", settings.length},
                          {"seed", settings.seed},
                          {"validation", settings.validation},
                          {"weights", settings.bf16 ? "bf16" : "f32"}}
        .dump();
  }
};

template <class Network, class B>
class Run {
 public:
  Run(const Task& task, const typename B::Options& machine)
      : task_(task),
        machine_(machine),
        settings_(task.settings),
        data_(task.prepared.shards),
        split_(xlstm::split_data(data_.documents(), settings_.validation, settings_.seed)),
        rows_(data_, split_.training, settings_.length, settings_.seed),
        resources_(std::make_shared<typename B::Resources>(machine)),
        trainer_(settings_.seed, settings_.trainer, resources_),
        batch_(settings_.batch, settings_.length),
        checkpoints_(task.file("checkpoints"), settings_.keep),
        progress_(settings_.progress_every) {
    Index validation_tokens = 0;
    for (const auto& segment : split_.validation) validation_tokens += segment.size();
    if (validation_tokens > 1) validation_.emplace(data_, split_.validation, settings_.length, settings_.seed, false);
  }

  int go() {
    try {
      return train();
    } catch (const xlstm::Error& error) {
      progress_.end();
      if (!saved_) throw;
      xlstm::fail(error.what(), "; step ", *saved_, " is saved, from where train --resume --out ",
                  xlstm::io::printable(settings_.out.native()), " goes on");
    }
  }

 private:
  int train() {
    if (task_.resume) {
      restore();
      task_.remember();  // not before: flags that do not fit the run must not replace those that do
    }
    Index left = settings_.steps - step();
    if (settings_.stop_after > 0) left = std::min(left, settings_.stop_after);
    checkpoints_.require_space(trainer_, left / settings_.save_every + (left % settings_.save_every > 0 ? 1 : 0));
    xlstm::MetricsWriter metrics(task_.file("metrics.jsonl"), step());
    say("training ", xlstm::parameter_count<Network, B>(), " parameters on ", rows_.tokens(), " tokens, ",
        rows_.rows_in_epoch(), " rows of ", settings_.length, " an epoch, from step ", step(), " to ", settings_.steps);
    const Index first = step();
    start_ = Clock::now();
    while (step() < settings_.steps && stop_signal == 0) {
      nlohmann::json line = one_step();
      const bool last = step() == settings_.steps;
      if (validation_ && (last || due(settings_.validate_every))) validate(line);
      if (!last && due(settings_.sample_every)) sample(line);
      metrics.write(line);
      if (!last && due(settings_.save_every)) save();
      if (!last && due(settings_.validate_every)) plot();
      if (settings_.stop_after > 0 && step() - first >= settings_.stop_after) break;
    }
    progress_.end();
    if (step() > first || !task_.resume) save();
    trainer_.with_host_parameters([&](const auto& parameters) {
      xlstm::export_checkpoint<Network>(settings_.out, parameters, task_.model.model, task_.model.tokens,
                                        settings_.exported);
    });
    plot();
    if (stop_signal != 0) {
      say("stopped at step ", step(), " of ", settings_.steps, " and saved; go on with: train --resume --out ",
          settings_.out.native());
      return 128 + stop_signal;
    }
    if (step() < settings_.steps) return 0;
    nlohmann::json end;
    if (validation_ && steps_here_ == 0) validate(end);
    const Index skipped = trainer_.counters().skipped;
    say("done: ", settings_.out.native(), " is a checkpoint", skipped > 0 ? "; steps skipped: " : "",
        skipped > 0 ? std::to_string(skipped) : "");
    return 0;
  }

  Index step() const { return trainer_.counters().step; }
  bool due(Index every) const { return every > 0 && step() % every == 0; }

  void restore() {
    const auto state =
        checkpoints_.resume(trainer_, [](const std::string& reason) { say("train: warning: ", reason); });
    if (!state) {
      say("nothing to resume in ", settings_.out.native(), ": starting at the beginning");
      return;
    }
    if (state->configuration != task_.identity()) {
      xlstm::fail(xlstm::io::printable(settings_.out.native()),
                  ": the checkpoint is of another run: ", training::difference(task_.identity(), state->configuration));
    }
    saved_ = step();
    rows_.set_position(state->position);
    targets_ = state->tokens;
  }

  nlohmann::json one_step() {
    const auto begin = Clock::now();
    const Index number = step() + 1;
    const double rate = xlstm::learning_rate(settings_.schedule, number);
    const Index batches = xlstm::batches_of_step(settings_.ramp, settings_.accumulate, number);
    for (Index b = 0; b < batches; ++b) {
      rows_.next(batch_);
      trainer_.accumulate(batch_.view());
    }
    const xlstm::StepResult result = trainer_.update(rate);
    targets_ += static_cast<std::uint64_t>(result.targets);
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    const double speed = static_cast<double>(batches * settings_.batch * settings_.length) / seconds;
    nlohmann::json line = {{"step", number},        {"loss", result.loss}, {"gradient_norm", result.gradient_norm},
                           {"learning_rate", rate}, {"tokens", targets_},  {"tokens_per_second", speed}};
    if (settings_.trainer.loss.z_loss > 0) line["z_loss"] = result.z_loss;
    if (result.skipped) line["skipped"] = true;
    if (result.skipped) {
      progress_.end();
      say("step ", number, " skipped: loss ", result.loss, ", gradient norm ", result.gradient_norm);
    }
    ++steps_here_;
    if (progress_.due()) {
      const double taken = std::chrono::duration<double>(Clock::now() - start_).count();
      const auto left =
          static_cast<long>(taken / static_cast<double>(steps_here_) * static_cast<double>(settings_.steps - number));
      progress_.show(format("step %td/%td  loss %.4f  gradient norm %.3f  lr %.2e  %.0f tokens/s  %ld:%02ld:%02ld left",
                            number, settings_.steps, result.loss, result.gradient_norm, rate, speed, left / 3600,
                            left / 60 % 60, left % 60));
    }
    return line;
  }

  void validate(nlohmann::json& line) {
    validation_->set_position({});
    const Index batches =
        std::min(settings_.validation_batches, xlstm::ceil_div(validation_->rows_in_epoch(), settings_.batch));
    xlstm::LossSum sum;
    for (Index b = 0; b < batches; ++b) {
      const Index rest = validation_->rows_in_epoch() - validation_->position().row;
      xlstm::BatchBuffer rows(std::min(settings_.batch, rest), settings_.length);
      validation_->next(rows);
      sum += trainer_.evaluate(rows.view());
    }
    const double loss = sum.nll / static_cast<double>(std::max<Index>(sum.targets, 1));
    line["validation_loss"] = loss;
    line["validation_perplexity"] = std::exp(loss);
    progress_.end();
    say(format("step %td: validation loss %.9g, perplexity %.6g over %td tokens", step(), loss, std::exp(loss),
               sum.targets));
  }

  void sample(nlohmann::json& line) {
    trainer_.with_host_parameters([&](const auto& parameters) {
      xlstm::Weights<Network, B> borrowed;
      borrowed.parameters = parameters;
      sample(line, xlstm::Model<Network, B>(std::move(borrowed), machine_));
    });
  }
  void sample(nlohmann::json& line, const xlstm::Model<Network, B>& model) {
    auto session = model.session();
    std::vector<Token> prompt = task_.model.tokens.with_bos(task_.tokenizer.encode(settings_.sample_prompt));
    if (prompt.empty()) prompt.push_back(0);
    xlstm::GenerationOptions options;
    options.max_tokens = 60;
    options.sampling.temperature = 0.8;
    options.sampling.seed = static_cast<std::uint64_t>(step());
    if (task_.model.tokens.eos) options.stop_tokens = {*task_.model.tokens.eos};
    std::string text = settings_.sample_prompt;
    for (const Token token : session.generate(prompt, options)) {
      if (task_.tokenizer.contains(token)) text += task_.tokenizer.bytes_of(token);
    }
    line["sample"] = text;
    progress_.end();
    say("step ", step(), ": sample: ", xlstm::io::printable(text, 2000));
  }

  void save() {
    checkpoints_.save(trainer_, {trainer_.counters(), rows_.position(), targets_, task_.identity()});
    saved_ = step();
  }

  void plot() {
    const std::string warning = xlstm::draw_plot(xlstm::read_metrics(task_.file("metrics.jsonl"), step()),
                                                 task_.file("training.svg"), settings_.out.native());
    if (warning.empty() || warned_) return;
    warned_ = true;
    progress_.end();
    say("train: warning: ", warning);
  }

  const Task& task_;
  typename B::Options machine_;
  const Settings& settings_;
  xlstm::TokenData data_;
  xlstm::DataSplit split_;
  xlstm::PackedRows rows_;
  std::optional<xlstm::PackedRows> validation_;
  std::shared_ptr<typename B::Resources> resources_;
  xlstm::Trainer<Network, B> trainer_;
  xlstm::BatchBuffer batch_;
  xlstm::TrainingCheckpoints checkpoints_;
  Progress progress_;
  Clock::time_point start_;
  Index steps_here_ = 0;
  std::uint64_t targets_ = 0;
  std::optional<Index> saved_;  // the newest checkpoint's step
  bool warned_ = false;
};

xlstm::PreparedData prepare(const Arguments& a, const Task& task) {
  if (!a.has("data")) command_line::wrong_usage("--data is missing");
  for (const std::string& file : a.all("data")) {
    if (file.empty()) command_line::wrong_usage("--data is empty, expected the name of a file");
  }
  const std::string end = a.choice("documents", {"end-of-text", "blank-line", "file"});
  xlstm::TextDataOptions options;
  options.document_end = end == "file"         ? xlstm::DocumentEnd::file
                         : end == "blank-line" ? xlstm::DocumentEnd::blank_line
                                               : xlstm::DocumentEnd::end_of_text;
  options.bos = task.model.tokens.bos;
  options.eos = task.model.tokens.eos;
  Progress progress(5);
  options.progress = [&](std::size_t done, std::size_t total, Index tokens) {
    if (!progress.due()) return;
    progress.show(format("tokenising: %.1f %%, %.2f M tokens",
                         100 * static_cast<double>(done) / static_cast<double>(total),
                         static_cast<double>(tokens) / 1e6));
  };
  if (task.resume) options.fingerprint = training::data_of_checkpoint(task.file("checkpoints"));
  std::vector<std::filesystem::path> files;
  for (const std::string& file : a.all("data")) files.emplace_back(file);
  const auto prepared = xlstm::prepare_text_data(files, task.tokenizer, task.tokenizer_json,
                                                 task.model.model.vocab_size, task.file("data"), options);
  progress.end();
  say(prepared.made ? "tokenised: " : "tokens are there already: ", prepared.tokens, " tokens in ", prepared.documents,
      " documents, ", prepared.shards.size(), " shards");
  return prepared;
}

int train(const Arguments& a, bool resume) {
  [[maybe_unused]] const std::optional<int> device = gpu(a);
  const Settings settings = training::read_settings(a);
  const xlstm::CheckpointConfig model = training::read_model(a);
  if (!a.has("tokenizer")) command_line::wrong_usage("--tokenizer is missing");
  const std::string tokenizer_json = xlstm::io::read_text_file(a.text("tokenizer"), std::size_t{1} << 28);
  Task task{&a, settings, model, tokenizer_json, xlstm::Tokenizer::parse(tokenizer_json, a.text("tokenizer")),
            {}, resume};
  const xlstm::Tokenizer& tokenizer = task.tokenizer;
  if (tokenizer.vocab_size() > task.model.model.vocab_size) {
    xlstm::fail(a.text("tokenizer"), ": ", tokenizer.vocab_size(), " tokens, but the model has a vocabulary of ",
                task.model.model.vocab_size);
  }
  const auto end_of_text = tokenizer.token_of("<|endoftext|>");
  if (!task.model.tokens.bos) task.model.tokens.bos = end_of_text;
  if (!task.model.tokens.eos) task.model.tokens.eos = end_of_text;

  int status = 0;
  const auto run = [&]<xlstm::ModelConfig config>() {
    using Network = xlstm::Network<config>;
    std::error_code error;
    std::filesystem::create_directories(task.file("checkpoints"), error);
    if (error) xlstm::io::fail_with_errno(task.file("checkpoints"), "cannot be created", error.value());
    const xlstm::io::DirectoryLock alone(settings.out);
    if (!resume) task.remember();  // a run killed while it reads the text goes on with --resume too
    const auto run_on = [&]<class B>(std::type_identity<B>, const typename B::Options& machine) {
      std::optional<Run<Network, B>> started;
      try {
        task.prepared = prepare(a, task);
        stop_on_signals();
        started.emplace(task, machine);
      } catch (...) {  // there is no run yet: the command may be given again, mended
        if (!resume) std::filesystem::remove(task.file("run.json"), error);
        throw;
      }
      status = started->go();
    };
#if defined(XLSTM_WITH_CUDA)
    if (device) {
      settings.bf16 ? run_on(std::type_identity<xlstm::cuda::Backend<xlstm::bf16>>(), {.device = *device})
                    : run_on(std::type_identity<xlstm::cuda::Backend<float>>(), {.device = *device});
      return;
    }
#endif
    settings.bf16 ? run_on(std::type_identity<xlstm::cpu::Backend<xlstm::bf16>>(), {.threads = settings.threads})
                  : run_on(std::type_identity<xlstm::cpu::Backend<float>>(), {.threads = settings.threads});
  };
  if (xlstm::dispatch<xlstm::compiled::Models>(task.model.model, run)) return status;
  if (a.has("preset")) {
    xlstm::fail("--preset ", a.text("preset"), ": this program was not compiled for it; compile again: cmake -S . -B ",
                "build -DXLSTM_PRESETS=\"160M;", a.text("preset"), "\" && cmake --build build");
  }
  const auto directory = std::filesystem::absolute(a.text("config")).lexically_normal().parent_path();
  xlstm::fail(a.text("config"), ": this program was not compiled for a model of this size; add it and compile again: ",
              "cmake -S . -B build -DXLSTM_MODELS=\"", directory.native(), "\" && cmake --build build");
}

int run(const Arguments& given, int argc, char** argv) {
  const std::filesystem::path run_json = std::filesystem::path(given.text("out")) / "run.json";
  std::error_code ignored;
  if (!given.has("resume")) {
    if (std::filesystem::exists(run_json, ignored)) {
      xlstm::fail(given.text("out"), ": a run is there already; continue it with --resume or name another directory");
    }
    training::refuse_models(given.text("out"));
    return train(given, false);
  }
  std::vector<std::string> all = training::with_stored_flags(run_json, given, argc, argv);
  std::vector<char*> pointers = {argv[0]};
  for (std::string& argument : all) pointers.push_back(argument.data());
  return train(Arguments(training::program, static_cast<int>(pointers.size()), pointers.data()), true);
}

}  // namespace

int main(int argc, char** argv) {
  return command_line::run_program(training::program, argc, argv,
                                   [&](const Arguments& arguments) { return run(arguments, argc, argv); });
}
