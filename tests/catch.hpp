// SPDX-License-Identifier: Apache-2.0
// Catch2 as Debian 12 has it (v2) or as Ubuntu 24.04 has it (v3).
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
using namespace Catch::Matchers;
#else
#include <catch2/catch.hpp>
using namespace Catch::Matchers;
#endif
