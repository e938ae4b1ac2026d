// SPDX-License-Identifier: Apache-2.0
// Writes a checkpoint with the initial weights of training (xLSTM 7B's recipe). No model of its size has to be
// compiled, and the weights stream to the disk, so that one of 7 billion parameters needs some megabytes of memory.
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "command_line.hpp"
#include "xlstm/cpu/thread_pool.hpp"
#include "xlstm/io/checkpoint_writer.hpp"
#include "xlstm/io/config.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/model/presets.hpp"
#include "xlstm/model/published_tensors.hpp"
#include "xlstm/model/weights.hpp"

namespace {

using command_line::Arguments;
using xlstm::DType;
using xlstm::Index;

const command_line::Program program = {
    .name = "initialize",
    .purpose = "Writes a checkpoint in the published format to DIR, with the weights with which training starts.",
    .words = {"DIR"},
    .flags = {{"preset", "NAME", "a published size: 100M, 160M, 200M, ... 13B"},
              {"config", "FILE", "a config.json with the sizes"},
              {"dtype", "f32|bf16|f16", "type of the weights (f32)"},
              {"seed", "S", "the same seed gives the same weights (0)"},
              {"threads", "N", "how many threads (one for every core)"}},
    .notes =
        "A directory that holds weights or a configuration is refused. For text, put a tokenizer.json beside them."};

xlstm::CheckpointConfig read_config(const Arguments& arguments) {
  arguments.exclude("preset", "config");
  if (arguments.has("config")) {
    const std::string path = arguments.text("config");
    return xlstm::parse_checkpoint_config(xlstm::io::read_text_file(path, xlstm::io::max_config_bytes), path);
  }
  if (!arguments.has("preset")) command_line::wrong_usage("--preset or --config is missing");
  std::string names;
  for (const xlstm::presets::Preset& preset : xlstm::presets::all) {
    // The special tokens are those of the published checkpoint.
    if (preset.name == arguments.text("preset")) return {preset.config, {.bos = 0, .eos = 2, .pad = 1}};
    names += (names.empty() ? "" : ", ") + std::string(preset.name);
  }
  command_line::wrong_usage("--preset is \"", xlstm::io::printable(arguments.text("preset"), 60),
                            "\", expected one of ", names);
}

// Writes the initial values of one parameter as T, some pieces at a time, which the threads make.
template <class T>
void write_initial(xlstm::CheckpointWriter& writer, xlstm::cpu::ThreadPool& threads, std::vector<T>& buffer,
                   const std::string& name, const xlstm::InitialValues& values) {
  const Index at_once = static_cast<Index>(buffer.size()) / xlstm::InitialValues::piece;
  for (Index first = 0; first < values.pieces(); first += at_once) {
    const Index pieces = std::min(at_once, values.pieces() - first);
    threads.parallel_for(pieces, [&](Index i, int) {
      T* next = buffer.data() + i * xlstm::InitialValues::piece;
      values.make_piece(first + i, [&](double value) { *next++ = static_cast<T>(value); });
    });
    const Index count = (pieces - 1) * xlstm::InitialValues::piece + values.piece_size(first + pieces - 1);
    writer.write(name, std::as_bytes(std::span<const T>(buffer.data(), static_cast<std::size_t>(count))));
  }
}

template <class T>
void write_checkpoint(const Arguments& arguments, const xlstm::CheckpointConfig& config) {
  const auto seed = arguments.number<std::uint64_t>("seed", 0);
  const std::vector<xlstm::PublishedTensor> tensors = xlstm::published_tensors(config.model);
  std::vector<xlstm::io::TensorDeclaration> declarations;
  Index parameters = 0;
  for (const auto& tensor : tensors) {
    declarations.push_back({tensor.name, xlstm::io::safetensors_type(xlstm::dtype_of<T>), tensor.shape});
    parameters += tensor.count();
  }
  xlstm::CheckpointWriter writer(arguments.word(0), config.model, xlstm::dtype_of<T>, std::move(declarations),
                                 config.tokens);
  xlstm::cpu::ThreadPool threads(arguments.threads());
  std::vector<T> buffer(static_cast<std::size_t>(8 * threads.size() * xlstm::InitialValues::piece));
  for (const auto& tensor : tensors) {
    write_initial(writer, threads, buffer, tensor.name,
                  xlstm::InitialValues(tensor.name, tensor.initialization, tensor.count(), config.model.embedding_dim,
                                       config.model.num_blocks, seed));
  }
  writer.finish();
  command_line::say(arguments.word(0), ": ", parameters, " parameters written as ",
                    xlstm::safetensors_name(xlstm::dtype_of<T>));
}

int run(const Arguments& arguments) {
  const std::string dtype = arguments.choice("dtype", {"f32", "bf16", "f16"});
  const xlstm::CheckpointConfig config = read_config(arguments);
  if (dtype == "f32") write_checkpoint<float>(arguments, config);
  if (dtype == "bf16") write_checkpoint<xlstm::bf16>(arguments, config);
  if (dtype == "f16") write_checkpoint<xlstm::f16>(arguments, config);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return command_line::run_program(program, argc, argv, run); }
