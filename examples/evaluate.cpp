// SPDX-License-Identifier: Apache-2.0
// How well a checkpoint's model predicts a text: −log p of every token given those before it, averaged.
#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "command_line.hpp"
#include "token_ids.hpp"
#include "with_model.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/io/safetensors_writer.hpp"
#include "xlstm/text/tokenizer.hpp"

namespace {

using command_line::Arguments;
using xlstm::Form;
using xlstm::Index;
using xlstm::Token;

const command_line::Program program = {
    .name = "evaluate",
    .purpose =
        "Mean negative log-likelihood (nats) per predicted token of a text under the model of the checkpoint in\n"
        "DIR, perplexity, and tokens per second.",
    .words = {},
    .flags = {{"model", "DIR", "a checkpoint: config.json, safetensors, tokenizer.json",
               command_line::Flag::Kind::required},
              {"text", "FILE", "a text; it is encoded and bos put before it"},
              {"ids", "FILE", "token ids, decimal, blanks between; each line is a sequence by itself"},
              {"path", "chunkwise|recurrent|parallel", "the form of the mLSTM that computes it (chunkwise)"},
              {"chunk-size", "N", "tokens of a chunk (the model's)"},
              {"weights", "stored|f32|bf16|int8|int4", weights_help},
              {"activations", "float|bf16", activations_help},
              {"logits", "FILE", "where to write the logits: tensors logits.K (S, vocab), F32, for line K from 0"},
              {"json", "", "the result as one JSON object"},
              {"device", "DEVICE", device_help},
              {"threads", "N", "how many threads (one for every core)"}},
    .notes =
        "A line's first token is not predicted. Lines of less than two tokens, empty ones too, count among the\n"
        "sequences but have no mean (null in JSON)."};

struct Sequence {
  std::vector<Token> tokens;
  double nll = 0;  // summed over the tokens from the second on
  Index predicted() const { return std::max<Index>(static_cast<Index>(tokens.size()) - 1, 0); }
};

// One sequence a line. The last line may end without a line feed.
std::vector<Sequence> read_ids(const std::string& path, Index vocab_size) {
  const std::string text = xlstm::io::read_text_file(path, command_line::largest_input);
  std::vector<Sequence> sequences;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    const std::string where = path + ": line " + std::to_string(sequences.size() + 1);
    sequences.push_back({parse_ids(line, vocab_size, where)});
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
  }
  return sequences;
}

std::vector<Sequence> read_text(const Arguments& arguments, const xlstm::Checkpoint& checkpoint) {
  const auto tokenizer = xlstm::Tokenizer::load(checkpoint.directory() / "tokenizer.json");
  const std::string text = xlstm::io::read_text_file(arguments.text("text"), command_line::largest_input);
  Sequence sequence{checkpoint.tokens().with_bos(tokenizer.encode(text))};
  for (const Token token : sequence.tokens) {
    if (token >= checkpoint.config().vocab_size) {
      xlstm::fail(arguments.text("text"), ": token ", token, " of the tokenizer is not in the model's vocabulary of ",
                  checkpoint.config().vocab_size);
    }
  }
  return {sequence};
}

// −log softmax(logits)[token].
double negative_log_likelihood(const float* logits, Index vocab_size, Token token) {
  const Eigen::Map<const Eigen::ArrayXf> row(logits, vocab_size);
  const float largest = row.maxCoeff();
  return std::log((row - largest).exp().cast<double>().sum()) + static_cast<double>(largest - row[token]);
}

struct Options {
  Form form;
  Index chunk_size;  // 0: the model's
};

// On the backend's threads, if it has some.
template <class Backend, class F>
void for_each_row(Backend& backend, Index rows, const F& f) {
  if constexpr (requires { backend.threads(); }) {
    backend.threads().parallel_for(rows, f);
  } else {
    xlstm::SerialExecutor().parallel_for(rows, f);
  }
}

// Scores a sequence from an empty state in slices, which bound the memory; the state goes from one to the next.
template <class Model>
void score(const Model& model, const Options& options, Index number, Sequence& sequence,
           xlstm::io::SafetensorsWriter* logits_file) {
  constexpr Index most = 2048;
  const Index chunk = options.form == Form::chunkwise ? std::clamp<Index>(options.chunk_size, 1, most) : 1;
  const Index slice = most / chunk * chunk;
  const auto lease = model.lease();
  auto state = model.new_state();
  auto* slot = state.data();
  const std::string name = "logits." + std::to_string(number);
  const std::span<const Token> tokens = sequence.tokens;
  const auto length = static_cast<Index>(tokens.size());
  std::vector<double> nll;
  for (Index begin = 0; begin < length; begin += slice) {
    const Index n = std::min(slice, length - begin);
    const xlstm::Run run{.length = n, .form = options.form, .chunk_size = options.chunk_size};
    const auto piece = tokens.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(n));
    model.run(*lease, run, piece, {&slot, 0}, Model::Rows::all, [&](Index first, auto logits) {
      const Index position = begin + first;
      const Index rows = std::min(logits.rows(), length - 1 - position);  // what the last token predicts is unknown
      nll.assign(static_cast<std::size_t>(logits.rows()), 0.0);
      const auto score_row = [&](Index r, int) {
        nll[static_cast<std::size_t>(r)] = negative_log_likelihood(logits.row(r), Model::vocab_size,
                                                                   tokens[static_cast<std::size_t>(position + r + 1)]);
      };
      for_each_row(*lease, rows, score_row);
      for (const double x : nll) sequence.nll += x;
      if (logits_file == nullptr) return;
      for (Index r = 0; r < logits.rows(); ++r) {
        logits_file->write(name, std::span<const float>(logits.row(r), static_cast<std::size_t>(Model::vocab_size)));
      }
    });
  }
}

std::unique_ptr<xlstm::io::SafetensorsWriter> open_logits(const Arguments& arguments,
                                                          const std::vector<Sequence>& sequences, Index vocab_size) {
  if (!arguments.has("logits")) return nullptr;
  std::vector<xlstm::io::TensorDeclaration> tensors;
  for (std::size_t k = 0; k < sequences.size(); ++k) {
    tensors.push_back({"logits." + std::to_string(k),
                       xlstm::io::SafetensorsType::f32,
                       {static_cast<Index>(sequences[k].tokens.size()), vocab_size}});
  }
  return std::make_unique<xlstm::io::SafetensorsWriter>(arguments.text("logits"), std::move(tensors));
}

// NaN (null in JSON) where nothing was predicted.
double mean(double sum, Index count) { return count > 0 ? sum / static_cast<double>(count) : std::nan(""); }

void report(const std::vector<Sequence>& sequences, double seconds, bool as_json) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  double nll = 0;
  Index tokens = 0, predicted = 0;
  for (const Sequence& s : sequences) {
    list.push_back({{"tokens", s.tokens.size()}, {"mean_nll", mean(s.nll, s.predicted())}});
    nll += s.nll;
    tokens += static_cast<Index>(s.tokens.size());
    predicted += s.predicted();
  }
  const double average = mean(nll, predicted);
  const double speed = seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
  if (as_json) {
    const nlohmann::ordered_json result = {{"sequences", std::move(list)},
                                           {"mean_nll", average},
                                           {"perplexity", std::exp(average)},
                                           {"tokens_per_second", speed}};
    command_line::print(result.dump() + "\n");
    return;
  }
  std::ostringstream text;
  text.precision(8);
  for (std::size_t k = 0; sequences.size() > 1 && k < sequences.size(); ++k) {
    text << "sequence " << k << ": " << sequences[k].tokens.size() << " tokens, mean NLL "
         << mean(sequences[k].nll, sequences[k].predicted()) << '\n';
  }
  text << "tokens " << tokens << ", mean NLL " << average << ", perplexity " << std::exp(average) << ", " << speed
       << " tokens/s\n";
  command_line::print(text.str());
}

int run(const Arguments& arguments) {
  arguments.exclude("text", "ids");
  if (!arguments.has("text") && !arguments.has("ids")) command_line::wrong_usage("--text or --ids is missing");
  const std::string path = arguments.choice("path", {"chunkwise", "recurrent", "parallel"});
  const Index chunk_size = arguments.number<Index>("chunk-size", 0, 1);
  const Form form = path == "chunkwise" ? Form::chunkwise : path == "recurrent" ? Form::recurrent : Form::parallel;
  if (arguments.has("chunk-size") && form != Form::chunkwise) {
    command_line::wrong_usage("--chunk-size goes with --path chunkwise, not with ", path);
  }
  const auto checkpoint = xlstm::Checkpoint::open(arguments.text("model"));
  const Options options{form, chunk_size > 0 ? chunk_size : checkpoint.config().chunk_size};
  std::vector<Sequence> sequences = arguments.has("ids")
                                        ? read_ids(arguments.text("ids"), checkpoint.config().vocab_size)
                                        : read_text(arguments, checkpoint);

  with_model(arguments, checkpoint, [&](const auto& model) {
    const auto logits_file = open_logits(arguments, sequences, model.vocab_size);
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t k = 0; k < sequences.size(); ++k) {
      score(model, options, static_cast<Index>(k), sequences[k], logits_file.get());
    }
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    if (logits_file != nullptr) logits_file->finish();
    report(sequences, time.count(), arguments.has("json"));
  });
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return command_line::run_program(program, argc, argv, run); }
