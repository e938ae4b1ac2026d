// SPDX-License-Identifier: Apache-2.0
// Learns a byte-level BPE tokenizer from text and writes it as tokenizer.json.
#include <string>
#include <string_view>

#include "command_line.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/io/json.hpp"
#include "xlstm/text/bpe_trainer.hpp"
#include "xlstm/train/text_data.hpp"

namespace {

using command_line::Flag;

const command_line::Program program = {
    .name = "train_tokenizer",
    .purpose =
        "Learns a byte-level BPE tokenizer from text (files, or JSON lines with a \"text\") and writes "
        "tokenizer.json.\n"
        "Its first token is <|endoftext|>, which train puts before and after every document.",
    .words = {},
    .flags = {{"data", "FILE", "text, or JSON lines (.jsonl); may be given several times", Flag::Kind::repeated},
              {"vocab-size", "N", "tokens in all, at least 257", Flag::Kind::required},
              {"out", "FILE", "the tokenizer.json to write", Flag::Kind::required},
              {"min-frequency", "N", "rarer pairs are not merged (2)"}}};

int run(const command_line::Arguments& a) {
  const auto files = a.all("data");
  if (files.empty()) command_line::wrong_usage("--data is missing");
  xlstm::BpeTrainer trainer({.vocab_size = a.number<xlstm::Index>("vocab-size", 0, 257),
                             .min_frequency = a.number<xlstm::Index>("min-frequency", 2, 1)});
  command_line::require_writable(a.text("out"));
  const auto add = [&](std::string_view text, bool) { trainer.add(text); };
  for (const std::string& file : files) {
    xlstm::for_each_document(file, xlstm::DocumentEnd::end_of_text, add);
    command_line::say("read ", xlstm::io::printable(file));
  }
  trainer.train_to(a.text("out"));
  command_line::say("wrote ", xlstm::io::printable(a.text("out")));
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return command_line::run_program(program, argc, argv, run); }
