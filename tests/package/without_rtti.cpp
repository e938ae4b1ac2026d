// SPDX-License-Identifier: Apache-2.0
// The second translation unit: every header a second time, without run-time type information.
#include <xlstm/xlstm.hpp>

xlstm::Index heads_without_rtti() { return xlstm::presets::xlstm_7b.num_heads; }

bool throws_without_rtti() { xlstm::fail("a message from ", 2, " translation units"); }
