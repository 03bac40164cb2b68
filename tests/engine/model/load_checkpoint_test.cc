// Whole checkpoint directories: renamed, resharded, converted and damaged copies of micro-flash.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/comm/expert_transport.h"
#include "engine/model/model.h"
#include "engine/model/sequence_memory.h"
#include "engine/model/weights.h"
#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

using nlohmann::json;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct StoredTensor {
  Dtype dtype;
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;
};

using Checkpoint = std::map<std::string, StoredTensor>;

Checkpoint ReadCheckpoint(const std::string& model) {
  Checkpoint checkpoint;
  for (const auto& entry : std::filesystem::directory_iterator(testing::ModelPath(model))) {
    if (entry.path().extension() != ".safetensors") {
      continue;
    }
    const auto file = SafetensorsFile::Open(entry.path());
    EXPECT_TRUE(file.ok()) << file.status();
    for (const auto& [name, view] : (*file)->tensors()) {
      checkpoint[name] = {view.dtype, view.shape, {view.bytes.begin(), view.bytes.end()}};
    }
  }
  return checkpoint;
}

std::string ConfigText(const std::string& model) {
  std::ifstream in(testing::ModelPath(model) / "config.json");
  return {std::istreambuf_iterator<char>(in), {}};
}

void WriteText(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

void WriteTensors(const std::filesystem::path& path, const Checkpoint& checkpoint) {
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, tensor] : checkpoint) {
    tensors.push_back({name, tensor.dtype, tensor.shape, tensor.bytes});
  }
  const absl::Status written = WriteSafetensors(path, tensors, {{"format", "pt"}});
  EXPECT_TRUE(written.ok()) << written;
}

std::filesystem::path WriteModel(const Checkpoint& checkpoint, const std::string& config) {
  const std::filesystem::path dir = testing::MakeTempDir("checkpoint");
  WriteText(dir / "config.json", config);
  WriteTensors(dir / "model.safetensors", checkpoint);
  return dir;
}

auto Load(const std::filesystem::path& dir) { return LoadModelWeights(dir, nullptr); }

std::string ErrorOf(const std::filesystem::path& dir) {
  const auto weights = Load(dir);
  return weights.ok() ? "loaded" : std::string(weights.status().message());
}

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

bool EqualMatrix(const Matrix& a, const Matrix& b) {
  const auto bytes = [](const Matrix& m) {
    const int64_t bits = m.format == Matrix::Format::kFp4    ? 4
                         : m.format == Matrix::Format::kFp8  ? 8
                         : m.format == Matrix::Format::kBf16 ? 16
                                                             : 32;
    return std::vector<uint8_t>(m.data, m.data + m.rows * m.cols * bits / 8);
  };
  return a.format == b.format && a.rows == b.rows && a.cols == b.cols && bytes(a) == bytes(b);
}

TEST(Checkpoint, InOneFileHasTheDigestOfTheSameTensorsInThree) {
  const auto sharded = Load(testing::ModelPath("micro-flash"));
  const auto single = Load(WriteModel(ReadCheckpoint("micro-flash"), ConfigText("micro-flash")));
  ASSERT_TRUE(sharded.ok() && single.ok()) << single.status();
  EXPECT_EQ((*sharded)->digest, (*single)->digest);
}

TEST(Checkpoint, WithoutIndexIsReadFromEverySafetensorsFile) {
  const Checkpoint all = ReadCheckpoint("micro-odd");
  Checkpoint halves[2];
  size_t i = 0;
  for (const auto& [name, tensor] : all) {
    halves[i++ % 2][name] = tensor;
  }
  const std::filesystem::path dir = testing::MakeTempDir("halves");
  WriteText(dir / "config.json", ConfigText("micro-odd"));
  WriteTensors(dir / "first.safetensors", halves[0]);
  WriteTensors(dir / "second.safetensors", halves[1]);
  const auto weights = Load(dir);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ((*weights)->digest, (*Load(testing::ModelPath("micro-odd")))->digest);

  WriteTensors(dir / "third.safetensors", {{"embed.weight", all.at("embed.weight")}});
  EXPECT_THAT(ErrorOf(dir), HasSubstr("\"embed.weight\": given twice"));
}

TEST(Checkpoint, DigestChangesWithOneBitOfOneTensorAndWithTheConfig) {
  Checkpoint checkpoint = ReadCheckpoint("micro-odd");
  const auto before = Load(WriteModel(checkpoint, ConfigText("micro-odd")));
  const auto other_config =
      Load(WriteModel(checkpoint, Replaced(ConfigText("micro-odd"), "\"swiglu_limit\": 2.0", "\"swiglu_limit\": 3.0")));
  checkpoint["layers.1.attn.wq_a.scale"].bytes[0] ^= 1;
  const auto other_scale = Load(WriteModel(checkpoint, ConfigText("micro-odd")));
  ASSERT_TRUE(before.ok() && other_config.ok() && other_scale.ok());
  EXPECT_NE((*before)->digest, (*other_config)->digest);
  EXPECT_NE((*before)->digest, (*other_scale)->digest);
}

std::string V3Name(std::string name) {
  const std::pair<const char*, const char*> renames[] = {
      {"embed.", "embed_tokens."},
      {"attn_norm.", "input_layernorm."},
      {"ffn_norm.", "post_attention_layernorm."},
      {".attn.", ".self_attn."},
      {".ffn.", ".mlp."},
      {".wq_a.", ".q_a_proj."},
      {".q_norm.", ".q_a_layernorm."},
      {"self_attn.wq_b.", "self_attn.q_b_proj."},
      {".w1.", ".gate_proj."},
      {".w2.", ".down_proj."},
      {".w3.", ".up_proj."},
      {"gate.bias", "gate.e_score_correction_bias"},
  };
  for (const auto& [from, to] : renames) {
    name = Replaced(name, from, to);
  }
  if (name.ends_with(".scale")) {
    name = name.substr(0, name.size() - 5) + "weight_scale_inv";
  }
  return name == "head.weight" ? "lm_head.weight" : "model." + name;
}

TEST(Checkpoint, WithV3StyleNamesLoadsToTheSameDigest) {
  Checkpoint renamed;
  for (auto& [name, tensor] : ReadCheckpoint("micro-flash")) {
    renamed[V3Name(name)] = tensor;
  }
  ASSERT_TRUE(renamed.contains("model.layers.2.self_attn.q_b_proj.weight_scale_inv"));
  ASSERT_TRUE(renamed.contains("model.layers.3.mlp.gate.e_score_correction_bias"));
  const auto weights = Load(WriteModel(renamed, ConfigText("micro-flash")));
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ((*weights)->digest, (*Load(testing::ModelPath("micro-flash")))->digest);
  EXPECT_THAT((*weights)->unused_tensors, IsEmpty());
}

std::string TransformersName(std::string name) {
  const std::pair<const char*, const char*> renames[] = {
      {"embed.", "embed_tokens."},
      {"attn_norm.", "input_layernorm."},
      {"ffn_norm.", "post_attention_layernorm."},
      {"hc_attn_", "attn_hc."},
      {"hc_ffn_", "ffn_hc."},
      {"hc_head_", "hc_head.hc_"},
      {".attn.indexer.compressor.", ".attn.compressor.indexer."},
      {".attn.indexer.", ".attn.compressor.indexer."},
      {".attn.", ".self_attn."},
      {".ffn.", ".mlp."},
      {"compressor.wkv.", "compressor.kv_proj."},
      {"compressor.wgate.", "compressor.gate_proj."},
      {"compressor.norm.", "compressor.kv_norm."},
      {"indexer.wkv.", "indexer.kv_proj."},
      {"indexer.wgate.", "indexer.gate_proj."},
      {"indexer.norm.", "indexer.kv_norm."},
      {"indexer.wq_b.", "indexer.q_b_proj."},
      {".ape", ".position_bias"},
      {"attn.wq_a.", "attn.q_a_proj."},
      {"attn.q_norm.", "attn.q_a_norm."},
      {"attn.wq_b.", "attn.q_b_proj."},
      {"attn.wkv.", "attn.kv_proj."},
      {"attn.wo_a.", "attn.o_a_proj."},
      {"attn.wo_b.", "attn.o_b_proj."},
      {"attn_sink", "sinks"},
      {"shared_experts.w1.", "shared_experts.gate_proj."},
      {"shared_experts.w2.", "shared_experts.down_proj."},
      {"shared_experts.w3.", "shared_experts.up_proj."},
      {"gate.bias", "gate.e_score_correction_bias"},
  };
  for (const auto& [from, to] : renames) {
    name = Replaced(name, from, to);
  }
  if (name.ends_with(".scale") && !name.ends_with("_hc.scale")) {
    name = name.substr(0, name.size() - 5) + "weight_scale_inv";
  }
  return name == "head.weight" ? "lm_head.weight" : "model." + name;
}

// What transformers writes: its own names, experts in two stacks per layer, no MTP.
Checkpoint ToTransformers(const Checkpoint& published, int64_t n_experts) {
  Checkpoint converted;
  for (const auto& [name, tensor] : published) {
    if (name.starts_with("mtp.")) {
      continue;
    }
    const size_t experts_at = name.find(".experts.");
    if (experts_at == std::string::npos) {
      converted[TransformersName(name)] = tensor;
      continue;
    }
    if (name.find(".experts.0.w") == std::string::npos || name.find(".w3.") != std::string::npos) {
      continue;
    }
    const bool is_gate = name.find(".w1.") != std::string::npos;
    const bool is_scale = name.ends_with(".scale");
    StoredTensor stack = {tensor.dtype, {n_experts, tensor.shape[0] * (is_gate ? 2 : 1), tensor.shape[1]}, {}};
    for (int64_t e = 0; e < n_experts; ++e) {
      const std::string mine = Replaced(name, ".experts.0.", ".experts." + std::to_string(e) + ".");
      for (const std::string& part :
           is_gate ? std::vector<std::string>{mine, Replaced(mine, ".w1.", ".w3.")} : std::vector<std::string>{mine}) {
        const std::vector<uint8_t>& bytes = published.at(part).bytes;
        stack.bytes.insert(stack.bytes.end(), bytes.begin(), bytes.end());
      }
    }
    converted["model." + Replaced(name.substr(0, experts_at), ".ffn", ".mlp") + ".experts." +
              (is_gate ? "gate_up_proj" : "down_proj") + (is_scale ? "_scale_inv" : "")] = std::move(stack);
  }
  return converted;
}

TEST(Checkpoint, ConvertedByTransformersLoadsWithStackedExpertsAndWithoutMtp) {
  const Checkpoint converted = ToTransformers(ReadCheckpoint("micro-flash"), 8);
  ASSERT_TRUE(converted.contains("model.layers.0.mlp.experts.gate_up_proj"));
  ASSERT_TRUE(converted.contains("model.layers.2.self_attn.compressor.indexer.kv_proj.weight"));
  ASSERT_TRUE(converted.contains("model.layers.2.attn_hc.scale"));
  const auto weights = Load(WriteModel(converted, ConfigText("micro-flash")));
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_THAT((*weights)->unused_tensors, IsEmpty());
  EXPECT_EQ((*weights)->config.n_mtp_layers, 0);
  const auto published = Load(testing::ModelPath("micro-flash"));
  for (size_t l = 0; l < 6; ++l) {
    const LayerWeights& a = (*published)->layers[l];
    const LayerWeights& b = (*weights)->layers[l];
    for (size_t e = 0; e < 8; ++e) {
      EXPECT_TRUE(EqualMatrix(a.moe.experts[e].w1, b.moe.experts[e].w1));
      EXPECT_TRUE(EqualMatrix(a.moe.experts[e].w2, b.moe.experts[e].w2));
      EXPECT_TRUE(EqualMatrix(a.moe.experts[e].w3, b.moe.experts[e].w3));
    }
    EXPECT_TRUE(EqualMatrix(a.attn.wq_b, b.attn.wq_b));
    EXPECT_TRUE(EqualMatrix(a.hc_attn.fn, b.hc_attn.fn));
    EXPECT_EQ(a.attn.sink, b.attn.sink);
  }
  EXPECT_TRUE(EqualMatrix((*published)->layers[2].attn.indexer->compressor.wgate,
                          (*weights)->layers[2].attn.indexer->compressor.wgate));
  EXPECT_EQ((*published)->layers[3].attn.compressor->ape, (*weights)->layers[3].attn.compressor->ape);
}

std::vector<uint8_t> BytesOf(const std::vector<float>& values) {
  std::vector<uint8_t> bytes(values.size() * 4);
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

TEST(Checkpoint, MayHoldDequantisedMatricesAndScalesAsPowersOfTwoInF32) {
  Checkpoint checkpoint = ReadCheckpoint("micro-flash");
  checkpoint["layers.0.attn.wq_a.weight"] = {Dtype::kBf16, {128, 256}, std::vector<uint8_t>(128 * 256 * 2)};
  checkpoint.erase("layers.0.attn.wq_a.scale");
  checkpoint["layers.0.ffn.experts.3.w2.weight"] = {Dtype::kF8E4M3, {256, 128}, std::vector<uint8_t>(256 * 128)};
  checkpoint["layers.0.ffn.experts.3.w2.scale"] = {Dtype::kF32, {2, 1}, BytesOf({0.25F, 1.0F})};
  const auto weights = Load(WriteModel(checkpoint, ConfigText("micro-flash")));
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ((*weights)->layers[0].attn.wq_a.format, Matrix::Format::kBf16);
  const Matrix& w2 = (*weights)->layers[0].moe.experts[3].w2;
  EXPECT_EQ(w2.format, Matrix::Format::kFp8);
  EXPECT_EQ(w2.scale[0], 125);
  EXPECT_EQ(w2.scale[1], 127);
  checkpoint["layers.0.ffn.experts.3.w2.scale"].bytes = BytesOf({0.3F, 1.0F});
  EXPECT_THAT(ErrorOf(WriteModel(checkpoint, ConfigText("micro-flash"))), HasSubstr("not a positive power of two"));
}

std::vector<float> LogitsOf(std::shared_ptr<const ModelWeights> weights, const std::string& kernels) {
  LocalExpertTransport transport;
  ModelOptions options;
  options.kernels = kernels;
  const auto model = Model::Create(std::move(weights), options, transport);
  EXPECT_TRUE(model.ok()) << model.status();
  const std::vector<uint32_t> tokens = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9};
  SequenceMemory memory((*model)->layout(), static_cast<int64_t>(tokens.size()));
  const auto out = (*model)->Forward({{memory.Chunk(0, tokens, WantLogits::kAll)}});
  EXPECT_TRUE(out.ok()) << out.status();
  return {out->logits.begin(), out->logits.end()};
}

TEST(Checkpoint, WidenedFromBf16ToF32ComputesTheSameBits) {
  Checkpoint checkpoint = ReadCheckpoint("micro-flash");
  size_t n_widened = 0;
  for (auto& [name, tensor] : checkpoint) {
    if (tensor.dtype != Dtype::kBf16) continue;
    std::vector<uint8_t> wide(2 * tensor.bytes.size());
    for (size_t i = 0; i < tensor.bytes.size(); i += 2) std::memcpy(&wide[2 * i + 2], &tensor.bytes[i], 2);
    tensor = {Dtype::kF32, tensor.shape, std::move(wide)};
    ++n_widened;
  }
  ASSERT_GT(n_widened, 0U);
  std::shared_ptr<const ModelWeights> published = std::move(*Load(testing::ModelPath("micro-flash")));
  auto loaded = Load(WriteModel(checkpoint, ConfigText("micro-flash")));
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const std::shared_ptr<const ModelWeights> widened = std::move(*loaded);
  EXPECT_EQ(widened->head.format, Matrix::Format::kF32);
  for (const std::string& kernels : AvailableKernels()) {
    const std::vector<float> expected = LogitsOf(published, kernels);
    const std::vector<float> logits = LogitsOf(widened, kernels);
    ASSERT_EQ(logits.size(), expected.size());
    EXPECT_EQ(std::memcmp(logits.data(), expected.data(), logits.size() * sizeof(float)), 0) << kernels;
  }
}

TEST(Checkpoint, OfABaseModelHasEightBitExperts) {
  Checkpoint checkpoint = ReadCheckpoint("micro-odd");
  for (auto& [name, tensor] : checkpoint) {
    if (name.find(".ffn.experts.") != std::string::npos && name.ends_with(".weight")) {
      tensor = {Dtype::kF8E4M3,
                {tensor.shape[0], tensor.shape[1] * 2},
                std::vector<uint8_t>(static_cast<size_t>(tensor.shape[0] * tensor.shape[1] * 2), 0x38)};
      checkpoint[name.substr(0, name.size() - 6) + "scale"] = {
          Dtype::kF8E8M0,
          {(tensor.shape[0] + 127) / 128, (tensor.shape[1] + 127) / 128},
          std::vector<uint8_t>(static_cast<size_t>((tensor.shape[0] + 127) / 128 * ((tensor.shape[1] + 127) / 128)),
                               120)};
    }
  }
  const auto weights = Load(WriteModel(
      checkpoint, Replaced(ConfigText("micro-odd"), "\"expert_dtype\": \"fp4\"", "\"expert_dtype\": \"fp8\"")));
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ((*weights)->layers[0].moe.experts[0].w1.format, Matrix::Format::kFp8);
}

TEST(Checkpoint, ToleratesAndListsTensorsTheConfigDoesNotAskFor) {
  Checkpoint checkpoint = ReadCheckpoint("micro-flash");
  checkpoint["layers.6.attn_norm.weight"] = checkpoint["norm.weight"];
  checkpoint["mtp.0.emb.tok_emb.weight"] = checkpoint["embed.weight"];
  checkpoint["mtp.0.head.weight"] = checkpoint["head.weight"];
  const auto weights = Load(WriteModel(checkpoint, ConfigText("micro-flash")));
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_THAT((*weights)->unused_tensors, ElementsAre("layers.6.attn_norm.weight"));
  EXPECT_EQ((*weights)->digest, (*Load(testing::ModelPath("micro-flash")))->digest);
}

TEST(Checkpoint, WithAnotherDraftModuleRunsWithoutMtp) {
  Checkpoint checkpoint = ReadCheckpoint("micro-flash");
  checkpoint["mtp.0.main_proj.weight"] = checkpoint["mtp.0.e_proj.weight"];
  checkpoint.erase("mtp.0.e_proj.weight");
  const auto weights = Load(WriteModel(checkpoint, ConfigText("micro-flash")));
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ((*weights)->config.n_mtp_layers, 0);
  EXPECT_THAT((*weights)->unused_tensors, Contains("mtp.0.main_proj.weight"));
}

TEST(Checkpoint, WithMisalignedTensorsLoadsToTheSameDigest) {
  // A header one space longer moves every tensor off its alignment.
  const std::filesystem::path dir = WriteModel(ReadCheckpoint("micro-odd"), ConfigText("micro-odd"));
  std::ifstream in(dir / "model.safetensors", std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), {}};
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  bytes.insert(8 + header_bytes, " ");
  ++header_bytes;
  std::memcpy(bytes.data(), &header_bytes, 8);
  WriteText(dir / "model.safetensors", bytes);
  const auto weights = Load(dir);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ((*weights)->digest, (*Load(testing::ModelPath("micro-odd")))->digest);
  EXPECT_EQ(reinterpret_cast<uintptr_t>((*weights)->layers[0].hc_attn.fn.data) % 4, 0U);
  EXPECT_EQ(reinterpret_cast<uintptr_t>((*weights)->embed.data) % 2, 0U);
}

struct Damage {
  std::string tensor;
  std::function<void(StoredTensor&)> change;  // null removes the tensor
  std::string reason;
};

void PrintTo(const Damage& damage, std::ostream* out) { *out << damage.tensor << ": " << damage.reason; }

std::vector<Damage> Damages() {
  const auto set = [](Dtype dtype, std::vector<int64_t> shape, size_t n_bytes) {
    return [=](StoredTensor& tensor) { tensor = {dtype, shape, std::vector<uint8_t>(n_bytes)}; };
  };
  const auto byte = [](size_t at, uint8_t value) { return [=](StoredTensor& tensor) { tensor.bytes[at] = value; }; };
  return {
      {"embed.weight", nullptr, "missing; config.json implies BF16 [512, 256]"},
      {"layers.5.ffn.experts.7.w3.scale", nullptr, "missing; config.json implies F8_E8M0 [128, 8]"},
      {"layers.2.attn.indexer.compressor.ape", nullptr, "missing; config.json implies F32 [4, 256]"},
      {"layers.0.ffn.gate.tid2eid", nullptr, "missing; config.json implies I64 [512, 3]"},
      {"layers.3.ffn.gate.bias", nullptr, "missing; config.json implies F32 [8]"},
      {"mtp.0.e_proj.weight", nullptr, "missing; config.json implies F8_E4M3 [256, 256]"},
      {"hc_head_scale", nullptr, "missing"},
      {"embed.weight", set(Dtype::kBf16, {256, 512}, 512 * 256 * 2), "is BF16 [256, 512], must be BF16 [512, 256]"},
      {"embed.weight", set(Dtype::kF16, {512, 256}, 512 * 256 * 2), "is F16 [512, 256], must be BF16"},
      {"norm.weight", set(Dtype::kBf16, {255}, 510), "is BF16 [255], must be BF16 [256]"},
      {"norm.weight", set(Dtype::kBf16, {1, 256}, 512), "is BF16 [1, 256], must be BF16 [256]"},
      {"norm.weight", set(Dtype::kF64, {256}, 2048), "is F64 [256]"},
      {"layers.0.attn.wq_a.weight", set(Dtype::kF8E5M2, {128, 256}, 128 * 256), "is F8_E5M2"},
      {"layers.0.attn.wq_a.weight", set(Dtype::kI8, {128, 128}, 128 * 128), "is I8 [128, 128], must be F8_E4M3"},
      {"layers.0.attn.wq_a.scale", set(Dtype::kF8E8M0, {2, 2}, 4), "is F8_E8M0 [2, 2], must be F8_E8M0 [1, 2]"},
      {"layers.0.attn.wq_a.scale", set(Dtype::kBf16, {1, 2}, 4), "is BF16 [1, 2]"},
      {"layers.0.ffn.experts.0.w1.weight", set(Dtype::kI8, {128, 127}, 128 * 127), "is I8 [128, 127]"},
      {"layers.0.ffn.experts.0.w1.scale", set(Dtype::kF8E8M0, {128, 7}, 128 * 7), "must be F8_E8M0 [128, 8]"},
      {"layers.0.hc_attn_fn", set(Dtype::kF32, {24, 1023}, 24 * 1023 * 4), "must be F32 [24, 1024]"},
      {"layers.0.attn.attn_sink", set(Dtype::kF32, {9}, 36), "must be F32 [8]"},
      {"layers.0.ffn.gate.tid2eid", set(Dtype::kF32, {512, 3}, 512 * 3 * 4), "must be I64 [512, 3]"},
      {"layers.1.ffn.gate.tid2eid", byte(8 * 3 * 17, 8), "token 17 is sent to expert 8, there are 8"},
      {"layers.1.ffn.gate.tid2eid", byte(8 * 3 * 511 + 7, 0x80), "token 511 is sent to expert -92233"},
      {"layers.4.attn.wo_a.weight", byte(99, 0x7F), "contains NaN (F8_E4M3)"},
      {"layers.4.attn.wo_a.weight", byte(99, 0xFF), "contains NaN (F8_E4M3)"},
      {"layers.4.ffn.experts.2.w1.scale", byte(1023, 0xFF), "contains NaN (F8_E8M0)"},
      {"norm.weight", [](StoredTensor& t) { t.bytes[2] = 0xC1, t.bytes[3] = 0x7F; }, "contains NaN (BF16)"},
      {"hc_head_base", [](StoredTensor& t) { std::fill(t.bytes.end() - 4, t.bytes.end(), 0xFF); },
       "contains NaN (F32)"},
  };
}

class DamagedCheckpoint : public ::testing::TestWithParam<Damage> {};

TEST_P(DamagedCheckpoint, IsRefusedByTensorAndReason) {
  Checkpoint checkpoint = ReadCheckpoint("micro-flash");
  ASSERT_TRUE(checkpoint.contains(GetParam().tensor));
  if (GetParam().change) {
    GetParam().change(checkpoint[GetParam().tensor]);
  } else {
    checkpoint.erase(GetParam().tensor);
  }
  const auto weights = Load(WriteModel(checkpoint, ConfigText("micro-flash")));
  ASSERT_FALSE(weights.ok());
  EXPECT_EQ(weights.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(weights.status().message()), HasSubstr("\"" + GetParam().tensor + "\": "));
  EXPECT_THAT(std::string(weights.status().message()), HasSubstr(GetParam().reason));
}

INSTANTIATE_TEST_SUITE_P(Tensors, DamagedCheckpoint, ::testing::ValuesIn(Damages()));

TEST(Checkpoint, StackOfTheWrongNumberOfExpertsIsRefused) {
  Checkpoint checkpoint = ToTransformers(ReadCheckpoint("micro-flash"), 8);
  checkpoint["model.layers.1.mlp.experts.down_proj"] = {Dtype::kI8, {7, 256, 64}, std::vector<uint8_t>(7 * 256 * 64)};
  EXPECT_THAT(ErrorOf(WriteModel(checkpoint, ConfigText("micro-flash"))), HasSubstr("a stack of 8 experts"));
}

class IndexTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::MakeTempDir("index") / "model";
    std::filesystem::copy(testing::ModelPath("micro-odd"), dir_);
    std::ifstream in(dir_ / "model.safetensors.index.json");
    index_ = json::parse(in);
  }
  std::string ErrorWith(const std::string& text) {
    WriteText(dir_ / "model.safetensors.index.json", text);
    return ErrorOf(dir_);
  }
  std::string ErrorWithFile(const std::string& name) {
    json index = index_;
    index["weight_map"]["embed.weight"] = name;
    return ErrorWith(index.dump());
  }
  std::filesystem::path dir_;
  json index_;
};

TEST_F(IndexTest, NamesThatLeaveTheDirectoryAreRefused) {
  std::filesystem::copy(dir_ / "model-00001-of-00003.safetensors", dir_.parent_path() / "out.safetensors");
  EXPECT_THAT(ErrorWithFile("../out.safetensors"), HasSubstr("must stay below the model directory"));
  EXPECT_THAT(ErrorWithFile("a/../../out.safetensors"), HasSubstr("must stay below the model directory"));
  EXPECT_THAT(ErrorWithFile((dir_.parent_path() / "out.safetensors").string()), HasSubstr("must not be absolute"));
  EXPECT_THAT(ErrorWithFile(std::string("model\0.safetensors", 18)), HasSubstr("contains NUL"));
  EXPECT_THAT(ErrorWithFile("./model-00001-of-00003.safetensors"), HasSubstr("must stay below"));
  EXPECT_THAT(ErrorWithFile(std::string(2000, 'x') + ".safetensors"), HasSubstr("1 to 1024"));
  EXPECT_THAT(ErrorWithFile("/proc/self/environ"), HasSubstr("not a .safetensors file"));
  EXPECT_THAT(ErrorWithFile(""), HasSubstr("not a .safetensors file"));
}

TEST_F(IndexTest, LinksThatLeaveTheDirectoryAreRefusedAndOthersFollowed) {
  const std::filesystem::path file = dir_ / "model-00001-of-00003.safetensors";
  const std::filesystem::path outside = dir_.parent_path() / "out.safetensors";
  std::filesystem::rename(file, outside);
  std::filesystem::create_symlink(outside, file);
  EXPECT_THAT(ErrorOf(dir_), HasSubstr("symbolic link leads out of the model directory"));
  std::filesystem::remove(file);
  std::filesystem::create_symlink("../out.safetensors", file);
  EXPECT_THAT(ErrorOf(dir_), HasSubstr("symbolic link leads out of the model directory"));
  std::filesystem::remove(file);
  std::filesystem::create_directory_symlink(dir_.parent_path(), dir_ / "up");
  EXPECT_THAT(ErrorWithFile("up/out.safetensors"), HasSubstr("symbolic link leads out of the model directory"));
}

// models--X/{blobs,snapshots/REVISION}: every file of the revision is a link to one of the blobs.
std::filesystem::path AsCache(const std::filesystem::path& model) {
  const std::filesystem::path cache = testing::MakeTempDir("hub") / "models--lab--micro";
  const std::filesystem::path snapshot = cache / "snapshots" / "0a1b2c";
  std::filesystem::create_directories(snapshot);
  std::filesystem::create_directory(cache / "blobs");
  int n_blobs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(model)) {
    const std::string blob = "f00d" + std::to_string(n_blobs++);
    std::filesystem::copy(entry.path(), cache / "blobs" / blob);
    std::filesystem::create_symlink("../../blobs/" + blob, snapshot / entry.path().filename());
  }
  return snapshot;
}

TEST_F(IndexTest, TheCacheOfHuggingFaceLoads) {
  const std::filesystem::path snapshot = AsCache(dir_);
  const auto weights = Load(snapshot);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ((*weights)->digest, (*Load(dir_))->digest);
  std::filesystem::create_directory_symlink(snapshot, dir_.parent_path() / "current");
  EXPECT_TRUE(Load(dir_.parent_path() / "current").ok());
}

TEST_F(IndexTest, TheCacheOfHuggingFaceLeadsToItsOwnBlobsOnly) {
  const std::filesystem::path snapshot = AsCache(dir_);
  const std::filesystem::path file = snapshot / "model-00001-of-00003.safetensors";
  const std::filesystem::path outside = snapshot / ".." / ".." / "out.safetensors";
  std::filesystem::copy(dir_ / "model-00001-of-00003.safetensors", outside);
  for (const std::string to : {"../../out.safetensors", "../../blobs/../out.safetensors", "../../../blobs/f00d0"}) {
    std::filesystem::remove(file);
    std::filesystem::create_symlink(to, file);
    EXPECT_THAT(ErrorOf(snapshot), HasSubstr("symbolic link leads out of the model directory")) << to;
  }
  // A blob that is itself a link out.
  std::filesystem::create_symlink(outside, snapshot / ".." / ".." / "blobs" / "bad");
  std::filesystem::remove(file);
  std::filesystem::create_symlink("../../blobs/bad", file);
  EXPECT_THAT(ErrorOf(snapshot), HasSubstr("symbolic link leads out of the model directory"));
}

TEST_F(IndexTest, PointersOfGitLfsAreCalledByTheirName) {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1234\n";
  EXPECT_THAT(ErrorWith(pointer), HasSubstr("index.json: is a Git LFS pointer, not the file itself; run git lfs pull"));
  WriteText(dir_ / "model.safetensors.index.json", index_.dump());
  ASSERT_TRUE(Load(dir_).ok());
  WriteText(dir_ / "model-00002-of-00003.safetensors", pointer);
  EXPECT_THAT(ErrorOf(dir_), HasSubstr("model-00002-of-00003.safetensors: is a Git LFS pointer"));
  WriteText(dir_ / "config.json", pointer);
  EXPECT_THAT(ErrorOf(dir_), HasSubstr("config.json: is a Git LFS pointer"));
}

TEST_F(IndexTest, AByteOrderMarkIsPassedOver) {
  WriteText(dir_ / "model.safetensors.index.json", "\xEF\xBB\xBF" + index_.dump());
  WriteText(dir_ / "config.json", "\xEF\xBB\xBF" + ConfigText("micro-odd"));
  EXPECT_TRUE(Load(dir_).ok()) << Load(dir_).status();
  EXPECT_THAT(ErrorWith("\xEF\xBB\xBF"), HasSubstr("index: empty"));
}

TEST_F(IndexTest, ConfigThatIsALinkOutOfTheDirectoryIsRefused) {
  std::filesystem::rename(dir_ / "config.json", dir_.parent_path() / "config.json");
  std::filesystem::create_symlink("../config.json", dir_ / "config.json");
  EXPECT_THAT(ErrorOf(dir_), HasSubstr("symbolic link leads out"));
}

TEST_F(IndexTest, ContradictionsAreRefused) {
  EXPECT_THAT(ErrorWithFile("model-00004-of-00003.safetensors"), HasSubstr("No such file"));
  EXPECT_THAT(ErrorWithFile("model-00003-of-00003.safetensors"),
              HasSubstr("tensor \"embed.weight\" is not in \"model-00003-of-00003.safetensors\""));
  json index = index_;
  index["weight_map"].erase("embed.weight");
  EXPECT_THAT(ErrorWith(index.dump()), HasSubstr("\"embed.weight\": missing"));
  index["weight_map"]["embed.weight"] = 7;
  EXPECT_THAT(ErrorWith(index.dump()), HasSubstr("not given a file name"));
  index["weight_map"] = json::array();
  EXPECT_THAT(ErrorWith(index.dump()), HasSubstr("weight_map: not a JSON object"));
}

TEST_F(IndexTest, TextThatIsNoIndexIsRefused) {
  EXPECT_THAT(ErrorWith(""), HasSubstr("empty"));
  EXPECT_THAT(ErrorWith("{}"), HasSubstr("weight_map: missing"));
  EXPECT_THAT(ErrorWith("[1]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(ErrorWith("{\"weight_map\":{\"a\":\"b.safetensors\""), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorWith(std::string(100000, '[')), HasSubstr("index: "));
  EXPECT_THAT(ErrorWith("{\"weight_map\":{\"embed.weight\":\"model-00001-of-00003.safetensors\","
                        "\"embed.weight\":\"model-00002-of-00003.safetensors\"}}"),
              HasSubstr("\"embed.weight\" is given twice"));
}

TEST_F(IndexTest, OneByteShortFileIsRefused) {
  const std::filesystem::path file = dir_ / "model-00002-of-00003.safetensors";
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 1);
  EXPECT_THAT(ErrorOf(dir_), HasSubstr("model-00002-of-00003.safetensors"));
}

TEST_F(IndexTest, DirectoryWithoutTensorsIsRefusedWithWhatWasLookedFor) {
  const std::filesystem::path dir = testing::MakeTempDir("bare");
  WriteText(dir / "config.json", ConfigText("micro-odd"));
  const auto weights = Load(dir);
  EXPECT_EQ(weights.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(weights.status().message()), HasSubstr("no model.safetensors.index.json"));
}

}  // namespace
}  // namespace longshelf::engine
