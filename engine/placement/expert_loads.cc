#include "engine/placement/expert_loads.h"

#include <cstring>

#include "absl/strings/str_cat.h"

namespace longshelf::engine {

void ExpertLoads::Add(StepPhase phase, uint32_t layer, std::span<const ExpertAssignment> assignments) {
  if (layer >= n_layers_) return;
  for (const ExpertAssignment& a : assignments) {
    if (a.expert < n_experts_) ++counts_[Index(phase, layer, a.expert)];
  }
}

absl::Status ExpertLoads::AddBytes(std::string_view bytes) {
  if (bytes.size() != counts_.size() * sizeof(uint64_t)) {
    return absl::InternalError(
        absl::StrCat("loads of experts in ", bytes.size(), " bytes, expected ", counts_.size() * sizeof(uint64_t)));
  }
  for (size_t i = 0; i < counts_.size(); ++i) {
    uint64_t count = 0;
    std::memcpy(&count, bytes.data() + i * sizeof(count), sizeof(count));
    counts_[i] += count;
  }
  return absl::OkStatus();
}

}  // namespace longshelf::engine
