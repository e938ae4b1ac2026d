// SPDX-License-Identifier: Apache-2.0
// Where a program computes: --device. Compiled with CUDA (XLSTM_CUDA), programs know GPUs.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "command_line.hpp"
#include "xlstm/core/error.hpp"
#include "xlstm/io/printable.hpp"
#if defined(XLSTM_WITH_CUDA)
#include "xlstm/cuda/backend.hpp"
#include "xlstm/cuda/runtime.hpp"
#endif

/// What --device says in every program that has it.
inline constexpr std::string_view device_help = "where to compute: cpu (the default), cuda or cuda:N, the Nth GPU";

#if defined(XLSTM_CUDA_WEIGHTS)
/// Whether this program was compiled for weights of that name on a GPU (CMake's XLSTM_CUDA_WEIGHTS, with blanks).
constexpr bool known_on_gpu(std::string_view weights) {
  std::string_view rest = XLSTM_CUDA_WEIGHTS;
  while (!rest.empty()) {
    const std::string_view word = rest.substr(0, rest.find(' '));
    if (word == weights) return true;
    rest.remove_prefix(word.size() < rest.size() ? word.size() + 1 : word.size());
  }
  return false;
}
#endif

/// --device: the number of a GPU, or none for the CPU. UsageError for anything else; Error where this program knows no
/// GPU.
inline std::optional<int> gpu(const command_line::Arguments& arguments) {
  const std::string device = arguments.text("device", "cpu");
  if (device == "cpu") return std::nullopt;
  const auto number = device == "cuda" ? std::optional(0)
                                       : command_line::parse_number<int>(device.starts_with("cuda:") ? device.substr(5)
                                                                                                     : std::string());
  if (!number || *number < 0) {
    command_line::wrong_usage("--device is \"", xlstm::io::printable(device, 60), "\", expected cpu, cuda or cuda:N");
  }
#if !defined(XLSTM_WITH_CUDA)
  xlstm::fail("--device ", device, ": this program was compiled without CUDA, expected --device cpu; ",
              "compile again with cmake -S . -B build -DXLSTM_CUDA=ON");
#endif
  return number;
}
