#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>

#include "absl/status/status.h"
#include "common/status.h"
#include "dtype.h"
#include "engine/model/plan.h"
#include "engine/model/weights.h"
#include "tensor_scan.h"
#include "text.h"
#include "weights_builder.h"

namespace longshelf::engine {
namespace {

// SplitMix64 by counter: any word of any tensor can be computed alone.
uint64_t RandomWord(uint64_t key, uint64_t i) {
  uint64_t z = key + (i + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

uint64_t HashName(std::string_view name, uint64_t seed) {
  uint64_t hash = seed;
  for (const char c : name) {
    hash = RandomWord(hash, static_cast<unsigned char>(c));
  }
  return hash;
}

// Random bits where `keep` is set, `fixed` elsewhere, in every 64-bit word.
void FillMasked(uint64_t key, uint64_t keep, uint64_t fixed, std::span<uint8_t> out) {
  size_t i = 0;
  for (; i + 8 <= out.size(); i += 8) {
    const uint64_t word = (RandomWord(key, i / 8) & keep) | fixed;
    std::memcpy(out.data() + i, &word, 8);
  }
  const uint64_t word = (RandomWord(key, i / 8) & keep) | fixed;
  std::memcpy(out.data() + i, &word, out.size() - i);
}

uint64_t Repeat16(uint16_t value) { return value * 0x0001000100010001ULL; }
uint64_t Repeat32(uint32_t value) { return value * 0x0000000100000001ULL; }
uint64_t Repeat8(uint8_t value) { return value * 0x0101010101010101ULL; }

// Exponent of the power of two nearest to scale / sqrt(fan_in): products of such a matrix keep the size of their input.
int ExponentFor(double scale, int64_t fan_in) {
  return static_cast<int>(std::lround(std::log2(scale / std::sqrt(static_cast<double>(fan_in)))));
}

// sign * [1, 2) * 2^exponent, root mean square 1.53 * 2^exponent.
void FillBf16(uint64_t key, int exponent, std::span<uint8_t> out) {
  FillMasked(key, Repeat16(0x807F), Repeat16(static_cast<uint16_t>((exponent + 127) << 7)), out);
}

void FillF32(uint64_t key, int exponent, std::span<uint8_t> out) {
  FillMasked(key, Repeat32(0x807FFFFFU), Repeat32(static_cast<uint32_t>(exponent + 127) << 23), out);
}

// Distinct experts per token, as a trained table has.
void FillHashTable(uint64_t key, int64_t cols, int64_t n_experts, std::span<uint8_t> out) {
  const size_t n_rows = out.size() / static_cast<size_t>(cols * 8);
  for (size_t row = 0; row < n_rows; ++row) {
    const uint64_t first = RandomWord(key, row) % static_cast<uint64_t>(n_experts);
    for (int64_t col = 0; col < cols; ++col) {
      const auto expert = static_cast<int64_t>((first + static_cast<uint64_t>(col)) % static_cast<uint64_t>(n_experts));
      std::memcpy(out.data() + (row * static_cast<size_t>(cols) + static_cast<size_t>(col)) * 8, &expert, 8);
    }
  }
}

void FillTensor(const TensorSpec& spec, uint64_t key, std::span<uint8_t> out) {
  switch (spec.role) {
    case TensorRole::kHashTable:
      return FillHashTable(key, spec.shape[1], spec.fan_in, out);
    case TensorRole::kScale:
      // One exponent for all blocks. FP8 codes have root mean square 0.8, FP4 codes 2.9; 1/2 is between them.
      return FillMasked(key, 0, Repeat8(static_cast<uint8_t>(127 + ExponentFor(0.5, spec.fan_in))), out);
    case TensorRole::kNorm:
      // Exactly one: norms keep their scale.
      if (spec.dtype == Dtype::kBf16) {
        return FillMasked(key, 0, Repeat16(0x3F80), out);
      }
      return FillMasked(key, 0, Repeat32(0x3F800000U), out);
    case TensorRole::kSmall:
      return FillF32(key, -6, out);
    case TensorRole::kEmbedding:
      return FillBf16(key, -1, out);
    case TensorRole::kMatrix:
      break;
  }
  switch (spec.dtype) {
    case Dtype::kF8E4M3:
      return FillMasked(key, Repeat8(0x9F), Repeat8(0x20), out);  // +-[1/8, 2)
    case Dtype::kI8:
      return FillMasked(key, ~0ULL, 0, out);  // every nibble is a number
    case Dtype::kBf16:
      return FillBf16(key, ExponentFor(0.65, spec.fan_in), out);
    default:
      return FillF32(key, ExponentFor(0.65, spec.fan_in), out);
  }
}

// What can be had without pushing other programs out: MemAvailable, or less when a memory cgroup says so. Zero when
// neither can be read.
uint64_t AvailableMemoryBytes() {
  uint64_t available = 0;
  std::ifstream meminfo("/proc/meminfo");
  for (std::string key; meminfo >> key; meminfo.ignore(std::numeric_limits<std::streamsize>::max(), '\n')) {
    if (key == "MemAvailable:" && meminfo >> available) {
      available *= 1024;
      break;
    }
  }
  uint64_t limit = 0;
  uint64_t used = 0;
  std::ifstream max("/sys/fs/cgroup/memory.max");  // "max" when there is no limit
  std::ifstream current("/sys/fs/cgroup/memory.current");
  if (max >> limit && current >> used) {
    available = std::min(available, limit > used ? limit - used : 0);
  }
  return available;
}

struct RandomStorage final : TensorSource {
  explicit RandomStorage(uint64_t seed_in) : seed(seed_in) {}

  absl::StatusOr<const TensorView*> Get(const TensorSpec& spec) override {
    const std::optional<uint64_t> n_bytes = TensorBytes(spec.dtype, spec.shape);
    if (!n_bytes.has_value()) {
      return absl::ResourceExhaustedError(Cat("tensor ", spec.name, ": size overflows 64 bits"));
    }
    uint8_t* data = owned.Allocate(*n_bytes);
    FillTensor(spec, HashName(spec.name, seed), {data, *n_bytes});
    TensorView& view = views[spec.name];
    view = {spec.dtype, spec.shape, {data, *n_bytes}};
    return &view;
  }

  uint64_t seed;
  OwnedBuffers owned;
  std::map<std::string, TensorView> views;
};

}  // namespace

absl::StatusOr<std::unique_ptr<const ModelWeights>> MakeRandomModelWeights(const ModelConfig& config, uint64_t seed) {
  // All of it is asked for before any of it is generated. Within the bounds of a ModelConfig the sum cannot overflow.
  const ParameterTable parameters = CountParameters(config);
  const auto needed = static_cast<uint64_t>(parameters.main.stored_bytes + parameters.draft_module.stored_bytes);
  const uint64_t available = AvailableMemoryBytes();
  if (needed > available / 10 * 9) {
    return absl::ResourceExhaustedError(Cat("random weights of this config need ", needed >> 20,
                                            " MiB of memory, this machine has ", available >> 20,
                                            " MiB available; take a config with fewer layers or experts"));
  }
  auto storage = std::make_shared<RandomStorage>(seed);
  ASSIGN_OR_RETURN(BuiltWeights built, BuildWeights(config, *storage, storage->owned));
  TensorView seed_view = {Dtype::kU64, {1}, {reinterpret_cast<const uint8_t*>(&seed), sizeof(seed)}};
  ASSIGN_OR_RETURN(built.weights->digest,
                   ScanTensors(config, {{.name = "random seed", .view = &seed_view}}, nullptr, nullptr, nullptr));
  built.weights->storage = std::move(storage);
  return std::unique_ptr<const ModelWeights>(std::move(built.weights));
}

}  // namespace longshelf::engine
