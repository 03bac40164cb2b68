#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/model/config.h"
#include "engine/model/kv_layout.h"
#include "kernel_table.h"

// The packed rows of KV blocks and windows (kv_layout.h describes the bytes). Packing quantises; unpacking is exact.
namespace longshelf::engine {

// Channels per UE8M0 scale of an entry.
inline constexpr int64_t kEntryQuantBlock = 64;
inline constexpr int64_t kIndexQuantBlock = 32;

struct RecordFormat {
  Numerics numerics;
  int64_t width;     // head_dim or index_head_dim
  int64_t rope_dim;  // entries: channels kept in BF16; index keys: 0
  int64_t row_bytes;
};

RecordFormat EntryFormat(const ModelConfig& config, Numerics numerics);
RecordFormat IndexKeyFormat(const ModelConfig& config, Numerics numerics);

// values: [width], BF16-representable in native numerics.
void PackEntry(const KernelTable& kernels, const RecordFormat& format, const float* values, std::byte* record);
void UnpackEntry(const RecordFormat& format, const std::byte* record, float* values);
// One group of at most 32 channels to FP4 codes; returns the UE8M0 scale code.
uint8_t QuantizeE2m1Group(const float* x, int64_t n, uint8_t* codes);
void PackIndexKey(const RecordFormat& format, const float* values, std::byte* record);
void UnpackIndexKey(const RecordFormat& format, const std::byte* record, float* values);

// Record `row` of a component, wherever its block lies.
inline std::byte* RecordAt(const KvComponent& component, std::span<std::byte* const> blocks, int64_t row) {
  return blocks[static_cast<size_t>(row / component.rows)] + component.offset +
         static_cast<size_t>(row % component.rows * component.row_bytes);
}

}  // namespace longshelf::engine
