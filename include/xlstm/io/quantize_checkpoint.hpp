// SPDX-License-Identifier: Apache-2.0
// A checkpoint with quantised weights (docs/quantization.md) from one in the published format: NAME.weight becomes
// codes (int8: I8 (out, row_bytes); int4: U8) and BF16 scales NAME.weight.scale (out, groups); gates' weights and the
// embedding become BF16, vectors F32; config.json gets the key "quantization". What cpu::Backend<F> makes in memory has
// the same bits.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "xlstm/core/quantization.hpp"
#include "xlstm/cpu/quantize.hpp"
#include "xlstm/io/checkpoint.hpp"
#include "xlstm/io/checkpoint_writer.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/model/published_tensors.hpp"

namespace xlstm {

namespace detail {

/// Whether a parameter of the published architecture is one that modules declare as B::Weight.
inline bool is_quantizable(const PublishedTensor& tensor) {
  const auto has = [&](std::string_view part) { return tensor.name.find(part) != std::string::npos; };
  return tensor.shape.size() == 2 && !has(".igate_preact.") && !has(".fgate_preact.") && !has("embeddings");
}

/// use(format) with the format in which F stores a quantisable parameter.
template <QuantizedFormat F, class Use>
auto with_format(const PublishedTensor& tensor, Use&& use) {
  if (tensor.name == "lm_head.weight") return use(typename F::Head{});
  return use(F{});
}

/// Quantises rows [first, first + rows) of a tensor.
template <QuantizedFormat F, Executor Exec>
void quantize_piece(Exec& exec, const TensorRef& tensor, Index first, Index rows, Index in, std::uint8_t* codes,
                    bf16* scales) {
  const Index wrong = cpu::quantize_rows<F>(
      exec, rows, in,
      [&](Index r, float* row) {
        for (Index i = 0; i < in; ++i) row[i] = load_element(tensor.dtype, tensor.data, (first + r) * in + i);
      },
      codes, scales);
  if (wrong >= 0) {
    fail(tensor.file, ": tensor \"", io::printable(tensor.name), "\" cannot be quantised: row ", first + wrong,
         " has a value that is not finite or above 1e30");
  }
}

}  // namespace detail

/// Writes the checkpoint of format F to `directory`, streaming: memory is that of some rows. tokenizer.json goes with
/// it. Throws Error, and leaves nothing behind, if a tensor is missing, wrong, quantised already or not finite, or if
/// the directory cannot take a checkpoint (see CheckpointWriter).
template <QuantizedFormat F, Executor Exec>
void quantize_checkpoint(const Checkpoint& checkpoint, const std::filesystem::path& directory, Exec& exec) {
  const std::vector<PublishedTensor> tensors = published_tensors(checkpoint.config());
  // Wide types first, so that everything is aligned.
  std::vector<io::TensorDeclaration> declarations;
  std::vector<const PublishedTensor*> order;
  const auto declare = [&](auto&& wanted, io::SafetensorsType type) {
    for (const PublishedTensor& tensor : tensors) {
      if (!wanted(tensor)) continue;
      order.push_back(&tensor);
      if (!detail::is_quantizable(tensor)) {
        declarations.push_back({tensor.name, type, tensor.shape});
        continue;
      }
      const Quantization format = detail::with_format<F>(tensor, []<class T>(T) { return quantization_of<T>; });
      const Index out = tensor.shape[0], in = tensor.shape[1];
      declarations.push_back({tensor.name,
                              format.bits == 8 ? io::SafetensorsType::i8 : io::SafetensorsType::u8,
                              {out, format.row_bytes(in)}});
      declarations.push_back({io::scale_name(tensor.name), io::SafetensorsType::bf16, {out, format.groups(in)}});
    }
  };
  const auto is_vector = [](const PublishedTensor& t) { return t.shape.size() == 1; };
  declare(is_vector, io::SafetensorsType::f32);
  declare([&](const PublishedTensor& t) { return !is_vector(t) && !detail::is_quantizable(t); },
          io::SafetensorsType::bf16);
  declare(detail::is_quantizable, io::SafetensorsType::u8);

  const std::filesystem::path tokenizer = directory / "tokenizer.json";
  const bool has_tokenizer = io::path_exists(checkpoint.directory() / "tokenizer.json");
  if (has_tokenizer && io::path_exists(tokenizer)) {
    fail(io::printable(directory.native()), ": already holds tokenizer.json; remove it or name another directory");
  }
  CheckpointWriter writer(directory, checkpoint.config(), DType::bf16, std::move(declarations), checkpoint.tokens(),
                          WeightMode::single, default_shard_bytes, quantization_of<F>);

  std::vector<float> floats;
  std::vector<std::uint8_t> codes;
  std::vector<bf16> scales;
  for (const PublishedTensor* published : order) {
    const TensorRef tensor = checkpoint.tensor(published->name, published->shape);
    const Index out = published->shape[0], in = published->shape.size() == 2 ? published->shape[1] : 1;
    const Index rows_at_once = std::clamp<Index>((Index{1} << 22) / in, 1, out);
    const bool quantizable = detail::is_quantizable(*published);
    if (!quantizable) {
      for (Index first = 0; first < out; first += rows_at_once) {
        floats.resize(static_cast<std::size_t>(std::min(rows_at_once, out - first) * in));
        for (std::size_t i = 0; i < floats.size(); ++i) {
          floats[i] = load_element(tensor.dtype, tensor.data, first * in + static_cast<Index>(i));
        }
        writer.write_floats(published->name, floats);
      }
      continue;
    }
    detail::with_format<F>(*published, [&]<class T>(T) {
      scales.resize(static_cast<std::size_t>(out * T::groups(in)));
      for (Index first = 0; first < out; first += rows_at_once) {
        const Index rows = std::min(rows_at_once, out - first);
        codes.resize(static_cast<std::size_t>(rows * T::row_bytes(in)));
        detail::quantize_piece<T>(exec, tensor, first, rows, in, codes.data(), scales.data() + first * T::groups(in));
        writer.write(published->name, std::as_bytes(std::span<const std::uint8_t>(codes)));
      }
    });
    writer.write(io::scale_name(published->name), std::as_bytes(std::span<const bf16>(scales)));
  }

  if (has_tokenizer) {
    io::AtomicFile copy(tokenizer);
    copy.write(io::MappedFile(checkpoint.directory() / "tokenizer.json").bytes());
    copy.commit();
  }
  try {
    writer.finish();
  } catch (...) {
    std::error_code ignored;
    if (has_tokenizer) std::filesystem::remove(tokenizer, ignored);
    throw;
  }
}

}  // namespace xlstm
