// SPDX-License-Identifier: Apache-2.0
// What weight formats cost: mean negative log-likelihood of a text, and the KL divergence of what the model predicts
// from what its weights as stored (in f32) predict. The text is scored in pieces of 512 tokens from an empty state, 32
// at a time, so that products go the way of decoding, rounded activations too.
//   quantization DIR TEXT [BYTES]       DIR: a checkpoint of the size below; BYTES: only the text's last
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <span>
#include <string>
#include <vector>

#include "xlstm/cpu/backend.hpp"
#include "xlstm/generate/session.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/io/load.hpp"
#include "xlstm/text/tokenizer.hpp"

namespace {

using namespace xlstm;

constexpr ModelConfig config{.vocab_size = 1536, .embedding_dim = 192, .num_blocks = 5, .num_heads = 3};
constexpr Index piece = 512, at_once = 32;

/// log softmax of one row.
void log_probabilities(const float* logits, Index count, float* to) {
  const float largest = *std::max_element(logits, logits + count);
  double sum = 0;
  for (Index i = 0; i < count; ++i) sum += std::exp(static_cast<double>(logits[i] - largest));
  const float shift = largest + static_cast<float>(std::log(sum));
  for (Index i = 0; i < count; ++i) to[i] = logits[i] - shift;
}

template <class W, class Activations = cpu::FloatActivations>
void score(const char* name, const std::string& directory, std::span<const Token> tokens,
           std::vector<float>& expected) {
  using M = LanguageModel<config, cpu::Backend<W, Activations>>;
  const M model = M::load(directory);
  const auto lease = model.lease();
  constexpr Index vocab = M::vocab_size;
  const bool first = expected.empty();
  if (first) expected.resize(tokens.size() * static_cast<std::size_t>(vocab));
  std::vector<float> row(static_cast<std::size_t>(vocab));
  double nll = 0, kl = 0, predicted = 0;
  const auto length = static_cast<Index>(tokens.size());
  for (Index begin = 0; begin + piece <= length; begin += piece) {
    std::vector<float> state(static_cast<std::size_t>(M::state_size), 0.0F);
    float* slot = state.data();
    for (Index done = 0; done < piece; done += at_once) {
      const Run run{.length = at_once, .form = Form::chunkwise, .chunk_size = at_once};
      const auto some = tokens.subspan(static_cast<std::size_t>(begin + done), static_cast<std::size_t>(at_once));
      model.run(*lease, run, some, {&slot, 0}, M::Rows::all, [&](Index from, auto logits) {
        for (Index r = 0; r < logits.rows(); ++r) {
          const Index position = begin + done + from + r;
          if ((position + 1) % piece == 0) continue;
          log_probabilities(logits.row(r), vocab, row.data());
          float* const reference = expected.data() + position * vocab;
          if (first) std::copy(row.begin(), row.end(), reference);
          for (Index i = 0; i < vocab; ++i) {
            const double p = static_cast<double>(reference[i]);
            kl += std::exp(p) * (p - static_cast<double>(row[static_cast<std::size_t>(i)]));
          }
          const Token next = tokens[static_cast<std::size_t>(position + 1)];
          nll -= static_cast<double>(row[static_cast<std::size_t>(next)]);
          ++predicted;
        }
      });
    }
  }
  std::printf("%-30s  NLL %.5f  KL %.6f  %.0f tokens  %.2f MB\n", name, nll / predicted, kl / predicted, predicted,
              static_cast<double>(M::weight_bytes()) * 1e-6);
}

void compare(const std::string& directory, const std::string& path, std::size_t bytes) {
  const auto tokenizer = Tokenizer::load(directory + "/tokenizer.json");
  std::string text = io::read_text_file(path, std::size_t{1} << 28);
  text.erase(0, text.size() - std::min(bytes, text.size()));
  while (!text.empty() && (static_cast<unsigned char>(text[0]) & 0xc0U) == 0x80U) text.erase(0, 1);
  const std::vector<Token> tokens = tokenizer.encode(text);
  std::vector<float> expected;
  score<float>("f32", directory, tokens, expected);
  score<bf16>("bf16", directory, tokens, expected);
  score<bf16, cpu::Bf16Activations>("bf16, activations bf16", directory, tokens, expected);
  score<Int8<64>>("int8/64", directory, tokens, expected);
  score<int8>("int8/128", directory, tokens, expected);
  score<int8, cpu::Int8Activations>("int8/128, activations int8", directory, tokens, expected);
  score<int4>("int4/32", directory, tokens, expected);
  score<int4, cpu::Int8Activations>("int4/32, activations int8", directory, tokens, expected);
  score<Int4<64>>("int4/64", directory, tokens, expected);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::fprintf(stderr, "usage: quantization DIR TEXT [BYTES]\n");
    return 2;
  }
  try {
    compare(argv[1], argv[2], argc == 4 ? std::stoul(argv[3]) : std::size_t{60000});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
