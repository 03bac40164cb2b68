#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/model/config.h"
#include "engine/model/kv_layout.h"

namespace longshelf::engine {

struct StepSize {
  int64_t n_rows = 0;
  int64_t n_received = 0;  // rows that may arrive for this shard's experts
  int64_t n_logits = 0;    // rows that want logits
};

// An upper bound of what a step takes from its workspace on `n_threads` threads. Generous: memory that no step comes to
// is never touched.
size_t StepMemoryBytes(const ModelConfig& config, const KvLayout& layout, const StepSize& size, int n_threads);

// Columns of what a DSpark module reads of the main model.
int64_t DsparkTargetWidth(const ModelConfig& config);
// Columns of the widest product, and scratch of the largest work item.
int64_t WidestColumns(const ModelConfig& config);
int64_t ItemScratchBytes(const ModelConfig& config);

}  // namespace longshelf::engine
