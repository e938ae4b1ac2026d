// SPDX-License-Identifier: Apache-2.0
// Whether AMX is used; what it computes is tested where it is used (matrix_product.cpp, linear.cpp,
// chunk_products.cpp).
#include "xlstm/cpu/amx.hpp"

#include <cstdlib>
#include <string_view>

#include "catch.hpp"

#if defined(XLSTM_SIMD_AMX)

TEST_CASE("XLSTM_AMX=0 in the environment leaves AMX out, for good") {
  const char* const wanted = std::getenv("XLSTM_AMX");
  const bool at_start = xlstm::cpu::amx::permitted();
  if (wanted != nullptr && std::string_view(wanted) == "0") CHECK_FALSE(at_start);
  setenv("XLSTM_AMX", at_start ? "0" : "1", 1);
  CHECK(xlstm::cpu::amx::permitted() == at_start);
  if (wanted == nullptr) unsetenv("XLSTM_AMX");
}

#endif
