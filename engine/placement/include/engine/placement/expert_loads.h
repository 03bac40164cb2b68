#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/comm/expert_transport.h"

namespace longshelf::engine {

// Prompts and answers choose experts differently, so their rows are counted apart.
enum class StepPhase : uint8_t { kDecode, kPrefill };
inline constexpr size_t kStepPhases = 2;

// Rows that experts were chosen for, by phase, layer and expert. A value.
class ExpertLoads {
 public:
  ExpertLoads(uint32_t n_layers, uint32_t n_experts)
      : n_layers_(n_layers), n_experts_(n_experts), counts_(kStepPhases * n_layers * n_experts) {}

  uint32_t n_layers() const { return n_layers_; }
  uint32_t n_experts() const { return n_experts_; }
  void Add(StepPhase phase, uint32_t layer, std::span<const ExpertAssignment> assignments);
  uint64_t at(StepPhase phase, uint32_t layer, uint32_t expert) const { return counts_[Index(phase, layer, expert)]; }
  // Of both phases.
  uint64_t rows(uint32_t layer, uint32_t expert) const {
    return at(StepPhase::kDecode, layer, expert) + at(StepPhase::kPrefill, layer, expert);
  }
  void Clear() { counts_.assign(counts_.size(), 0); }

  // Between shards of one build.
  std::string_view bytes() const {
    return {reinterpret_cast<const char*>(counts_.data()), counts_.size() * sizeof(uint64_t)};
  }
  // INTERNAL: of another size.
  absl::Status AddBytes(std::string_view bytes);

 private:
  size_t Index(StepPhase phase, uint32_t layer, uint32_t expert) const {
    return (static_cast<size_t>(phase) * n_layers_ + layer) * n_experts_ + expert;
  }
  uint32_t n_layers_;
  uint32_t n_experts_;
  std::vector<uint64_t> counts_;
};

}  // namespace longshelf::engine
