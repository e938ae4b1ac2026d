// SPDX-License-Identifier: Apache-2.0
// From a checkpoint to the model that was compiled for it. A program is compiled for a list of sizes
// (xlstm/compiled_models.hpp, written by CMake from XLSTM_PRESETS and XLSTM_MODELS) and for the types in which weights
// may be stored; which of them runs, the checkpoint and --weights say.
#pragma once

#include <filesystem>
#include <string>
#include <system_error>

#include "command_line.hpp"
#include "xlstm/compiled_models.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/generate/session.hpp"
#include "xlstm/io/checkpoint.hpp"
#include "xlstm/io/load.hpp"

/// What --weights says in every program that has it.
inline constexpr std::string_view weights_help =
    "type of the weights in memory: stored (as in the files; the default), f32 or bf16";

/// --weights as a type in memory. UsageError for a type that this build doesn't have.
inline xlstm::DType weights_type(const command_line::Arguments& arguments, const xlstm::Checkpoint& checkpoint) {
  const std::string choice = arguments.choice("weights", {"stored", "f32", "bf16", "int8", "int4"});
  if (choice == "int8" || choice == "int4") {
    command_line::wrong_usage("--weights ", choice, ": this build has no such format, expected stored, f32 or bf16");
  }
  if (choice == "f32") return xlstm::DType::f32;
  if (choice == "bf16") return xlstm::DType::bf16;
  const xlstm::ModelConfig& config = checkpoint.config();
  return checkpoint.tensor("backbone.embeddings.weight", {config.vocab_size, config.embedding_dim}).dtype;
}

/// Calls use(model) with the checkpoint's model, its weights as --weights says. Error if this program was not compiled
/// for its size.
template <class Use>
void with_model(const command_line::Arguments& arguments, const xlstm::Checkpoint& checkpoint, Use&& use) {
  const xlstm::DType type = weights_type(arguments, checkpoint);
  const auto run = [&]<xlstm::ModelConfig config>() {
    const auto run_with = [&]<class W>() {
      using Model = xlstm::LanguageModel<config, xlstm::cpu::Backend<W>>;
      use(Model(xlstm::load_weights<typename Model::Network, typename Model::BackendType>(checkpoint),
                {.threads = arguments.threads()}));
    };
    if (type == xlstm::DType::f32) return run_with.template operator()<float>();
    if (type == xlstm::DType::bf16) return run_with.template operator()<xlstm::bf16>();
    run_with.template operator()<xlstm::f16>();
  };
  if (xlstm::dispatch<xlstm::compiled::Models>(checkpoint.config(), run)) return;
  std::error_code ignored;
  const auto directory = std::filesystem::absolute(checkpoint.directory(), ignored).lexically_normal();
  xlstm::fail(checkpoint.directory().string(), ": this program was not compiled for a model of this size (there are ",
              xlstm::compiled::Models::size, " that it knows); add it and compile again: cmake -S . -B build ",
              "-DXLSTM_MODELS=\"", directory.string(), "\" && cmake --build build");
}
