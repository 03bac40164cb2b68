#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/model/weights_share.h"

namespace longshelf::engine {

// A weight matrix as it is stored: [rows = out features, cols = in features], row-major, not copied.
// Decode, exact in fp32:
//   kFp8:  e4m3(data[i*cols + j]) * 2^(scale[(i/128)*scale_cols + j/128] - 127)
//   kFp4:  e2m1(nibble j of row i; low nibble = even column) * 2^(scale[i*scale_cols + j/32] - 127)
//   kBf16: data is little-endian BF16; kF32: data is F32. No scale.
struct Matrix {
  enum class Format : uint8_t { kFp8, kFp4, kBf16, kF32 };
  Format format = Format::kBf16;
  int64_t rows = 0;
  int64_t cols = 0;
  const uint8_t* data = nullptr;
  const uint8_t* scale = nullptr;
  int64_t scale_cols = 0;
};

// Bytes of a matrix as stored, without its scale, and of its scale.
size_t MatrixBytes(const Matrix& matrix);
size_t ScaleBytes(const Matrix& matrix);

// Parameters of one hyper-connection site or head, fp32.
struct HyperConnection {
  Matrix fn;                 // F32 [n_out, hc_mult * D]; n_out = (2 + hc_mult) * hc_mult for sites, hc_mult for heads
  std::vector<float> base;   // [n_out]
  std::vector<float> scale;  // [3], or [1] for heads
};

// Pools `ratio` tokens into one entry of width d. coff = 2 when ratio is 4, else 1.
struct CompressorWeights {
  Matrix wkv;               // BF16 [coff * d, D]
  Matrix wgate;             // BF16 [coff * d, D]
  std::vector<float> ape;   // [ratio, coff * d]
  std::vector<float> norm;  // [d]
};

struct IndexerWeights {
  Matrix wq_b;          // FP8 [index_n_heads * index_head_dim, q_lora_rank]
  Matrix weights_proj;  // BF16 [index_n_heads, D]
  CompressorWeights compressor;
};

struct AttentionWeights {
  Matrix wq_a;                                  // FP8 [q_lora_rank, D]
  std::vector<float> q_norm;                    // [q_lora_rank]
  Matrix wq_b;                                  // FP8 [n_heads * head_dim, q_lora_rank]
  Matrix wkv;                                   // FP8 [head_dim, D]
  std::vector<float> kv_norm;                   // [head_dim]
  Matrix wo_a;                                  // FP8 [o_groups * o_lora_rank, n_heads * head_dim / o_groups]
  Matrix wo_b;                                  // FP8 [D, o_groups * o_lora_rank]
  std::vector<float> sink;                      // [n_heads]
  std::optional<CompressorWeights> compressor;  // ratio 4 or 128
  std::optional<IndexerWeights> indexer;        // ratio 4
};

// SwiGLU: w1 = gate [I, D], w3 = up [I, D], w2 = down [D, I].
struct ExpertWeights {
  Matrix w1;
  Matrix w2;
  Matrix w3;
};

struct MoeWeights {
  Matrix gate;                         // BF16 [E, D]
  std::vector<float> bias;             // [E]; empty on hash layers
  std::span<const int64_t> tid2eid;    // [vocab, n_experts_per_token]; empty unless hash layer; values checked < E
  std::vector<ExpertWeights> experts;  // [E]
  ExpertWeights shared;
};

struct LayerWeights {
  std::vector<float> attn_norm;  // [D]
  std::vector<float> ffn_norm;   // [D]
  HyperConnection hc_attn;
  HyperConnection hc_ffn;
  AttentionWeights attn;
  MoeWeights moe;
};

// The multi-token-prediction layer: joins the hidden state at a position with the embedding of the next token.
struct MtpWeights {
  LayerWeights layer;
  Matrix e_proj;             // FP8 [D, D]
  Matrix h_proj;             // FP8 [D, D]
  std::vector<float> enorm;  // [D]
  std::vector<float> hnorm;  // [D]
  std::vector<float> norm;   // [D]
  HyperConnection hc_head;
};

// The draft module of DSpark checkpoints: stages of sliding layers over a projection of the main model's streams, and a
// head in which every token of a block is scored by the one before.
struct DsparkWeights {
  Matrix main_proj;              // FP8 [D, n_targets * D]
  std::vector<float> main_norm;  // [D]
  std::vector<LayerWeights> stages;
  std::vector<float> norm;  // [D]
  HyperConnection hc_head;
  Matrix markov_w1;   // BF16 [vocab, markov_rank]
  Matrix markov_w2;   // BF16 [vocab, markov_rank]
  Matrix confidence;  // BF16 [1, D + markov_rank]
};

// Owns the mapped files or their copy; every Matrix points into them.
struct ModelWeights {
  ModelConfig config;
  Matrix embed;             // BF16 [vocab, D]
  Matrix head;              // BF16 [vocab, D]
  std::vector<float> norm;  // [D]
  HyperConnection hc_head;
  std::vector<LayerWeights> layers;
  std::vector<MtpWeights> mtp;
  std::optional<DsparkWeights> dspark;
  // SHA-256 over the config's values and, in order of official name, every used tensor's name, dtype, shape and the
  // SHA-256 of its bytes. Aliases, sharding and tensors that are not used do not change it.
  std::array<uint8_t, 32> digest{};
  // Tensors of the files that the config does not ask for, at most the first thousand. They are tolerated.
  std::vector<std::string> unused_tensors;
  std::shared_ptr<const void> storage;  // keeps the mappings (or generated buffers) alive
  bool from_files = false;              // matrices lie in mapped files, whose pages the kernel may drop and read again
  std::string huge_pages;               // with WeightsMemory::kHuge: which pages were got, in words
};

struct LoadProgress {
  uint64_t bytes_done = 0;
  uint64_t bytes_total = 0;
};
using ProgressFunction = std::function<void(const LoadProgress&)>;

enum class WeightsMemory : uint8_t {
  // The files are mapped and used as they lie. All processes of the machine share their pages in the page cache, which
  // may hold less than all of them.
  kMapped,
  // What is used of the files is copied once into huge pages, which the shards of a group share.
  kHuge,
};

using Digest = std::array<uint8_t, 32>;

// SHA-256.
Digest DigestOfBytes(std::span<const uint8_t> bytes);

// How shards that each read a part of the weights come to one digest of all.
class DigestExchange {
 public:
  virtual ~DigestExchange() = default;
  // Collective among the shards of a group. names: of all tensors, in order. digests: of their bytes, those that this
  // shard has read on entry, all on return. layout: of names, dtypes, shapes and config, which must be equal.
  // FAILED_PRECONDITION: two shards have read different bytes, or have other tensors; names the tensor and the shards.
  virtual absl::Status Exchange(const Digest& layout, std::span<const std::string_view> names,
                                std::span<std::optional<Digest>> digests) = 0;
};

// What of the weights this process reads and keeps: everything but the routed experts, and of these [begin, end). The
// others' matrices point to bytes that must not be read.
struct WeightsPart {
  int64_t experts_begin = 0;
  int64_t experts_end = 0;
  DigestExchange* exchange = nullptr;  // must be given
};

struct LoadOptions {
  WeightsMemory memory = WeightsMemory::kMapped;
  WeightsShare* share = nullptr;         // of this host's shards, with kHuge; null: a copy of our own
  std::optional<WeightsPart> part = {};  // none: all of them
};

// Loads and checks a checkpoint directory: every tensor the config implies is present with its dtype and shape, under
// its official name or an accepted synonym (docs/checkpoints.md). Names what is wrong. Calls `progress` (may be null)
// as bytes are digested. A checkpoint without any tensor of the draft module that its config names (or with another one
// in its place) loads without: with n_mtp_layers, or dspark.n_stages, 0. NaN in a weight or scale is refused.
// INVALID_ARGUMENT: the files are wrong. NOT_FOUND: a file is missing. RESOURCE_EXHAUSTED, with kHuge: there is no room
// for the copy.
absl::StatusOr<std::unique_ptr<const ModelWeights>> LoadModelWeights(const std::filesystem::path& model_dir,
                                                                     const ProgressFunction& progress,
                                                                     const LoadOptions& options = {});

// The same checks of names, dtypes and shapes without reading the large tensors: no search for NaN, no digest (zeros).
// For tools that look at a checkpoint without serving it.
absl::StatusOr<std::unique_ptr<const ModelWeights>> OpenModelWeights(const std::filesystem::path& model_dir);

// Random weights of any config, held in memory in the stored formats: for benchmarks. Same seed, same weights; the
// digest is of config and seed only. RESOURCE_EXHAUSTED: they would not fit the machine's memory.
absl::StatusOr<std::unique_ptr<const ModelWeights>> MakeRandomModelWeights(const ModelConfig& config, uint64_t seed);

}  // namespace longshelf::engine
