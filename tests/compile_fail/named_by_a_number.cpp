// expect: xlstm: a module's name must not be a number: those are for modules without a name
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/nn/identity.hpp"
#include "xlstm/nn/named.hpp"

constexpr xlstm::Index size = xlstm::Named<"0", xlstm::Identity<8>>::state_size;
