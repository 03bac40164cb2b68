#include <algorithm>
#include <cmath>
#include <limits>

#include "attention.h"
#include "kv_records.h"

// The softmax over window and entries, tile by tile. Tiles are cut at multiples of kTileKeys: of the position for the
// window, of the entry's index for entries that are all seen, of the place in the ascending list for chosen ones. Order
// of a query's tiles: window, then entries. So its bits depend on its position alone.
namespace longshelf::engine {
namespace {

// Query heads that share a decoded tile: enough to hide what decoding it costs.
constexpr int64_t kGroupHeads = 256;
constexpr int64_t kMaxGroupRows = 16;

int64_t GroupRows(const ModelConfig& config) {
  return std::clamp<int64_t>(kGroupHeads / config.n_heads, 1, kMaxGroupRows);
}

struct Positions {
  int64_t begin;
  int64_t end;
};

// What the query at a position sees of window and rows.
Positions KeysInWindow(const SequenceRows& rows, int64_t window, int64_t query) {
  if (rows.is_draft_block) return {std::max(rows.n_past - window, rows.first_key), rows.n_total()};
  return {std::max(query - window + 1, rows.first_key), query + 1};
}

}  // namespace

// Scratch of a work item.
struct Attention::Item {
  std::byte* tile;       // one decoded key tile
  float* sums;           // [group rows, heads, width]
  SoftmaxState* states;  // [group rows, heads]
  float* work;           // [heads, kTileKeys]

  Item(const ModelConfig& config, const Group& group, std::byte* scratch) {
    const int64_t width = RoundUpToStep(config.head_dim);
    tile = scratch;
    sums = reinterpret_cast<float*>(tile + KeyTileBytes(config.head_dim));
    work = sums + group.n * group.n_heads * width;
    states = reinterpret_cast<SoftmaxState*>(work + group.n_heads * kTileKeys);
    std::fill_n(sums, group.n * group.n_heads * width, 0.0F);
    std::fill_n(states, group.n * group.n_heads, SoftmaxState{-std::numeric_limits<float>::infinity(), 0.0F});
  }
};

int64_t AttentionScratchBytes(const ModelConfig& config) {
  const int64_t width = RoundUpToStep(config.head_dim);
  const int64_t heads = GroupRows(config) * config.n_heads;
  return KeyTileBytes(config.head_dim) + 4 * (heads * width + config.n_heads * kTileKeys) +
         heads * static_cast<int64_t>(sizeof(SoftmaxState));
}

void Attention::Attend(Ops& ops, std::span<const SequenceRows> parts) {
  const ModelConfig& config = ops.config();
  const int64_t group_width = config.n_heads * config.head_dim / config.o_groups;
  int64_t n = 0;
  for (const SequenceRows& rows : parts) n += rows.n_rows;
  o_rows_ = ops.TakeRows(n * config.o_groups, group_width);
  const int64_t group_rows = GroupRows(config);
  int64_t n_groups = 0;
  for (const SequenceRows& rows : parts) n_groups += (rows.n_rows + group_rows - 1) / group_rows;
  // Few groups: their heads are split, by whole output groups, as each of these is one operand. No more than there are
  // threads, as every part decodes all keys.
  const int64_t n_threads = ops.pool().n_threads();
  const int64_t n_splits = std::clamp<int64_t>((n_threads + n_groups - 1) / n_groups, 1, config.o_groups);
  const int64_t split_groups = (config.o_groups + n_splits - 1) / n_splits;
  const int64_t heads_per_group = config.n_heads / config.o_groups;
  auto* groups = ops.memory().Take<Group>(n_groups * n_splits);
  int64_t n_items = 0;
  for (const SequenceRows& rows : parts) {
    for (int64_t i = 0; i < rows.n_rows; i += group_rows) {
      for (int64_t g = 0; g < config.o_groups; g += split_groups) {
        groups[n_items++] = {&rows, i, std::min(group_rows, rows.n_rows - i), g * heads_per_group,
                             std::min(split_groups, config.o_groups - g) * heads_per_group};
      }
    }
  }
  ops.pool().Run(n_items, [&](int64_t item, int thread) { AttendGroup(ops, groups[item], thread); });
}

void Attention::AttendGroup(Ops& ops, const Group& group, int thread) const {
  Item item(ops.config(), group, ops.scratch(thread));
  AttendWindow(ops, group, item);
  if (ratio_ == 128) {
    AttendEntries(ops, group, item);
  } else if (ratio_ == 4) {
    const int64_t last = group.rows->n_past + group.first + group.n - 1;
    if (chosen_.All(last)) {
      AttendEntries(ops, group, item);
    } else {
      for (int64_t i = 0; i < group.n; ++i) AttendChosen(ops, group, i, item);
    }
  }
  FinishHeads(ops, group, item);
}

void Attention::AttendTile(const Ops& ops, const Group& group, int64_t i, int64_t begin, int64_t end,
                           Item& item) const {
  if (begin >= end) return;
  const ModelConfig& config = ops.config();
  const int64_t width = config.head_dim;
  const int64_t row = group.rows->row_begin + group.first + i;
  AttendJob job;
  job.q = q_rows_.row(row * config.n_heads + group.first_head);
  job.q_stride = q_rows_.stride;
  job.form = q_rows_.form;
  job.n_heads = group.n_heads;
  job.width = width;
  job.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(width)));
  job.round = ops.native();
  job.tile = item.tile;
  job.begin = begin;
  job.end = end;
  job.states = item.states + i * group.n_heads;
  job.sums = item.sums + i * group.n_heads * RoundUpToStep(width);
  job.work = item.work;
  ops.kernels().attend(job);
}

void Attention::AttendWindow(Ops& ops, const Group& group, Item& item) const {
  const ModelConfig& config = ops.config();
  const SequenceRows& rows = *group.rows;
  const int64_t row_bytes = layout_.entry_bytes();
  const KeyRecords format{ops.native(), config.head_dim, config.rope_dim};
  const std::byte* ring = rows.state + window_.offset;
  const int64_t first_query = rows.n_past + group.first;
  const int64_t first_key = KeysInWindow(rows, config.window, first_query).begin;
  const int64_t end = KeysInWindow(rows, config.window, first_query + group.n - 1).end;
  for (int64_t tile = first_key / kTileKeys * kTileKeys; tile < end; tile += kTileKeys) {
    const std::byte* records[kTileKeys];
    const int64_t n_keys = std::min(kTileKeys, end - tile);
    for (int64_t k = 0; k < n_keys; ++k) {
      const int64_t position = tile + k;
      records[k] = nullptr;
      if (position >= rows.n_past) {
        records[k] = records_ + (rows.row_begin + position - rows.n_past) * row_bytes;
      } else if (position >= first_key) {
        records[k] = ring + position % window_.n_rows * row_bytes;
      }
    }
    ops.kernels().load_keys(format, records, n_keys, q_rows_.form, item.tile);
    for (int64_t i = 0; i < group.n; ++i) {
      const Positions keys = KeysInWindow(rows, config.window, first_query + i);
      AttendTile(ops, group, i, std::max<int64_t>(keys.begin - tile, 0), std::min(kTileKeys, keys.end - tile), item);
    }
  }
}

// Every entry that a query sees, tiles shared by the group.
void Attention::AttendEntries(Ops& ops, const Group& group, Item& item) const {
  const ModelConfig& config = ops.config();
  const SequenceRows& rows = *group.rows;
  const KeyRecords format{ops.native(), config.head_dim, config.rope_dim};
  const KvComponent& component = *layout_.Entries(layer_);
  const int64_t first_query = rows.n_past + group.first;
  const int64_t n_entries = (first_query + group.n) / ratio_;
  for (int64_t tile = 0; tile < n_entries; tile += kTileKeys) {
    const std::byte* records[kTileKeys];
    const int64_t n_keys = std::min(kTileKeys, n_entries - tile);
    for (int64_t k = 0; k < n_keys; ++k) records[k] = RecordAt(component, rows.blocks, tile + k);
    ops.kernels().load_keys(format, records, n_keys, q_rows_.form, item.tile);
    for (int64_t i = 0; i < group.n; ++i) {
      AttendTile(ops, group, i, 0, std::min(kTileKeys, (first_query + i + 1) / ratio_ - tile), item);
    }
  }
}

// What the indexer chose for one query.
void Attention::AttendChosen(Ops& ops, const Group& group, int64_t i, Item& item) const {
  const ModelConfig& config = ops.config();
  const SequenceRows& rows = *group.rows;
  const KeyRecords format{ops.native(), config.head_dim, config.rope_dim};
  const KvComponent& component = *layout_.Entries(layer_);
  const int64_t position = rows.n_past + group.first + i;
  const bool all = chosen_.All(position);
  const int64_t n_entries = all ? ChosenEntries::Visible(position) : chosen_.topk;
  const int32_t* chosen = chosen_.row(rows.row_begin + group.first + i);
  for (int64_t tile = 0; tile < n_entries; tile += kTileKeys) {
    const std::byte* records[kTileKeys];
    const int64_t n_keys = std::min(kTileKeys, n_entries - tile);
    for (int64_t k = 0; k < n_keys; ++k) {
      records[k] = RecordAt(component, rows.blocks, all ? tile + k : chosen[tile + k]);
    }
    ops.kernels().load_keys(format, records, n_keys, q_rows_.form, item.tile);
    AttendTile(ops, group, i, 0, n_keys, item);
  }
}

// Sink, division, inverse RoPE, rounding; the heads of an output group become one operand.
void Attention::FinishHeads(const Ops& ops, const Group& group, Item& item) const {
  const ModelConfig& config = ops.config();
  const int64_t width = config.head_dim;
  const int64_t heads_per_group = config.n_heads / config.o_groups;
  const int64_t group_width = heads_per_group * width;
  // The queries are used up by now: their memory takes the outputs.
  for (int64_t i = 0; i < group.n; ++i) {
    const int64_t row = group.rows->row_begin + group.first + i;
    const Rotation rotation = rotations_.at(row);
    for (int64_t h = 0; h < group.n_heads; ++h) {
      const int64_t head = group.first_head + h;
      float* o = q_ + (row * config.n_heads + head) * width;
      const int64_t at = i * group.n_heads + h;
      ops.kernels().finish_head(item.sums + at * RoundUpToStep(width), item.states[at],
                                weights_.sink[static_cast<size_t>(head)], width, q_rows_.form, o);
      ops.Round(o, width);
      ops.kernels().rotate(o + config.nope_dim(), rotation.cos, rotation.sin, rotations_.n_pairs, true, ops.native());
    }
    for (int64_t g = group.first_head / heads_per_group; g < (group.first_head + group.n_heads) / heads_per_group;
         ++g) {
      ops.Pack(q_ + row * config.n_heads * width + g * group_width, group_width, o_rows_, row * config.o_groups + g);
    }
  }
}

}  // namespace longshelf::engine
