// SPDX-License-Identifier: Apache-2.0
#include "xlstm/model/weights.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "catch.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/model/architecture.hpp"

using namespace xlstm;

namespace {

constexpr ModelConfig config{
    .vocab_size = 400, .embedding_dim = 200, .num_blocks = 2, .num_heads = 4, .ffn_round_up_to_multiple_of = 8};
using N = Network<config>;

/// Every parameter's values by its name.
template <class B>
std::map<std::string, std::vector<double>> values(const Weights<N, B>& weights) {
  std::map<std::string, std::vector<double>> all;
  for_each_parameter<N>(weights.parameters, [&](std::string_view name, const auto& handle, Initialization) {
    auto& of_one = all[std::string(name)];
    for (Index i = 0; i < handle.count; ++i)
      of_one.push_back(static_cast<double>(static_cast<float>(handle.data()[i])));
  });
  return all;
}

template <class B>
std::map<std::string, std::vector<double>> initial(std::uint64_t seed) {
  auto weights = allocate_weights<N, B>();
  initialize(weights, seed);
  return values(weights);
}

/// The values [0, count) of one parameter, made piece by piece, the last first.
std::vector<double> from_the_back(std::string_view name, Initialization start, Index count, std::uint64_t seed) {
  const InitialValues initial(name, start, count, config.embedding_dim, config.num_blocks, seed);
  std::vector<double> all;
  for (Index i = initial.pieces(); i-- > 0;) {
    std::vector<double> piece;
    initial.make_piece(i, [&](double value) { piece.push_back(static_cast<double>(static_cast<float>(value))); });
    CHECK(static_cast<Index>(piece.size()) == initial.piece_size(i));
    all.insert(all.begin(), piece.begin(), piece.end());
  }
  return all;
}

}  // namespace

TEST_CASE("weights are one zeroed block, each parameter on a cache line of its own, in the order of the visit") {
  const auto check = [&]<class B>(std::type_identity<B>) {
    const auto weights = allocate_weights<N, B>();
    const std::byte* next = weights.memory.data();
    CHECK(reinterpret_cast<std::uintptr_t>(next) % 64 == 0);
    for_each_parameter<N>(weights.parameters, [&](std::string_view name, const auto& handle, Initialization) {
      INFO(name);
      CHECK(reinterpret_cast<const std::byte*>(handle.data()) == next);
      next += round_up(handle.bytes, 64);
    });
    CHECK(next - weights.memory.data() == weights.memory.bytes());
    CHECK(std::all_of<const std::byte*>(weights.memory.data(), next, [](std::byte b) { return b == std::byte{0}; }));
  };
  check(std::type_identity<cpu::Backend<float>>{});
  check(std::type_identity<cpu::Backend<bf16>>{});
}

TEST_CASE("the ranges say where each parameter lies in the block") {
  using B = cpu::Backend<float>;
  const auto weights = allocate_weights<N, B>();
  const auto ranges = parameter_ranges<N, B>();
  std::size_t next = 0;
  for_each_parameter<N>(weights.parameters, [&](std::string_view name, const auto& handle, Initialization) {
    const ParameterRange& range = ranges.at(next++);
    CHECK(range.name == name);
    CHECK(reinterpret_cast<const float*>(weights.memory.data()) + range.offset == handle.data());
    CHECK((range.count == handle.count && range.rows == handle.rows && range.cols == handle.cols));
    CHECK(range.is_matrix == handle.is_matrix);
  });
  CHECK(next == ranges.size());
}

TEST_CASE("initial values are the recipe's") {
  const auto all = initial<cpu::Backend<float>>(3);
  for (const auto& [name, of_one] : all) {
    INFO(name);
    const auto ends = [&](std::string_view end) { return name.ends_with(end); };
    double sum = 0, squares = 0;
    for (const double value : of_one) {
      sum += value;
      squares += value * value;
    }
    const double count = static_cast<double>(of_one.size());
    if (ends("igate_preact.bias")) {
      CHECK(of_one == std::vector<double>(4, -10));
    } else if (ends("fgate_preact.bias")) {
      CHECK(of_one == std::vector<double>{3, 4, 5, 6});
    } else if (ends("gate_preact.weight")) {  // input, forget and output gate
      CHECK(squares == 0);
    } else if (ends("norm.weight") || ends("norm_mlstm.weight") || ends("norm_ffn.weight")) {
      CHECK(of_one == std::vector<double>(of_one.size(), 1));
    } else {
      const bool back = ends("out_proj.weight") || ends("proj_down.weight");
      const double deviation = back ? 2 / (2 * std::sqrt(200.0)) : std::sqrt(2 / (5 * 200.0));
      // Mean and variance of n normal values scatter by σ/√n and σ²·√(2/n); five times that is chance no more.
      CHECK(std::abs(sum / count) < 5 * deviation / std::sqrt(count));
      CHECK(std::abs(squares / count / (deviation * deviation) - 1) < 5 * std::sqrt(2 / count));
    }
  }
  CHECK(all.size() == 2 * 15 + 3);
}

TEST_CASE("initial values depend on seed, name and index alone") {
  const auto all = initial<cpu::Backend<float>>(3);
  CHECK(initial<cpu::Backend<float>>(3) == all);
  const auto others = initial<cpu::Backend<float>>(4);
  const std::string q = "backbone.blocks.0.mlstm_layer.q.weight", head = "lm_head.weight";
  CHECK(others.at(q) != all.at(q));
  CHECK(all.at("backbone.blocks.1.mlstm_layer.q.weight") != all.at(q));

  // In any order of pieces; the head has more than one.
  const auto count = static_cast<Index>(all.at(head).size());
  REQUIRE(count > InitialValues::piece);
  CHECK(from_the_back(head, Initialization::small(), count, 3) == all.at(head));
  CHECK(from_the_back("f", Initialization::linspace(3, 6), 4, 3) == std::vector<double>{3, 4, 5, 6});
  CHECK(from_the_back("f", Initialization::linspace(3, 6), 1, 3) == std::vector<double>{3});

  // In every storage, rounded.
  const auto rounded = initial<cpu::Backend<bf16>>(3);
  for (std::size_t i = 0; i < all.at(q).size(); ++i) {
    const auto expected = static_cast<bf16>(static_cast<float>(all.at(q)[i]));
    REQUIRE(rounded.at(q)[i] == static_cast<double>(static_cast<float>(expected)));
  }
}
