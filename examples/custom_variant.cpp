// SPDX-License-Identifier: Apache-2.0
// A model of one's own, composed in custom_network.hpp with a module that the library does not have. The compiler
// counts it; it generates; it trains.
#include <cstring>
#include <string_view>
#include <vector>

#include "command_line.hpp"
#include "custom_network.hpp"
#include "xlstm/train/trainer.hpp"
#include "xlstm/xlstm.hpp"

namespace {

using xlstm::Index;
using xlstm::Token;

using custom::bytes, custom::heads, custom::pairs, custom::width;
using Network = custom::Network;
using Backend = xlstm::cpu::Backend<float>;
using Model = xlstm::Model<Network, Backend>;

// The compiler knows sizes and costs of a composition, whoever wrote its parts.
constexpr Index feed_forward = 3 * (3 * width * width) + width;
constexpr Index mlstm_parameters = 2 * (32 * width) + 3 * (64 * width) + 2 * heads * (width + 1) + 64 + width;
static_assert(Model::parameter_count() ==
              2 * bytes * width + pairs * (mlstm_parameters + 3 * width + 2 * feed_forward) + width);
static_assert(Network::state_size == pairs * (heads * (8 * 16 + 8 + 1) + width));
static_assert(Model::decode_flops() < Model::prefill_flops(2, 64));

constexpr std::string_view text =
    "the state of a recurrent network has a constant size, and so a token costs the same wherever it stands. ";

/// What the model writes after "the ".
std::string write(const Model& model) {
  auto session = model.session();
  std::string out;
  for (const Token token : session.generate(std::vector<Token>{'t', 'h', 'e', ' '}, {.max_tokens = 60})) {
    out += static_cast<char>(token);
  }
  return xlstm::io::printable(out);
}

/// A model with a copy of the weights in training.
Model copy_of(xlstm::Trainer<Network, Backend>& trainer) {
  auto weights = xlstm::allocate_weights<Network, Backend>();
  const auto& source = trainer.masters().memory;
  std::memcpy(weights.memory.data(), source.data(), static_cast<std::size_t>(source.bytes()));
  return Model(std::move(weights));
}

const command_line::Program program = {
    .name = "custom_variant",
    .purpose = "Composes a model of its own, lets it write, trains it on one sentence, and lets it write again.",
    .words = {},
    .flags = {{"steps", "N", "training steps (100)"}, {"seed", "S", "of the initial weights (0)"}}};

int run(const command_line::Arguments& arguments) {
  const auto steps = arguments.number<Index>("steps", 100, 1);
  xlstm::Trainer<Network, Backend> trainer(arguments.number<std::uint64_t>("seed", 0));
  command_line::print("parameters " + std::to_string(Model::parameter_count()) +
                      "\nat first: " + write(copy_of(trainer)) + "\n");

  xlstm::BatchBuffer batch(1, static_cast<Index>(text.size()) - 1);
  for (std::size_t t = 0; t + 1 < text.size(); ++t) {
    batch.tokens(0)[t] = static_cast<unsigned char>(text[t]);
    batch.targets(0)[t] = static_cast<unsigned char>(text[t + 1]);
  }
  for (Index step = 1; step <= steps; ++step) {
    const double loss = trainer.train_step(batch.view(), 3e-3).loss;
    if (step == 1 || step == steps || step % 20 == 0) {
      command_line::print("step " + std::to_string(step) + " loss " + std::to_string(loss) + "\n");
    }
  }
  command_line::print("trained: " + write(copy_of(trainer)) + "\n");
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return command_line::run_program(program, argc, argv, run); }
