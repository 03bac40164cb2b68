#include "tensor_names.h"

#include <algorithm>
#include <array>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "text.h"

namespace longshelf::engine {
namespace {

struct Rename {
  std::string_view from;
  std::string_view to;
};

template <size_t N>
std::string_view Renamed(const std::array<Rename, N>& table, std::string_view part) {
  for (const Rename& row : table) {
    if (row.from == part) {
      return row.to;
    }
  }
  return part;
}

constexpr std::array<Rename, 6> kTopLevel = {{
    {"embed_tokens", "embed"},
    {"lm_head", "head"},
    {"input_layernorm", "attn_norm"},
    {"post_attention_layernorm", "ffn_norm"},
    {"self_attn", "attn"},
    {"mlp", "ffn"},
}};

constexpr std::array<Rename, 12> kAttention = {{
    {"q_a_proj", "wq_a"},
    {"q_a_layernorm", "q_norm"},
    {"q_a_norm", "q_norm"},
    {"q_b_proj", "wq_b"},
    {"kv_proj", "wkv"},
    {"kv_a_layernorm", "kv_norm"},
    {"o_a_proj", "wo_a"},
    {"o_b_proj", "wo_b"},
    {"sinks", "attn_sink"},
    {"sink", "attn_sink"},
    {"position_bias", "ape"},
    {"weight_scale_inv", "scale"},
}};

constexpr std::array<Rename, 4> kCompressor = {{
    {"kv_proj", "wkv"},
    {"gate_proj", "wgate"},
    {"kv_norm", "norm"},
    {"position_bias", "ape"},
}};

constexpr std::array<Rename, 5> kFeedForward = {{
    {"gate_proj", "w1"},
    {"up_proj", "w3"},
    {"down_proj", "w2"},
    {"e_score_correction_bias", "bias"},
    {"weight_scale_inv", "scale"},
}};

bool IsIndex(std::string_view part) {
  return !part.empty() && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// "attn_hc.fn" -> "hc_attn_fn", "hc_head.hc_fn" -> "hc_head_fn". Empty when it is neither.
std::string HyperConnectionName(std::string_view site, std::string_view field) {
  std::string_view official;
  if (site == "attn_hc") {
    official = "hc_attn_";
  } else if (site == "ffn_hc") {
    official = "hc_ffn_";
  } else if (site == "hc_head") {
    official = "hc_head_";
  } else {
    return "";
  }
  if (field.starts_with("hc_")) {
    field.remove_prefix(3);
  }
  if (field != "fn" && field != "base" && field != "scale") {
    return "";
  }
  return Cat(official, field);
}

// transformers nests the indexer inside the compressor and does not give the indexer's own compressor a name:
// compressor.indexer.kv_proj is indexer.compressor.wkv, compressor.indexer.q_b_proj is indexer.wq_b.
void UnnestIndexer(std::vector<std::string>& parts, size_t attn) {
  if (parts.size() < attn + 4 || parts[attn + 1] != "compressor" || parts[attn + 2] != "indexer") {
    return;
  }
  const std::string& field = parts[attn + 3];
  if (field == "q_b_proj" || field == "weights_proj") {
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(attn) + 1);
  } else {
    std::swap(parts[attn + 1], parts[attn + 2]);
  }
}

void RenameAttention(std::vector<std::string>& parts, size_t attn) {
  UnnestIndexer(parts, attn);
  bool in_compressor = false;
  for (size_t i = attn + 1; i < parts.size(); ++i) {
    parts[i] = std::string(in_compressor ? Renamed(kCompressor, parts[i]) : Renamed(kAttention, parts[i]));
    in_compressor = in_compressor || parts[i] == "compressor";
  }
}

void RenameFeedForward(std::vector<std::string>& parts, size_t ffn) {
  const bool stacked = parts.size() > ffn + 2 && parts[ffn + 1] == "experts" && !IsIndex(parts[ffn + 2]);
  if (stacked) {
    // The stack is a parameter of its own, its scale "gate_up_proj_scale_inv" or "gate_up_proj.weight_scale_inv".
    std::string tensor = parts[ffn + 2];
    bool is_scale = parts.size() > ffn + 3 && parts[ffn + 3] != "weight";
    for (const std::string_view suffix : {"_weight_scale_inv", "_scale_inv", "_scale"}) {
      if (tensor.ends_with(suffix)) {
        tensor.resize(tensor.size() - suffix.size());
        is_scale = true;
        break;
      }
    }
    parts.resize(ffn + 2);
    parts.push_back(tensor);
    parts.emplace_back(is_scale ? "scale" : "weight");
    return;
  }
  for (size_t i = ffn + 1; i < parts.size(); ++i) {
    parts[i] = std::string(Renamed(kFeedForward, parts[i]));
  }
}

}  // namespace

std::string CanonicalTensorName(std::string_view stored) {
  constexpr std::string_view kModel = "model.";
  if (stored.starts_with(kModel)) {
    stored.remove_prefix(kModel.size());
  }
  std::vector<std::string> parts = SplitText(stored, '.');
  if (parts.size() >= 2) {
    const std::string name = HyperConnectionName(parts[parts.size() - 2], parts.back());
    if (!name.empty()) {
      parts.pop_back();
      parts.back() = name;
      return absl::StrJoin(parts, ".");
    }
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    parts[i] = std::string(Renamed(kTopLevel, parts[i]));
    if (parts[i] == "attn") {
      RenameAttention(parts, i);
      break;
    }
    if (parts[i] == "ffn") {
      RenameFeedForward(parts, i);
      break;
    }
    if (parts[i] == "weight_scale_inv") {
      parts[i] = "scale";
    }
  }
  return absl::StrJoin(parts, ".");
}

bool IsDroppedTensor(std::string_view canonical) {
  return canonical.starts_with("mtp.") && (ContainsText(canonical, "emb") || canonical.ends_with("head.weight"));
}

std::optional<int64_t> RoutedExpertOf(std::string_view canonical) {
  constexpr std::string_view kBefore = ".ffn.experts.";
  const size_t at = canonical.find(kBefore);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view rest = canonical.substr(at + kBefore.size());
  int64_t expert = 0;
  const std::string_view digits = rest.substr(0, rest.find('.'));
  if (!absl::SimpleAtoi(absl::string_view(digits.data(), digits.size()), &expert)) return std::nullopt;
  return expert;
}

}  // namespace longshelf::engine
