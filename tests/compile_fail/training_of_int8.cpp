// expect: xlstm: quantised weights cannot be trained
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cpu/backend.hpp"

using Backend = xlstm::cpu::Backend<xlstm::int8>;
void backward(Backend& backend, const Backend::Weight<2, 2>& weight, xlstm::MatrixView<float, 2> x) {
  backend.linear_backward_input(x, weight, x, false);
}
