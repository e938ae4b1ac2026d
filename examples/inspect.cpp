// SPDX-License-Identifier: Apache-2.0
// What a checkpoint is and whether it is whole. Works for every size: nothing is computed with the weights.
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "command_line.hpp"
#include "xlstm/core/error.hpp"
#include "xlstm/io/checkpoint.hpp"
#include "xlstm/model/published_tensors.hpp"

namespace {

using xlstm::Index;

const command_line::Program program = {
    .name = "inspect",
    .purpose =
        "Says what the checkpoint in DIR is: sizes, parameters, FLOPs, bytes, and whether every tensor is there\n"
        "with the right shape and type. Status 1 if one is missing or wrong.",
    .words = {"DIR"},
    .flags = {{"json", "", "the same as one JSON object"}}};

// FLOPs of prefill are those of a prompt of this length.
constexpr Index prompt_length = 2048;

struct Findings {
  Index parameters = 0;
  std::map<std::string, Index> by_kind;
  std::map<std::string, Index> tensors_of_type;
  std::size_t weight_bytes = 0;
  Index expected = 0;
  std::vector<std::string> wrong;    // what is missing or not as it should be, a sentence each
  std::vector<std::string> unknown;  // tensors that the model does not use
};

std::string kind_of(std::string_view name) {
  const auto has = [&](std::string_view part) { return name.find(part) != name.npos; };
  if (has("embeddings")) return "embedding";
  if (has("lm_head")) return "head";
  if (has("norm")) return "norms";
  if (has(".ffn.")) return "feed-forward";
  return has("igate_preact") || has("fgate_preact") ? "mLSTM input and forget gates" : "mLSTM projections";
}

Findings examine(const xlstm::Checkpoint& checkpoint) {
  Findings found;
  std::vector<std::string> names;
  for (const xlstm::PublishedTensor& tensor : xlstm::published_tensors(checkpoint.config())) {
    const Index count = tensor.count();
    found.parameters += count;
    found.by_kind[kind_of(tensor.name)] += count;
    ++found.expected;
    names.push_back(tensor.name);
    try {
      if (tensor.shape.size() == 2 && checkpoint.is_quantized(tensor.name)) {
        const xlstm::Quantization format = checkpoint.quantization(tensor.name);
        const Index out = tensor.shape[0], in = tensor.shape[1];
        static_cast<void>(checkpoint.quantized_tensor(tensor.name, out, in));  // throws if it is wrong
        ++found.tensors_of_type[std::string(format.name())];
        found.weight_bytes += static_cast<std::size_t>(out * (format.row_bytes(in) + 2 * format.groups(in)));
        continue;
      }
      const xlstm::DType type = checkpoint.tensor(tensor.name, tensor.shape).dtype;
      ++found.tensors_of_type[std::string(xlstm::safetensors_name(type))];
      found.weight_bytes += static_cast<std::size_t>(count) * xlstm::size_of(type);
    } catch (const xlstm::Error& e) {
      found.wrong.emplace_back(e.what());
    }
  }
  // Files of tied embeddings may hold the head once more, which is no other parameter.
  if (checkpoint.config().tie_word_embeddings) names.emplace_back("lm_head.weight");
  found.unknown = checkpoint.unused(names);
  return found;
}

nlohmann::ordered_json sizes(const xlstm::ModelConfig& c) {
  return {{"vocab_size", c.vocab_size},
          {"embedding_dim", c.embedding_dim},
          {"num_blocks", c.num_blocks},
          {"num_heads", c.num_heads},
          {"qk_head_dim", c.qk_head_dim()},
          {"v_head_dim", c.v_head_dim()},
          {"ffn_dim", c.ffn_dim()},
          {"use_bias", c.use_bias},
          {"add_out_norm", c.add_out_norm},
          {"tie_word_embeddings", c.tie_word_embeddings},
          {"norm_eps", c.norm_eps},
          {"gate_soft_cap", c.gate_soft_cap},
          {"output_logit_soft_cap", c.output_logit_soft_cap},
          {"chunk_size", c.chunk_size}};
}

nlohmann::ordered_json as_json(const xlstm::Checkpoint& checkpoint, const Findings& found) {
  const xlstm::ModelConfig& c = checkpoint.config();
  const double prefill = xlstm::published_prefill_flops(c, prompt_length, c.chunk_size);
  const auto state_bytes = xlstm::published_state_size(c) * static_cast<Index>(sizeof(float));
  const auto& quantization = checkpoint.quantization();
  return {{"parameters", found.parameters},
          {"parameters_by_kind", found.by_kind},
          {"state_bytes", state_bytes},
          {"weight_bytes", found.weight_bytes},
          {"prefill_flops_per_token", prefill / static_cast<double>(prompt_length)},
          {"decode_flops_per_token", xlstm::published_decode_flops(c)},
          {"sizes", sizes(c)},
          {"quantization", quantization ? nlohmann::ordered_json{{"format", quantization->name()},
                                                                 {"group_size", quantization->group_size}}
                                        : nlohmann::ordered_json(nullptr)},
          {"tensors", found.expected},
          {"tensors_by_type", found.tensors_of_type},
          {"missing_or_wrong", found.wrong},
          {"unknown_tensors", found.unknown}};
}

std::string as_text(const nlohmann::ordered_json& all, const Findings& found) {
  std::ostringstream text;
  text << "sizes\n";
  for (const auto& [name, value] : all["sizes"].items()) text << "  " << name << ' ' << value << '\n';
  text << "parameters " << found.parameters << '\n';
  for (const auto& [kind, count] : found.by_kind) text << "  " << kind << ' ' << count << '\n';
  text << "FLOPs a token: prefill " << all["prefill_flops_per_token"].get<double>() << " (of " << prompt_length
       << " tokens), decode " << all["decode_flops_per_token"].get<double>() << '\n'
       << "bytes: weights " << found.weight_bytes << ", state of a sequence " << all["state_bytes"] << '\n'
       << "tensors: " << found.expected << " expected";
  for (const auto& [type, count] : found.tensors_of_type) text << ", " << count << ' ' << type;
  text << ", " << found.wrong.size() << " missing or wrong, " << found.unknown.size() << " unknown\n";
  for (const std::string& sentence : found.wrong) text << "  wrong: " << sentence << '\n';
  for (const std::string& name : found.unknown) text << "  unknown: " << xlstm::io::printable(name) << '\n';
  return text.str();
}

int run(const command_line::Arguments& arguments) {
  const auto checkpoint = xlstm::Checkpoint::open(arguments.word(0));
  const Findings found = examine(checkpoint);
  const nlohmann::ordered_json all = as_json(checkpoint, found);
  command_line::print(arguments.has("json") ? all.dump() + "\n" : as_text(all, found));
  if (found.wrong.empty()) return 0;
  xlstm::fail(arguments.word(0), ": of ", found.expected, " tensors ", found.wrong.size(), " are missing or wrong");
}

}  // namespace

int main(int argc, char** argv) { return command_line::run_program(program, argc, argv, run); }
