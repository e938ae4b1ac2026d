// SPDX-License-Identifier: Apache-2.0
// The flags of train, and the directory of a run, which remembers them:
//     run.json           the flags that the run was started with; --resume takes them from here
//     data/              the text as tokens
//     checkpoints/       parameters, moments and position, the newest few; and the model's config.json
//     metrics.jsonl, training.svg, and the result: config.json, model.safetensors, tokenizer.json
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "command_line.hpp"
#include "device.hpp"
#include "xlstm/io/config.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/model/presets.hpp"
#include "xlstm/text/tokenizer.hpp"
#include "xlstm/text/utf8.hpp"
#include "xlstm/train/schedule.hpp"
#include "xlstm/train/text_data.hpp"
#include "xlstm/train/trainer.hpp"
#include "xlstm/train/training_checkpoint.hpp"

namespace training {

using command_line::Arguments;
using command_line::Flag;
using xlstm::Index;

inline const command_line::Program program = {
    .name = "train",
    .purpose =
        "Trains a model on text. DIR gets a checkpoint in the published format, metrics, a plot, and what the run "
        "needs\n"
        "to go on: stopped or killed at any moment, it continues with train --resume --out DIR and ends with the same\n"
        "parameters, to the bit, on the same kind of machine. Ctrl-C saves and leaves.",
    .words = {},
    .flags = {{"out", "DIR", "the run's directory", Flag::Kind::required},
              {"config", "FILE", "the model's config.json"},
              {"preset", "NAME", "or one of the published sizes: 100M, 160M, ..., 13B"},
              {"tokenizer", "FILE", "tokenizer.json"},
              {"data", "FILE", "text, or JSON lines (.jsonl) with a \"text\"; may be given several times",
               Flag::Kind::repeated},
              {"documents", "end-of-text|blank-line|file",
               "what ends a document in a text file: <|endoftext|> (the default), a blank line, or its end alone"},
              {"resume", "", "continue from the newest whole checkpoint; flags given now replace those of the run"},
              {"steps", "N", "steps in all (1000)"},
              {"stop-after", "N", "save and leave after N steps of this process"},
              {"batch", "N", "sequences in a batch (8)"},
              {"length", "N", "tokens in a sequence (256)"},
              {"accumulate", "N", "batches in a step (1)"},
              {"ramp", "STEPS:N", "before that, STEPS steps of N batches; may be given several times",
               Flag::Kind::repeated},
              {"learning-rate", "R", "at its peak (5e-4)"},
              {"schedule", "exponential|cosine|constant", "how it decays, to a tenth (exponential)"},
              {"warmup", "N", "steps of linear warm-up (a twentieth of all, at most 3000)"},
              {"decay-steps", "N", "steps of decay (what the others leave)"},
              {"cooldown", "N", "steps of linear cool-down to zero (a twentieth of all, at most 7000)"},
              {"weight-decay", "X", "on weight matrices (0.1)"},
              {"beta1", "X", "of AdamW (0.9; the paper's table says 0.99)"},
              {"beta2", "X", "of AdamW (0.95)"},
              {"clip", "X", "the gradient's global norm is cut to this; 0: never (0.5)"},
              {"skip-above", "X", "a step with a larger gradient norm is skipped; 0: only if not finite (100)"},
              {"max-skips", "N", "more skipped steps in a row end the run (10)"},
              {"z-loss", "X", "coefficient of (log Z)^2 (0)"},
              {"weights", "f32|bf16", "type of the weights; bf16 keeps f32 masters (f32)"},
              {"export", "f32|bf16|f16", "type of the weight matrices of the result, from f32 weights (f32)"},
              {"seed", "N", "of initial values and shuffling (0)"},
              {"validation", "X", "fraction of the text kept for validation (0.01)"},
              {"validate-every", "N", "steps (250); 0: only at the end"},
              {"validation-batches", "N", "at most so many batches (16)"},
              {"sample-every", "N", "steps between samples of text; 0: none (250)"},
              {"sample-prompt", "TEXT", "what the samples continue"},
              {"save-every", "N", "steps between checkpoints (250)"},
              {"keep", "N", "checkpoints that stay (2)"},
              {"progress-every", "S", "seconds between progress lines where there is no terminal (10)"},
              {"device", "DEVICE", device_help},
              {"threads", "N", "how many threads of the CPU (one for every core)"}},
    .notes = "A preset or config must be one that this program was compiled for (docs/building.md)."};

/// Bytes of run.json.
inline constexpr std::size_t most_flags = std::size_t{1} << 28;

/// The flags of an earlier run of this directory that the command line doesn't give again, and then those that it
/// gives.
inline std::vector<std::string> with_stored_flags(const std::filesystem::path& run_json, const Arguments& given,
                                                  int argc, char** argv) {
  std::vector<std::string> all;
  const auto with_given = [&] {
    all.insert(all.end(), argv + 1, argv + argc);
    return all;
  };
  const std::string name = xlstm::io::printable(run_json.native());
  std::error_code ignored;
  if (!std::filesystem::exists(run_json, ignored)) {  // killed before there was one, or started elsewhere
    if (given.has("config") || given.has("preset")) return with_given();
    xlstm::fail(name, ": there is no run to resume");
  }
  const nlohmann::json json = xlstm::io::parse_json(xlstm::io::read_text_file(run_json, most_flags), name);
  if (!json.is_object()) xlstm::fail(name, " is ", xlstm::io::json_kind(json), ", expected an object");
  for (const auto& [flag, values] : json.items()) {
    const bool other_model = (flag == "config" && given.has("preset")) || (flag == "preset" && given.has("config"));
    if (given.has(flag) || other_model) continue;
    if (!values.is_array()) xlstm::fail(name, ": ", flag, " is ", xlstm::io::json_kind(values), ", expected an array");
    for (const auto& value : values) {
      all.push_back("--" + flag + "=" + xlstm::io::json_string(value, name + ": " + flag));
    }
  }
  return with_given();
}

/// What a later --resume needs to know: every flag given, but those about this one process.
inline void store_flags(const std::filesystem::path& run_json, const Arguments& arguments) {
  nlohmann::json json = nlohmann::json::object();
  for (const Flag& flag : program.flags) {
    const bool this_process = flag.name == "out" || flag.name == "resume" || flag.name == "stop-after" ||
                              flag.name == "threads" || flag.name == "progress-every";
    if (this_process || !arguments.has(flag.name)) continue;
    std::vector<std::string> values = arguments.all(flag.name);
    if (flag.name == "data" || flag.name == "config" || flag.name == "tokenizer") {
      for (std::string& value : values) value = std::filesystem::absolute(value).native();
    }
    for (const std::string& value : values) {
      if (xlstm::valid_utf8_prefix(value) != value.size()) {
        xlstm::fail("--", flag.name, " is \"", xlstm::io::printable(value),
                    "\", expected UTF-8: --resume finds it in run.json");
      }
    }
    json[std::string(flag.name)] = values;
  }
  xlstm::io::AtomicFile file(run_json);
  file.write(json.dump(2) + "\n");
  file.commit();
}

/// The fingerprint of the data in the newest checkpoint that has one; empty where there is none.
inline std::string data_of_checkpoint(const std::filesystem::path& checkpoints) {
  for (const auto& file : xlstm::TrainingCheckpoints(checkpoints, 1).list()) {
    try {
      const nlohmann::json json = xlstm::io::parse_json(xlstm::read_run_state(file).configuration, file.native());
      const nlohmann::json* data = json.is_object() ? xlstm::io::find_key(json, "data") : nullptr;
      if (data != nullptr && data->is_string()) return data->get<std::string>();
    } catch (const xlstm::Error&) {  // who reads the checkpoint tells of it
    }
  }
  return {};
}

/// Error if a new run in this directory would write over a model or checkpoints.
inline void refuse_models(const std::filesystem::path& out) {
  std::error_code ignored;
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"}) {
    if (std::filesystem::exists(out / name, ignored)) {
      xlstm::fail(xlstm::io::printable((out / name).native()), ": is there already; name another directory");
    }
  }
  const std::filesystem::path checkpoints = out / "checkpoints";
  if (!std::filesystem::is_directory(checkpoints, ignored)) return;
  if (!xlstm::TrainingCheckpoints(checkpoints, 1).list().empty()) {
    xlstm::fail(xlstm::io::printable(checkpoints.native()),
                ": the checkpoints of a run are there already; name another directory");
  }
}

/// What of a run is not as in its checkpoint, both the text of a JSON object: "weights is "f32", expected "bf16"".
inline std::string difference(const std::string& now, const std::string& in_checkpoint) {
  const nlohmann::json found = xlstm::io::parse_json(now, "the run");
  const nlohmann::json expected = xlstm::io::parse_json(in_checkpoint, "the checkpoint's configuration");
  std::string text;
  for (const auto& [key, value] : found.items()) {
    const nlohmann::json* other = expected.is_object() ? xlstm::io::find_key(expected, key) : nullptr;
    if (other != nullptr && *other == value) continue;
    text += (text.empty() ? "" : ", ") + key;
    if (key == "config" || key == "data") {
      text += " is another one";
    } else {
      text += " is " + value.dump() + ", expected " + (other != nullptr ? other->dump() : "nothing");
    }
  }
  return text;
}

/// The flags as values.
struct Settings {
  std::filesystem::path out;
  Index steps, stop_after, batch, length, accumulate;
  std::vector<xlstm::RampStage> ramp;
  xlstm::Schedule schedule;
  xlstm::TrainerOptions trainer;
  std::uint64_t seed;
  double validation;
  Index validate_every, validation_batches, sample_every, save_every, keep;
  std::string sample_prompt;
  double progress_every;
  bool bf16;
  xlstm::DType exported;
  int threads;
};

inline Settings read_settings(const Arguments& a) {
  Settings s;
  s.out = a.text("out");
  constexpr Index most_steps = 1'000'000'000'000;
  s.steps = a.number<Index>("steps", 1000, 1, most_steps);
  s.stop_after = a.number<Index>("stop-after", 0, 0);
  s.batch = a.number<Index>("batch", 8, 1, 1 << 20);
  s.length = a.number<Index>("length", 256, 1, 1 << 24);
  s.accumulate = a.number<Index>("accumulate", 1, 1);
  for (const std::string& stage : a.all("ramp")) {
    const std::size_t colon = stage.find(':');
    const auto steps = command_line::parse_number<Index>(std::string_view(stage).substr(0, colon));
    const auto batches = colon == std::string::npos
                             ? std::nullopt
                             : command_line::parse_number<Index>(std::string_view(stage).substr(colon + 1));
    if (!steps || !batches || *steps < 1 || *batches < 1) {
      command_line::wrong_usage("--ramp is \"", xlstm::io::printable(stage, 60), "\", expected STEPS:N such as 2000:4");
    }
    s.ramp.push_back({*steps, *batches});
  }
  const std::string decay = a.choice("schedule", {"exponential", "cosine", "constant"});
  s.schedule.decay = decay == "cosine"     ? xlstm::Decay::cosine
                     : decay == "constant" ? xlstm::Decay::constant
                                           : xlstm::Decay::exponential;
  s.schedule.peak = a.number<double>("learning-rate", 5e-4, 1e-12, 10.0);
  s.schedule.warmup_steps = a.number<Index>("warmup", std::min<Index>(s.steps / 20, 3000), 0, most_steps);
  s.schedule.cooldown_steps = a.number<Index>("cooldown", std::min<Index>(s.steps / 20, 7000), 0, most_steps);
  const Index rest = std::max<Index>(0, s.steps - s.schedule.warmup_steps - s.schedule.cooldown_steps);
  s.schedule.decay_steps = a.number<Index>("decay-steps", rest, 0, most_steps);
  s.schedule.check();
  s.trainer.optimizer.weight_decay = a.number<double>("weight-decay", 0.1, 0.0);
  s.trainer.optimizer.beta1 = a.number<double>("beta1", 0.9, 0.0, 0.999999);
  s.trainer.optimizer.beta2 = a.number<double>("beta2", 0.95, 0.0, 0.999999);
  s.trainer.clip = a.number<double>("clip", 0.5, 0.0);
  s.trainer.skip_above = a.number<double>("skip-above", 100, 0.0);
  s.trainer.max_consecutive_skips = a.number<Index>("max-skips", 10, 0);
  s.trainer.loss.z_loss = a.number<double>("z-loss", 0, 0.0);
  s.bf16 = a.choice("weights", {"f32", "bf16"}) == "bf16";
  const std::string exported = a.choice("export", {"f32", "bf16", "f16"});
  if (s.bf16 && a.has("export") && exported != "bf16") {
    command_line::wrong_usage("--export is ", exported, ", expected bf16: with --weights bf16 the result has those");
  }
  s.exported = exported == "bf16" ? xlstm::DType::bf16 : exported == "f16" ? xlstm::DType::f16 : xlstm::DType::f32;
  s.seed = a.number<std::uint64_t>("seed", 0);
  s.validation = a.number<double>("validation", 0.01, 0.0, 0.9);
  s.validate_every = a.number<Index>("validate-every", 250, 0);
  s.validation_batches = a.number<Index>("validation-batches", 16, 1);
  s.sample_every = a.number<Index>("sample-every", 250, 0);
  s.sample_prompt = a.text("sample-prompt");
  s.save_every = a.number<Index>("save-every", 250, 1);
  s.keep = a.number<Index>("keep", 2, 1, 100000);
  s.progress_every = a.number<double>("progress-every", 10, 0.0);
  s.threads = a.threads();
  return s;
}

/// The model to train and its special tokens, from --config or --preset.
inline xlstm::CheckpointConfig read_model(const Arguments& a) {
  a.exclude("config", "preset");
  if (a.has("config")) {
    const std::filesystem::path file = a.text("config");
    const std::string text = xlstm::io::read_text_file(file, xlstm::io::max_config_bytes);
    return xlstm::parse_checkpoint_config(text, file.native());
  }
  if (!a.has("preset")) command_line::wrong_usage("--config or --preset is missing");
  std::string names;
  for (const auto& preset : xlstm::presets::all) {
    if (preset.name == a.text("preset")) return {preset.config, {}, {}};
    names += (names.empty() ? "" : ", ") + std::string(preset.name);
  }
  command_line::wrong_usage("--preset is \"", xlstm::io::printable(a.text("preset"), 60), "\", expected one of ",
                            names);
}

}  // namespace training
