#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/model/config.h"
#include "engine/model/kv_layout.h"

namespace longshelf::engine {

// An upper bound of what a step of `n_rows` rows takes from its workspace, when `n_received` rows may arrive for this
// shard's experts and `n_logits` rows want logits, on `n_threads` threads. Generous: memory that no step comes to is
// never touched.
size_t StepMemoryBytes(const ModelConfig& config, const KvLayout& layout, int64_t n_rows, int64_t n_received,
                       int64_t n_logits, int n_threads);

// Columns of the widest product, and scratch of the largest work item.
int64_t WidestColumns(const ModelConfig& config);
int64_t ItemScratchBytes(const ModelConfig& config);

}  // namespace longshelf::engine
