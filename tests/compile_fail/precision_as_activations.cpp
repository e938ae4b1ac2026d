// expect: its precision comes after them
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cpu/backend.hpp"

xlstm::cpu::Backend<float, xlstm::cpu::HighPrecision> backend;
