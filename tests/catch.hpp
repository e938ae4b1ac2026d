// SPDX-License-Identifier: Apache-2.0
// Catch2 as Debian 12 has it (v2) or as Ubuntu 24.04 has it (v3).
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
using namespace Catch::Matchers;
#else
#include <catch2/catch.hpp>
// Not the whole namespace: its Approx, for vectors, would hide the one for numbers.
using Catch::Matchers::Contains;
using Catch::Matchers::EndsWith;
using Catch::Matchers::Equals;
using Catch::Matchers::Matches;
using Catch::Matchers::Message;
using Catch::Matchers::StartsWith;
using Catch::Matchers::WithinAbs;
using Catch::Matchers::WithinRel;
#endif
