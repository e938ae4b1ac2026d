// SPDX-License-Identifier: Apache-2.0
// What the machine can do, as machine.hpp measures it, and what compiled this, as one line of JSON.
//   machine [THREADS]
#include "machine.hpp"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

/// The compiler, and which of the processor's extensions it was told to use.
std::string compiler() {
#if defined(__clang__)
  return __VERSION__;
#else
  return std::string("g++ ") + __VERSION__;
#endif
}

std::string extensions() {
  std::string names;
#if defined(__AVX2__)
  names += " avx2";
#endif
#if defined(__AVX512F__)
  names += " avx512f";
#endif
#if defined(__AVX512VNNI__)
  names += " avx512_vnni";
#endif
#if defined(__AVX512BF16__)
  names += " avx512_bf16";
#endif
#if defined(__AMX_BF16__)
  names += " amx_bf16";
#endif
#if defined(__AMX_INT8__)
  names += " amx_int8";
#endif
  return names.empty() ? names : names.substr(1);
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const xlstm::bench::Machine machine(threads);
  std::printf(
      "{\"threads\": %d, \"GB/s\": %.1f, \"fp32 GFLOP/s\": %.0f, \"AMX bf16 GFLOP/s\": %.0f, \"AMX with loads "
      "GFLOP/s\": %.0f, \"AMX with loads and few registers GFLOP/s\": %.0f, \"VNNI int8 GOP/s\": %.0f, "
      "\"compiler\": \"%s\", \"compiled for\": \"%s\"}\n",
      threads, machine.bandwidth * 1e-9, machine.peak * 1e-9, machine.bf16_peak * 1e-9, machine.bf16_loaded * 1e-9,
      machine.bf16_few_registers * 1e-9, machine.byte_peak * 1e-9, compiler().c_str(), extensions().c_str());
}
