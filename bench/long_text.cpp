// SPDX-License-Identifier: Apache-2.0
// Whether a long text costs more a token than a short one: the 160M preset with random weights reads 65,536 tokens,
// 2,048 at a time, and before each of these 2,048 from an empty state; and it decodes at position 100 and at position
// 100,000, in turns. Resident memory and its peak after every stage. Prints one line of JSON.
//   long_text [THREADS [f32|bf16|int8|int4]]
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "random_model.hpp"
#include "xlstm/core/error.hpp"
#include "xlstm/generate/session.hpp"
#include "xlstm/model/presets.hpp"

namespace {

using namespace xlstm;

constexpr ModelConfig config = presets::xlstm_160m;
constexpr Index few = 2048, many = 65536, near_position = 100, far_position = 100000;

/// A line of this process's status, in MB; 0 where there is no such thing.
double megabytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key)) return std::stod(line.substr(key.size())) * 1024 / 1e6;
  }
  return 0;
}

template <class Work>
double seconds(Work&& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::string list(const std::vector<double>& values) {
  std::string text;
  for (const double v : values) text += (text.empty() ? "" : ", ") + std::to_string(v);
  return "[" + text + "]";
}

template <class W, class Activations = cpu::FloatActivations>
void measure(const char* format, int threads) {
  using M = LanguageModel<config, cpu::Backend<W, Activations>>;
  const M model = bench::random_model<M>(threads);
  Random random(2);
  std::vector<Token> text(static_cast<std::size_t>(far_position));
  for (Token& t : text) t = static_cast<Token>(random.below(static_cast<std::uint64_t>(config.vocab_size)));
  const auto piece = [&](Index from, Index to) {
    return std::span<const Token>(text).subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(to - from));
  };

  struct Stage {
    const char* name;
    double resident, peak;
  };
  std::vector<Stage> memory;
  const auto remember = [&](const char* name) { memory.push_back({name, megabytes("VmRSS:"), megabytes("VmHWM:")}); };

  auto near = model.session(), other = model.session(), far = model.session();
  near.prefill(piece(0, near_position));
  near.step(1);
  far.prefill(piece(0, few));
  remember("start");

  std::vector<double> short_rates, long_rates;
  const auto read = [&](auto& session, Index from, std::vector<double>& rates) {
    rates.push_back(static_cast<double>(few) / seconds([&] { session.prefill(piece(from, from + few)); }));
  };
  far.reset();
  for (Index from = 0; from < many; from += few) {
    other.reset();
    read(other, 0, short_rates);
    if (from == 0) remember("2048 tokens");
    read(far, from, long_rates);
  }
  remember("65536 tokens");
  far.prefill(piece(many, far_position));
  remember("100000 tokens");

  constexpr int rounds = 16, steps = 16;
  std::vector<double> near_rates, far_rates;
  for (int round = 0; round < rounds; ++round) {
    for (auto* session : {&near, &far}) {
      const double time = seconds([&] {
        for (int i = 0; i < steps; ++i) session->step(static_cast<Token>(round * steps + i));
      });
      (session == &near ? near_rates : far_rates).push_back(steps / time);
    }
  }
  remember("decoding");
  for (const float logit : far.logits()) {
    if (!std::isfinite(logit)) fail("long_text: a logit at position ", far.position(), " is not finite");
  }

  std::printf(
      "{\"weights\": \"%s\", \"threads\": %d, \"prefill tokens/s\": {\"2048\": %s, \"65536\": %s}, "
      "\"decode tokens/s\": {\"100\": %s, \"100000\": %s}, \"MB resident, peak\": {",
      format, threads, list(short_rates).c_str(), list(long_rates).c_str(), list(near_rates).c_str(),
      list(far_rates).c_str());
  for (std::size_t i = 0; i < memory.size(); ++i) {
    std::printf("%s\"%s\": [%.1f, %.1f]", i > 0 ? ", " : "", memory[i].name, memory[i].resident, memory[i].peak);
  }
  std::printf("}}\n");
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const std::string format = argc > 2 ? argv[2] : "bf16";
  try {
    if (format == "f32") {
      measure<float>("f32", threads);
    } else if (format == "bf16") {
      measure<bf16>("bf16", threads);
    } else if (format == "int8") {
      measure<int8, cpu::Int8Activations>("int8", threads);
    } else if (format == "int4") {
      measure<int4, cpu::Int8Activations>("int4", threads);
    } else {
      fail("long_text: format is ", format, ", expected f32, bf16, int8 or int4");
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
