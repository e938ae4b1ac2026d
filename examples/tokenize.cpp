// SPDX-License-Identifier: Apache-2.0
// Standard input to token ids, or token ids back to text.
#include <string>

#include "command_line.hpp"
#include "token_ids.hpp"
#include "xlstm/text/tokenizer.hpp"

namespace {

const command_line::Program program = {
    .name = "tokenize",
    .purpose =
        "Reads a text on standard input and writes its token ids on one line, without bos; with --decode the\n"
        "reverse, byte by byte.",
    .words = {},
    .flags = {{"model", "DIR", "a directory with a tokenizer.json", command_line::Flag::Kind::required},
              {"decode", "", "token ids, decimal with blanks between, to text"}}};

int run(const command_line::Arguments& arguments) {
  const auto tokenizer = xlstm::Tokenizer::load(std::filesystem::path(arguments.text("model")) / "tokenizer.json");
  const std::string input = command_line::read_all();
  if (arguments.has("decode")) {
    command_line::print(tokenizer.decode(parse_ids(input, tokenizer.vocab_size(), "standard input")));
    return 0;
  }
  std::string line;
  for (const xlstm::Token token : tokenizer.encode(input)) line += (line.empty() ? "" : " ") + std::to_string(token);
  command_line::print(line + "\n");
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return command_line::run_program(program, argc, argv, run); }
