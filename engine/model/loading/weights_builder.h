#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/checkpoint.h"
#include "engine/model/weights.h"

namespace longshelf::engine {

// What a tensor is for; random weights get their magnitudes from it.
enum class TensorRole : uint8_t { kMatrix, kScale, kEmbedding, kNorm, kSmall, kHashTable };

// A tensor under its official name with its published dtype and shape.
struct TensorSpec {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  TensorRole role = TensorRole::kMatrix;
  int64_t fan_in = 1;  // columns of the matrix it belongs to
};

// Where tensors come from: a checkpoint, or a generator.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // Null when there is none. A checkpoint may return another dtype or shape than the published one.
  virtual absl::StatusOr<const TensorView*> Get(const TensorSpec& spec) = 0;
};

// Buffers of tensors that cannot be used where they are: misaligned, or of another dtype.
struct OwnedBuffers {
  std::vector<std::unique_ptr<uint64_t[]>> buffers;
  uint8_t* Allocate(size_t n_bytes);
};

// A tensor that went into the weights, for the digest and the search for NaN.
struct UsedTensor {
  std::string name;
  const TensorView* view = nullptr;
  uint64_t place = 0;  // in the memory that it is copied to, if it is
  bool held = true;    // false: an expert of other shards, which is never read here
};

struct BuiltWeights {
  std::unique_ptr<ModelWeights> weights;  // without digest and storage
  std::vector<UsedTensor> used;           // in order of use
};

// Every tensor the config implies, each checked for dtype and shape before it is used. INVALID_ARGUMENT names the
// tensor, what it is and what it must be.
absl::StatusOr<BuiltWeights> BuildWeights(const ModelConfig& config, TensorSource& source, OwnedBuffers& owned);

}  // namespace longshelf::engine
