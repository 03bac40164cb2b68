#include "tensor_scan.h"

#include <openssl/evp.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/str_join.h"
#include "common/check.h"
#include "common/status.h"
#include "dtype.h"
#include "json_fields.h"
#include "text.h"

namespace longshelf::engine {
namespace {

// Small enough to be in the second-level cache for both readers of it.
constexpr size_t kPieceBytes = 1 << 18;
constexpr unsigned kMaxThreads = 8;
constexpr uint64_t kReports = 200;  // about as many calls of `progress` as are worth showing

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    LONGSHELF_CHECK(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }
  void Update(const void* data, size_t size) { LONGSHELF_CHECK(EVP_DigestUpdate(context_.get(), data, size) == 1); }
  Digest Finish() {
    Digest digest{};
    LONGSHELF_CHECK(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr) == 1);
    return digest;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

template <typename Word, Word kMagnitude, Word kLargestNumber>
bool AnyAbove(std::span<const uint8_t> bytes) {
  Word found = 0;
  for (size_t i = 0; i + sizeof(Word) <= bytes.size(); i += sizeof(Word)) {
    Word word = 0;
    std::memcpy(&word, bytes.data() + i, sizeof(word));
    found |= static_cast<Word>((word & kMagnitude) > kLargestNumber);
  }
  return found != 0;
}

bool HasNan(Dtype dtype, std::span<const uint8_t> bytes) {
  switch (dtype) {
    case Dtype::kF8E4M3:
      return AnyAbove<uint8_t, 0x7F, 0x7E>(bytes);
    case Dtype::kF8E8M0:
      return AnyAbove<uint8_t, 0xFF, 0xFE>(bytes);
    case Dtype::kBf16:
      return AnyAbove<uint16_t, 0x7FFF, 0x7F80>(bytes);
    case Dtype::kF32:
      return AnyAbove<uint32_t, 0x7FFFFFFF, 0x7F800000>(bytes);
    default:
      return false;
  }
}

struct ScanResult {
  absl::Status status;
  Digest digest{};
  bool has_nan = false;
};

// Whole words of every dtype fit kPieceBytes, so no value is cut in two.
absl::Status ReadTensor(const UsedTensor& tensor, TensorCopier* copier, std::atomic<uint64_t>& bytes_done,
                        ScanResult& result) {
  Sha256 sha;
  const std::span<const uint8_t> bytes = tensor.view->bytes;
  if (copier != nullptr) RETURN_IF_ERROR(copier->Begin(tensor));
  for (size_t done = 0; done < bytes.size(); done += kPieceBytes) {
    std::span<const uint8_t> piece = bytes.subspan(done, std::min(bytes.size() - done, kPieceBytes));
    if (copier != nullptr) {
      ASSIGN_OR_RETURN(const uint8_t* copy, copier->Copy(tensor, done, piece.size()));
      piece = {copy, piece.size()};
    }
    result.has_nan = result.has_nan || HasNan(tensor.view->dtype, piece);
    sha.Update(piece.data(), piece.size());
    bytes_done.fetch_add(piece.size(), std::memory_order_relaxed);
  }
  result.digest = sha.Finish();
  return absl::OkStatus();
}

std::string CanonicalDspark(const DsparkConfig& c) {
  if (c.n_stages == 0) {
    return "";
  }
  return Cat("dspark ", absl::StrJoin({c.n_stages, c.block_size, int64_t{c.noise_token_id}, c.markov_rank}, ","),
             " targets ", absl::StrJoin(c.target_layers, ","), "\n");
}

// What the weights mean, spelled one way, so that a config written with aliases has the same digest.
std::string CanonicalConfig(const ModelConfig& c) {
  return Cat(
      "v1 ",
      absl::StrJoin({c.vocab_size,
                     c.hidden_size,
                     c.n_layers,
                     c.n_mtp_layers,
                     c.n_hash_layers,
                     c.n_heads,
                     c.head_dim,
                     c.rope_dim,
                     c.q_lora_rank,
                     c.o_groups,
                     c.o_lora_rank,
                     c.window,
                     c.index_n_heads,
                     c.index_head_dim,
                     c.index_topk,
                     c.n_routed_experts,
                     c.n_shared_experts,
                     c.n_experts_per_token,
                     c.moe_intermediate_size,
                     c.hc_mult,
                     c.hc_sinkhorn_iters,
                     c.original_max_positions,
                     c.max_positions,
                     static_cast<int64_t>(c.clamp_shared_expert)},
                    ","),
      " ratios ", absl::StrJoin(c.compress_ratios, ","), " numbers ",
      absl::StrJoin(
          {c.routed_scaling_factor, c.swiglu_limit, c.hc_eps, c.rms_norm_eps, c.rope_theta, c.compress_rope_theta,
           c.rope_factor, c.rope_beta_fast, c.rope_beta_slow},
          ",", [](std::string* out, double value) { absl::StrAppend(out, absl::Hex(std::bit_cast<uint64_t>(value))); }),
      " experts ", c.expert_dtype, "\n", CanonicalDspark(c.dspark));
}

std::string DescribeUsed(const UsedTensor& tensor) {
  return Cat(tensor.name, " ", DescribeTensor(tensor.view->dtype, tensor.view->shape));
}

Digest Combine(const ModelConfig& config, std::span<const UsedTensor> used,
               std::span<const std::optional<Digest>> digests) {
  Sha256 sha;
  const std::string text = CanonicalConfig(config);
  sha.Update(text.data(), text.size());
  for (size_t i = 0; i < used.size(); ++i) {
    const std::string line = DescribeUsed(used[i]) + "\n";
    sha.Update(line.data(), line.size());
    sha.Update(digests[i]->data(), digests[i]->size());
  }
  return sha.Finish();
}

void SortByName(std::vector<UsedTensor>& used) {
  std::sort(used.begin(), used.end(), [](const UsedTensor& a, const UsedTensor& b) { return a.name < b.name; });
}

// Places differ from host to host.
Digest LayoutWithoutPlaces(const ModelConfig& config, std::vector<UsedTensor> used) {
  for (UsedTensor& tensor : used) tensor.place = 0;
  return LayoutDigest(config, used);
}

absl::StatusOr<Digest> CompleteDigest(const ModelConfig& config, const std::vector<UsedTensor>& used,
                                      std::vector<std::optional<Digest>> digests, DigestExchange* exchange) {
  if (exchange != nullptr) {
    std::vector<std::string_view> names;
    for (const UsedTensor& tensor : used) names.push_back(tensor.name);
    RETURN_IF_ERROR(exchange->Exchange(LayoutWithoutPlaces(config, used), names, digests));
  }
  for (size_t i = 0; i < used.size(); ++i) {
    if (!digests[i].has_value()) {
      return absl::InternalError(Cat("tensor ", QuotedName(used[i].name), " was read by no shard"));
    }
  }
  return Combine(config, used, digests);
}

}  // namespace

Digest DigestOfBytes(std::span<const uint8_t> bytes) {
  Sha256 sha;
  sha.Update(bytes.data(), bytes.size());
  return sha.Finish();
}

Digest LayoutDigest(const ModelConfig& config, const std::vector<UsedTensor>& used) {
  Sha256 sha;
  const std::string text = CanonicalConfig(config);
  sha.Update(text.data(), text.size());
  for (const UsedTensor& tensor : used) {
    const std::string line = Cat(DescribeUsed(tensor), " at ", tensor.place, "\n");
    sha.Update(line.data(), line.size());
  }
  return sha.Finish();
}

absl::StatusOr<Digest> AskForDigest(const ModelConfig& config, std::vector<UsedTensor> used, DigestExchange& exchange) {
  SortByName(used);
  return CompleteDigest(config, used, std::vector<std::optional<Digest>>(used.size()), &exchange);
}

absl::StatusOr<Digest> ScanTensors(const ModelConfig& config, std::vector<UsedTensor> used,
                                   const std::function<void(const LoadProgress&)>& progress, TensorCopier* copier,
                                   DigestExchange* exchange) {
  SortByName(used);
  LoadProgress report;
  for (const UsedTensor& tensor : used) {
    report.bytes_total += tensor.held ? tensor.view->bytes.size() : 0;
  }
  std::vector<ScanResult> results(used.size());
  std::atomic<size_t> next = 0;
  std::atomic<uint64_t> bytes_done = 0;
  std::atomic<bool> failed = false;
  const auto scan = [&](bool reports) {
    for (size_t i = next.fetch_add(1); i < used.size() && !failed; i = next.fetch_add(1)) {
      if (!used[i].held) continue;
      results[i].status = ReadTensor(used[i], copier, bytes_done, results[i]);
      if (!results[i].status.ok()) failed = true;
      const uint64_t done = bytes_done.load(std::memory_order_relaxed);
      if (reports && progress && done - report.bytes_done >= report.bytes_total / kReports) {
        report.bytes_done = done;
        progress(report);
      }
    }
  };
  {
    std::vector<std::jthread> helpers;
    const unsigned n_threads = std::clamp(std::thread::hardware_concurrency(), 1U, kMaxThreads);
    for (unsigned i = 1; i < n_threads; ++i) {
      helpers.emplace_back(scan, false);
    }
    scan(true);
  }
  for (size_t i = 0; i < used.size(); ++i) {
    if (!results[i].status.ok()) {
      return Annotate(results[i].status, Cat("tensor ", QuotedName(used[i].name)));
    }
  }
  if (progress) {
    report.bytes_done = report.bytes_total;
    progress(report);
  }
  for (size_t i = 0; i < used.size(); ++i) {
    if (results[i].has_nan) {
      return absl::InvalidArgumentError(
          Cat("tensor ", QuotedName(used[i].name), ": contains NaN (", DtypeName(used[i].view->dtype), ")"));
    }
  }
  std::vector<std::optional<Digest>> digests(used.size());
  for (size_t i = 0; i < used.size(); ++i) {
    if (used[i].held) digests[i] = results[i].digest;
  }
  return CompleteDigest(config, used, std::move(digests), exchange);
}

}  // namespace longshelf::engine
