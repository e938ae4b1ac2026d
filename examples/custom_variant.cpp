// SPDX-License-Identifier: Apache-2.0
// A model that nobody has published, composed from the library's parts and one of one's own: blocks with an mLSTM of
// other soft caps alternate with blocks whose mixer is a moving average, written here. The compiler counts it; it
// generates; it trains.
#include <cstring>
#include <string_view>
#include <vector>

#include "command_line.hpp"
#include "xlstm/train/trainer.hpp"
#include "xlstm/xlstm.hpp"

namespace {

using xlstm::Index;
using xlstm::Token;

/// y_t = scale ⊙ s_t,  s_t = λ ⊙ s_{t−1} + (1 − λ) ⊙ x_t,  λ = σ(decay): a moving average of each feature, with a
/// recurrent state of D values. What a module must have is said in xlstm/nn/module.hpp.
template <Index D>
struct MovingAverage {
  static constexpr Index input_dim = D;
  static constexpr Index output_dim = D;
  static constexpr Index state_size = D;

  template <class B>
  struct Parameters {
    xlstm::Vector<B, D> decay;
    xlstm::Vector<B, D> scale;
  };
  template <class B>
  struct Saved {
    xlstm::Input<B, D> x;
    xlstm::Output<B, D> s;      // after each token
    xlstm::Output<B, D> first;  // before the first token of each sequence
  };

  template <class P, class V>
  static constexpr void for_each_parameter(P& p, V&& visit) {
    visit("decay", p.decay, xlstm::Initialization::linspace(-2, 2));
    visit("scale", p.scale, xlstm::Initialization::constant(1));
  }
  template <class V>
  static void for_each_state(const V& visit, const std::string& prefix, Index base) {
    visit(prefix + "average", base, Index{1}, D);
  }
  static constexpr double flops(const xlstm::Workload& work) { return 4.0 * D * static_cast<double>(work.length); }

  template <class B>
  static void forward(B& backend, const Parameters<B>& p, const xlstm::Run& run, xlstm::States<B> state,
                      xlstm::Input<B, D> x, xlstm::Output<B, D> y, Saved<B>& saved) {
    using T = typename B::Arithmetic;
    saved = {x, backend.arena().template matrix<T, D>(x.rows()), backend.arena().template matrix<T, D>(run.sequences)};
    for (Index b = 0; b < run.sequences; ++b) {
      for (Index d = 0; d < D; ++d) {
        const T lambda = xlstm::sigmoid(p.decay[d]);
        T s = saved.first(b, d) = static_cast<T>(state[b][d]);
        for (Index t = 0; t < run.length; ++t) {
          const Index row = b * run.length + t;
          if (run.starts_document(b, t)) s = 0;
          s = lambda * s + (1 - lambda) * x(row, d);
          saved.s(row, d) = s;
          y(row, d) = p.scale[d] * s;
        }
        state[b][d] = s;
      }
    }
  }

  template <class B>
  static void backward(B&, const Parameters<B>& p, xlstm::Gradients<B, MovingAverage>& g, const xlstm::Run& run,
                       xlstm::States<B> dstate, const Saved<B>& saved, xlstm::Input<B, D> dy, xlstm::Output<B, D> dx) {
    using T = typename B::Arithmetic;
    for (Index b = 0; b < run.sequences; ++b) {
      for (Index d = 0; d < D; ++d) {
        const T lambda = xlstm::sigmoid(p.decay[d]);
        T ds = dstate ? static_cast<T>(dstate[b][d]) : T{0}, dlambda = 0, dscale = 0;
        for (Index t = run.length - 1; t >= 0; --t) {
          const Index row = b * run.length + t;
          const bool starts = run.starts_document(b, t);
          const T before = starts ? T{0} : t > 0 ? saved.s(row - 1, d) : saved.first(b, d);
          dscale += dy(row, d) * saved.s(row, d);
          ds += dy(row, d) * p.scale[d];
          dlambda += ds * (before - saved.x(row, d));
          dx(row, d) = (1 - lambda) * ds;
          ds = starts ? T{0} : lambda * ds;
        }
        g.decay.data()[d] += dlambda * lambda * (1 - lambda);
        g.scale.data()[d] += dscale;
        if (dstate) dstate[b][d] = ds;
      }
    }
  }
};

constexpr Index width = 64, heads = 4, pairs = 2, bytes = 256;

struct OtherCaps : xlstm::MLSTMLayerPolicy {
  using GateCap = xlstm::SoftCap<8.0>;
};
template <class Mixer>
using Block = xlstm::Sequential<xlstm::Residual<xlstm::RMSNorm<width>, Mixer>,
                                xlstm::Residual<xlstm::RMSNorm<width>, xlstm::SwiGLU<width, 3 * width>>>;
using MLSTM = xlstm::MLSTMLayer<width, xlstm::Heads<heads, 8, 16>, OtherCaps>;
using Blocks = xlstm::Repeat<pairs, xlstm::Sequential<xlstm::Named<"mlstm", Block<MLSTM>>,
                                                      xlstm::Named<"average", Block<MovingAverage<width>>>>>;
using Network = xlstm::CausalLM<bytes, Blocks, xlstm::RMSNorm<width>, xlstm::SoftCap<20.0>>;
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
