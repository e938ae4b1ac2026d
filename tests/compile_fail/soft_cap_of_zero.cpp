// expect: xlstm: a soft cap is a positive number; for no cap write xlstm::NoSoftCap
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cell/gates.hpp"

constexpr bool active = xlstm::SoftCap<0.0>::active;
