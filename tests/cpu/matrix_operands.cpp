// SPDX-License-Identifier: Apache-2.0
// Which memory a piece of a product's right-hand side takes, for those who ask for it early.
#include "xlstm/cpu/matrix_operands.hpp"

#include <vector>

#include "catch.hpp"
#include "xlstm/core/element.hpp"
#include "xlstm/cpu/linear.hpp"
#include "xlstm/cpu/prefetch.hpp"
#include "xlstm/cpu/quantized_rows.hpp"

using namespace xlstm;

namespace {

void check(const cpu::MemoryRows& memory, const void* data, Index row_bytes, Index stride, Index rows) {
  CHECK(memory.data == data);
  CHECK(memory.row_bytes == row_bytes);
  CHECK(memory.stride == stride);
  CHECK(memory.rows == rows);
}

}  // namespace

TEST_CASE("a piece of B is columns of stored rows, and the other way round where B is transposed") {
  const std::vector<float> values(10 * 7);
  const cpu::PlainRows<float> rows{values.data(), 7};
  // Rows 2, 3, 4 and columns 1, …, 5 of what is stored.
  check(cpu::PlainB<cpu::PlainRows<float>>{rows}.memory(2, 3, 1, 5), values.data() + 2 * 7 + 1, 20, 28, 3);
  check(cpu::TransposedB<cpu::PlainRows<float>>{rows}.memory(1, 5, 2, 3), values.data() + 2 * 7 + 1, 20, 28, 3);
  check(cpu::AnyWeightRows(rows).memory(1, 5, 2, 3), values.data() + 2 * 7 + 1, 20, 28, 3);
  // The last row, to its end.
  check(cpu::AnyWeightRows(rows).memory(3, 4, 9, 1), values.data() + 9 * 7 + 3, 16, 0, 1);
}

TEST_CASE("elements of fewer bits take less memory") {
  const std::vector<bf16> halves(4 * 64);
  check(cpu::AnyWeightRows(cpu::PlainRows<bf16>{halves.data(), 64}).memory(32, 32, 1, 3), halves.data() + 64 + 32, 64,
        128, 3);
  const std::vector<std::uint8_t> codes(4 * 32);
  const std::vector<bf16> scales(4);
  check(cpu::AnyWeightRows(cpu::Int4Rows<64>{codes.data(), scales.data(), 32, 1}).memory(32, 32, 1, 3),
        codes.data() + 32 + 16, 16, 32, 3);
}

TEST_CASE("a piece of no rows or no columns takes no memory") {
  const std::vector<float> values(3 * 4);
  const cpu::PlainRows<float> rows{values.data(), 4};
  check(cpu::AnyWeightRows(rows).memory(0, 0, 0, 3), nullptr, 0, 0, 0);
  check(cpu::AnyWeightRows(rows).memory(0, 4, 3, 0), nullptr, 0, 0, 0);
}
