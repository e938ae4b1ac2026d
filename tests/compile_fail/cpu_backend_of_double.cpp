// expect: xlstm: a CPU backend stores weights as float, xlstm::bf16, xlstm::f16, xlstm::int8 or xlstm::int4;
// xlstm::reference::Backend<double> computes in double SPDX-License-Identifier: Apache-2.0
#include "xlstm/cpu/backend.hpp"

xlstm::cpu::Backend<double> backend;
