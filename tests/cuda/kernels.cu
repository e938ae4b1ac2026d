// SPDX-License-Identifier: Apache-2.0
// The kernels as an NVIDIA GPU runs them; compiled for nothing but the compiler's judgement (scripts/kernels.sh). For
// a host's compiler it is the program that lists each kernel with its threads and bytes of shared memory.
#include "kernels.hpp"

#if defined(__CUDACC__)

/// The kernels' entries, which are thereby compiled.
int count_entries() {
  int count = 0;
  xlstm::tests::AllKernels::for_each([&]<class K>() { count += &xlstm::cuda::run_kernel<K> != nullptr ? 1 : 0; });
  return count;
}

#else

#include <cxxabi.h>

#include <cstdio>
#include <cstdlib>
#include <typeinfo>

int main() {
  xlstm::tests::AllKernels::for_each([]<class K>() {
    char* name = abi::__cxa_demangle(typeid(K).name(), nullptr, nullptr, nullptr);
    std::printf("%s\t%d\t%td\n", name, K::threads, xlstm::cuda::SharedOf<K>::bytes);
    std::free(name);
  });
}

#endif
