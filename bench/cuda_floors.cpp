// SPDX-License-Identifier: Apache-2.0
// What the kernels of include/xlstm/cuda cannot be faster than, at the sizes of the 7B (cuda_work.hpp): their bytes at
// the memory's bandwidth, or the products at the peak of the tensor cores, or the other operations at that of fp32,
// whichever takes longest. The tables of docs/cuda.md:
//   g++ -std=c++20 -Iinclude bench/cuda_floors.cpp -o cuda_floors && ./cuda_floors
#include <algorithm>
#include <cstdio>

#include "cuda_work.hpp"

namespace {

using xlstm::bench::KernelWork;
using xlstm::bench::Work;
namespace work_of_7b = xlstm::bench::work_of_7b;

/// The makers' figures: bytes a second, operations a second of dense bf16 products and of fp32.
struct Machine {
  const char* name;
  double bandwidth;
  double products = 989e12;
  double fp32 = 67e12;
};
constexpr Machine machines[] = {{"H100", 3.35e12}, {"H200", 4.8e12}};

double microseconds(const Machine& machine, const Work& work) {
  return 1e6 * std::max({work.bytes / machine.bandwidth, work.products / machine.products, work.fp32 / machine.fp32});
}

/// Three digits, or all before the point.
void cell(double x) { std::printf(x >= 100 ? " %.0f |" : " %.3g |", x); }

void table(const char* title, const std::vector<KernelWork>& rows) {
  std::printf("| %s | MB | Gop, fp32 | Gop, products |", title);
  for (const Machine& machine : machines) std::printf(" floor %s, µs |", machine.name);
  std::printf("\n|---|---:|---:|---:|---:|---:|\n");
  for (const auto& [kernel, work] : rows) {
    std::printf("| %s |", kernel.c_str());
    cell(work.bytes * 1e-6);
    cell(work.fp32 * 1e-9);
    cell(work.products * 1e-9);
    for (const Machine& machine : machines) cell(microseconds(machine, work));
    std::printf("\n");
  }
}

}  // namespace

int main() {
  table("kernel, 8 × 8192 tokens", work_of_7b::of_texts(8, 8192));
  std::printf("\n");
  table("kernel, one token of each session", work_of_7b::of_tokens());
  std::printf("\n");
  table("quantised weights, one token of each session", work_of_7b::of_quantized_weights());
  std::printf("\n");
  table("kernel, 10⁹ parameters, fp32", work_of_7b::of_parameters(1e9));
}
