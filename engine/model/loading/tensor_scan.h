#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weights_builder.h"

namespace longshelf::engine {

// What a scan does with tensors besides reading them. Called by several threads.
class TensorCopier {
 public:
  virtual ~TensorCopier() = default;
  // Before the first piece of a tensor.
  virtual absl::Status Begin(const UsedTensor& tensor) = 0;
  // Copies bytes [offset, offset + n) of a tensor and returns where they are now.
  virtual absl::StatusOr<const uint8_t*> Copy(const UsedTensor& tensor, size_t offset, size_t n) = 0;
};

// Reads every used tensor that is held here once, on several threads: refuses NaN (FP8 codes 0x7F and 0xFF, UE8M0 255,
// BF16 and F32 NaN) by tensor name, and returns the digest of ModelWeights. With a `copier` (may be null), every piece
// is copied first and read from the copy while it is in the cache. `progress` (may be null) is called on the calling
// thread. `exchange` (null when all are held) is then asked for the digests of the others.
absl::StatusOr<Digest> ScanTensors(const ModelConfig& config, std::vector<UsedTensor> used,
                                   const std::function<void(const LoadProgress&)>& progress, TensorCopier* copier,
                                   DigestExchange* exchange);

// The digest of ModelWeights when nothing is read here.
absl::StatusOr<Digest> AskForDigest(const ModelConfig& config, std::vector<UsedTensor> used, DigestExchange& exchange);

// SHA-256 over everything that the tensors' places depend on, and the config, but not over their bytes.
Digest LayoutDigest(const ModelConfig& config, const std::vector<UsedTensor>& used);

}  // namespace longshelf::engine
