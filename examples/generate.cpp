// SPDX-License-Identifier: Apache-2.0
// Continues a text with a checkpoint's model and streams what it writes.
#include "xlstm/generate/generation.hpp"

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "command_line.hpp"
#include "token_ids.hpp"
#include "with_model.hpp"
#include "xlstm/generate/session_file.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/text/stop_text.hpp"
#include "xlstm/text/stream_decoder.hpp"
#include "xlstm/text/tokenizer.hpp"

namespace {

using command_line::Arguments;
using command_line::print;
using xlstm::Index;
using xlstm::Token;
using Clock = std::chrono::steady_clock;

const command_line::Program program = {
    .name = "generate",
    .purpose =
        "Continues a text with the model of the checkpoint in DIR and writes the continuation, as it comes, as\n"
        "valid UTF-8. Ends after N tokens, at the model's eos token or at a stop text (neither is written).",
    .words = {},
    .flags = {{"model", "DIR", "a checkpoint: config.json, safetensors, tokenizer.json",
               command_line::Flag::Kind::required},
              {"prompt", "TEXT", "what to continue; without it and --prompt-file, standard input"},
              {"prompt-file", "FILE", "a file with the prompt"},
              {"max-tokens", "N", "how many tokens at most (256)"},
              {"temperature", "T", "0 (the default): always the likeliest token; 1: as likely as the model says"},
              {"top-k", "K", "draw from the K likeliest tokens; 0: from all (the default)"},
              {"top-p", "P", "draw from the likeliest that together have this probability (1)"},
              {"min-p", "P", "draw from those at least this fraction as likely as the likeliest (0)"},
              {"repetition-penalty", "R", "above 1: tokens that occurred become less likely (1)"},
              {"seed", "S", "the same seed gives the same text (0)"},
              {"stop", "TEXT", "end before this text; may be given several times", command_line::Flag::Kind::repeated},
              {"ids", "", "prompt and output are token ids, decimal numbers with blanks between; no bos is added"},
              {"weights", "stored|f32|bf16|int8|int4", weights_help},
              {"activations", "float|bf16", activations_help},
              {"save-session", "FILE", "where to save the conversation when it has ended"},
              {"load-session", "FILE", "continue a saved conversation; no bos is put before the prompt"},
              {"device", "DEVICE", device_help},
              {"threads", "N", "how many threads (one for every core)"}},
    .notes =
        "With --load-session the prompt may be empty: the conversation goes on where it ended. A saved conversation "
        "has\n"
        "taken in every token that was made, those of a stop text too."};

std::string read_prompt(const Arguments& arguments) {
  arguments.exclude("prompt", "prompt-file");
  if (arguments.has("prompt")) return arguments.text("prompt");
  if (arguments.has("prompt-file")) {
    return xlstm::io::read_text_file(arguments.text("prompt-file"), command_line::largest_input);
  }
  return command_line::read_all();
}

xlstm::GenerationOptions read_options(const Arguments& arguments, const xlstm::TokenIds& tokens) {
  xlstm::GenerationOptions options;
  options.max_tokens = arguments.number<Index>("max-tokens", 256, 0);
  options.sampling.temperature = arguments.number<double>("temperature", 0, 0.0);
  options.sampling.top_k = arguments.number<Index>("top-k", 0, 0);
  options.sampling.top_p = arguments.positive("top-p", 1, 1);
  options.sampling.min_p = arguments.number<double>("min-p", 0, 0.0, 1.0);
  options.sampling.repetition_penalty = arguments.positive("repetition-penalty", 1);
  options.sampling.seed = arguments.number<std::uint64_t>("seed", 0);
  options.stop_tokens = tokens.stop_tokens();
  return options;
}

// Tokens to what is printed: text up to the first stop text, or numbers.
class Printer {
 public:
  Printer(const xlstm::Tokenizer* tokenizer, std::vector<std::string> stop_texts) : stop_(std::move(stop_texts)) {
    if (tokenizer != nullptr) decoder_.emplace(*tokenizer);
  }
  // False when a stop text has come.
  bool put(Token token) {
    if (decoder_) {
      print(stop_.push(decoder_->push(token)));
    } else {
      print((first_ ? "" : " ") + std::to_string(token));
      first_ = false;
    }
    return !stop_.stopped();
  }
  void finish() {
    if (decoder_) {
      if (!stop_.stopped()) print(stop_.push(decoder_->finish()));
      if (!stop_.stopped()) print(stop_.finish());
    }
    if (!decoder_ || ::isatty(STDOUT_FILENO) != 0) print("\n");
  }

 private:
  std::optional<xlstm::StreamDecoder> decoder_;
  xlstm::StopTexts stop_;
  bool first_ = true;
};

double seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

int run(const Arguments& arguments) {
  const bool ids = arguments.has("ids");
  if (ids && arguments.has("stop")) command_line::wrong_usage("--stop needs text, which --ids excludes");
  for (const std::string& stop : arguments.all("stop")) {
    if (stop.empty()) command_line::wrong_usage("--stop is empty, expected at least one character");
  }
  const std::filesystem::path directory = arguments.text("model");
  const auto checkpoint = xlstm::Checkpoint::open(directory);
  const xlstm::GenerationOptions options = read_options(arguments, checkpoint.tokens());
  std::optional<xlstm::Tokenizer> tokenizer;
  if (!ids) tokenizer = xlstm::Tokenizer::load(directory / "tokenizer.json");
  Printer printer(tokenizer ? &*tokenizer : nullptr, arguments.all("stop"));

  with_model(arguments, checkpoint, [&](const auto& model) {
    auto session =
        arguments.has("load-session") ? xlstm::load_session(model, arguments.text("load-session")) : model.session();
    if (arguments.has("save-session")) command_line::require_writable(arguments.text("save-session"));
    const std::string text = read_prompt(arguments);
    std::vector<Token> prompt = ids ? parse_ids(text, model.vocab_size, "prompt") : tokenizer->encode(text);
    if (!ids && !arguments.has("load-session")) prompt = checkpoint.tokens().with_bos(std::move(prompt));

    const auto start = Clock::now();
    auto tokens = session.generate(prompt, options);
    const auto prompt_read = Clock::now();
    auto first_token = prompt_read;
    for (const Token token : tokens) {
      if (tokens.count() == 1) first_token = Clock::now();
      if (!printer.put(token)) break;
    }
    const auto end = Clock::now();
    printer.finish();
    if (arguments.has("save-session")) xlstm::save_session(session, arguments.text("save-session"));

    const auto rate = [](auto count, double time) { return time > 0 ? static_cast<double>(count) / time : 0.0; };
    command_line::say("prompt: ", prompt.size(), " tokens, ", rate(prompt.size(), seconds(start, prompt_read)),
                      " tokens/s; generated: ", tokens.count(), " tokens, ",
                      rate(tokens.count(), seconds(prompt_read, end)), " tokens/s; first token after ",
                      seconds(start, first_token), " s");
  });
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return command_line::run_program(program, argc, argv, run); }
