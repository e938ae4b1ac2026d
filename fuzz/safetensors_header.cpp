// SPDX-License-Identifier: Apache-2.0
// Any bytes as a safetensors file: either an Error, or tensors that lie inside the bytes and survive being written.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/io/safetensors.hpp"
#include "xlstm/io/safetensors_writer.hpp"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace xlstm::io;
  const std::span<const std::byte> file = std::as_bytes(std::span(data, size));
  try {
    const SafetensorsHeader header = parse_safetensors_header(file, "fuzz");
    std::size_t covered = 0;
    std::size_t sum = 0;
    std::vector<TensorDeclaration> declarations;
    for (const auto& [name, tensor] : header.tensors) {
      require(tensor.bytes.empty() || (tensor.bytes.data() >= file.data() + safetensors_prefix &&
                                       tensor.bytes.data() + tensor.bytes.size() <= file.data() + size));
      require(element_count(tensor.shape, size_of(tensor.type)).value() * size_of(tensor.type) == tensor.bytes.size());
      for (const std::byte b : tensor.bytes) sum += std::to_integer<std::size_t>(b);
      covered += tensor.bytes.size();
      declarations.push_back({name, SafetensorsType::u8, {static_cast<xlstm::Index>(tensor.bytes.size())}});
    }
    require(covered <= size);
    std::string copy = safetensors_header(declarations, "fuzz", {header.metadata.begin(), header.metadata.end()});
    require(copy.size() % 64 == 0);
    copy.resize(copy.size() + covered);
    const auto again = parse_safetensors_header(std::as_bytes(std::span(copy.data(), copy.size())), "fuzz");
    require(again.tensors.size() == header.tensors.size() && again.metadata == header.metadata);
    require(sum <= 255U * covered);  // every byte was read
  } catch (const xlstm::Error& error) {
    require(std::strlen(error.what()) > 0 && std::strchr(error.what(), '\n') == nullptr);
  }
  return 0;
}
