// expect: xlstm: differences need double
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/nn/linear.hpp"
#include "xlstm/testing/gradient_check.hpp"

auto result() { return xlstm::testing::check_gradients<xlstm::Linear<2, 2>, xlstm::reference::Backend<float>>(); }
