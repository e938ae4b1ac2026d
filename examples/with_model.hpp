// SPDX-License-Identifier: Apache-2.0
// From a checkpoint to the model that was compiled for it. A program is compiled for a list of sizes
// (xlstm/compiled_models.hpp, written by CMake from XLSTM_PRESETS and XLSTM_MODELS) and for the types in which weights
// may be stored; which of them runs, the checkpoint and --weights say. Compiled with CUDA (XLSTM_CUDA), models run on a
// GPU too, where --device says so.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <system_error>

#include "command_line.hpp"
#include "device.hpp"
#include "xlstm/compiled_models.hpp"
#include "xlstm/core/quantization.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/generate/session.hpp"
#include "xlstm/io/checkpoint.hpp"
#include "xlstm/io/load.hpp"

/// What --weights says in every program that has it.
inline constexpr std::string_view weights_help =
    "weights in memory: stored (as in the files; the default), f32, bf16, or rounded to int8 or int4";

/// What --activations says in every program that has it.
inline constexpr std::string_view activations_help =
    "bf16: round the inputs of products with bf16 weights, faster and less exact (float)";

/// --weights as the name of a type in memory. Error for quantised files that are wanted in another type.
inline std::string weights_type(const command_line::Arguments& arguments, const xlstm::Checkpoint& checkpoint) {
  const std::string choice = arguments.choice("weights", {"stored", "f32", "bf16", "int8", "int4"});
  const auto& quantization = checkpoint.quantization();
  if (quantization) {
    if (choice == "stored" || choice == quantization->name()) return std::string(quantization->name());
    xlstm::fail(xlstm::io::printable(checkpoint.directory().native()), ": the weights are quantised to ",
                quantization->name(), ", expected --weights stored or ", quantization->name());
  }
  if (choice != "stored") return choice;
  const xlstm::ModelConfig& config = checkpoint.config();
  const auto type = checkpoint.tensor("backbone.embeddings.weight", {config.vocab_size, config.embedding_dim}).dtype;
  return type == xlstm::DType::f32 ? "f32" : type == xlstm::DType::bf16 ? "bf16" : "f16";
}

/// Calls use(model) with the checkpoint's model, its weights and what they meet as --weights and --activations say, on
/// the device of --device. Error if
/// this program was not compiled for its size or the device.
template <class Use>
void with_model(const command_line::Arguments& arguments, const xlstm::Checkpoint& checkpoint, Use&& use) {
  const std::optional<int> device = gpu(arguments);
  const std::string type = weights_type(arguments, checkpoint);
  const bool rounded = arguments.choice("activations", {"float", "bf16"}) == "bf16";
  if (rounded && (device || type != "bf16")) {
    xlstm::fail("--activations bf16 with weights in ", type, device ? " on a GPU" : "",
                ", expected weights in bf16 on the CPU (--weights bf16)");
  }
  const auto run = [&]<xlstm::ModelConfig config>() {
#if defined(XLSTM_WITH_CUDA)
    const auto run_on_gpu = [&]<class W, bool known>() {
      if constexpr (known) {
        using Model = xlstm::LanguageModel<config, xlstm::cuda::Backend<W>>;
        use(Model::load(checkpoint, {.device = *device}));
      } else {
        xlstm::fail("this program was not compiled for weights in ", type, " on a GPU, expected one of ",
                    XLSTM_CUDA_WEIGHTS, " (--weights), or compile again with ", type, " in CMake's XLSTM_CUDA_WEIGHTS");
      }
    };
    if (device && type == "f32") return run_on_gpu.template operator()<float, known_on_gpu("f32")>();
    if (device && type == "f16") return run_on_gpu.template operator()<xlstm::f16, known_on_gpu("f16")>();
    if (device && type == "bf16") return run_on_gpu.template operator()<xlstm::bf16, known_on_gpu("bf16")>();
    if (device && type == "int8") return run_on_gpu.template operator()<xlstm::int8, known_on_gpu("int8")>();
    if (device) return run_on_gpu.template operator()<xlstm::int4, known_on_gpu("int4")>();
#endif
    const auto run_with = [&]<class W, class Activations = xlstm::cpu::FloatActivations>() {
      using Model = xlstm::LanguageModel<config, xlstm::cpu::Backend<W, Activations>>;
      using Network = typename Model::Network;
      use(Model(xlstm::load_weights<Network, typename Model::BackendType>(checkpoint, arguments.threads()),
                {.threads = arguments.threads()}));
    };
    if (type == "f32") return run_with.template operator()<float>();
    if (rounded) return run_with.template operator()<xlstm::bf16, xlstm::cpu::Bf16Activations>();
    if (type == "bf16") return run_with.template operator()<xlstm::bf16>();
    if (type == "int8") return run_with.template operator()<xlstm::int8, xlstm::cpu::Int8Activations>();
    if (type == "int4") return run_with.template operator()<xlstm::int4, xlstm::cpu::Int8Activations>();
    run_with.template operator()<xlstm::f16>();
  };
  if (xlstm::dispatch<xlstm::compiled::Models>(checkpoint.config(), run)) return;
  std::error_code ignored;
  const auto directory = std::filesystem::absolute(checkpoint.directory(), ignored).lexically_normal();
  xlstm::fail(xlstm::io::printable(checkpoint.directory().native()),
              ": this program was not compiled for a model of this size (there are ", xlstm::compiled::Models::size,
              " that it knows); add it and compile again: cmake -S . -B build ", "-DXLSTM_MODELS=\"",
              xlstm::io::printable(directory.native(), 4096), "\" && cmake --build build");
}
