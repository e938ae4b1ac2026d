// SPDX-License-Identifier: Apache-2.0
// Writes a checkpoint with 8 or 4 bits a weight (docs/quantization.md). No model of its size has to be compiled, and
// the weights stream from file to file.
#include <string>

#include "command_line.hpp"
#include "xlstm/core/quantization.hpp"
#include "xlstm/cpu/thread_pool.hpp"
#include "xlstm/io/checkpoint.hpp"
#include "xlstm/io/quantize_checkpoint.hpp"

namespace {

using command_line::Arguments;

const command_line::Program program = {
    .name = "quantize",
    .purpose =
        "Writes the checkpoint of one directory with quantised weights to another. generate and evaluate use it\n"
        "as it lies in the file.",
    .words = {},
    .flags = {{"model", "DIR", "a checkpoint: config.json, safetensors, tokenizer.json",
               command_line::Flag::Kind::required},
              {"out", "DIR", "where to write it; created if need be", command_line::Flag::Kind::required},
              {"weights", "int8|int4", "the format", command_line::Flag::Kind::required},
              {"threads", "N", "how many threads (one for every core)"}},
    .notes = "A directory that holds weights or a configuration is refused."};

int run(const Arguments& arguments) {
  const std::string format = arguments.choice("weights", {"int8", "int4"});
  const auto checkpoint = xlstm::Checkpoint::open(arguments.text("model"));
  xlstm::cpu::ThreadPool threads(arguments.threads());
  const auto write = [&]<class F>(F) {
    xlstm::quantize_checkpoint<F>(checkpoint, arguments.text("out"), threads);
    command_line::say(arguments.text("out"), ": written as ", F::name, " in groups of ", F::group_size);
  };
  if (format == "int8") write(xlstm::int8{});
  if (format == "int4") write(xlstm::int4{});
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return command_line::run_program(program, argc, argv, run); }
