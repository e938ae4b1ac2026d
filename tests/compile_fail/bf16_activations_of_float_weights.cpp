// expect: xlstm: Bf16Activations are for weights in bf16
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cpu/backend.hpp"

xlstm::cpu::Backend<float, xlstm::cpu::Bf16Activations> backend;
