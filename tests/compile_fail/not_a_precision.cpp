// expect: xlstm: a CPU backend's precision is HighestPrecision or HighPrecision
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cpu/backend.hpp"

xlstm::cpu::Backend<float, xlstm::cpu::FloatActivations, int> backend;
