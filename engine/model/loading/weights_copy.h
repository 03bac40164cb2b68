#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint_files.h"
#include "engine/model/weights.h"
#include "huge_memory.h"
#include "tensor_scan.h"
#include "weights_builder.h"

namespace longshelf::engine {

struct CopiedWeights {
  std::unique_ptr<HugeMemory> memory;  // tensor t lies at used[t].place
  Digest digest{};                     // of ModelWeights
};

// Gives every used tensor that is held its place and brings all of them into one sealed memory: copied from the files
// and checked, by the leader of the share or when there is none, otherwise mapped when the leader is done, unread. The
// files' bytes leave the page cache as they are copied. Views of `used` must lie in `checkpoint`. FAILED_PRECONDITION:
// the leader has other tensors than this process.
absl::StatusOr<CopiedWeights> CopyWeights(const ModelConfig& config, const CheckpointTensors& checkpoint,
                                          std::vector<UsedTensor>& used, const LoadOptions& options,
                                          const ProgressFunction& progress);

}  // namespace longshelf::engine
