#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/model/config.h"
#include "engine/model/kv_table.h"

namespace longshelf::engine {

// Layers of this ratio have an indexer, and an entry of theirs pools the window before its own too.
inline constexpr int kIndexedRatio = 4;

// Where a compressor keeps what later entries need of positions, fp32 pairs of value a and gate g, g with ape added:
// a ring of n_rows rows by position % n_rows, a [n_rows, coff * d] and then g.
struct CarryRing {
  size_t offset = 0;  // in the state slot
  int64_t n_rows = 0;
};

// A ring of records by position % n_rows.
struct RecordRing {
  size_t offset = 0;  // in the state slot
  int64_t n_rows = 0;
};

// What a state slot has room for beyond the state itself. It shows in the size of a slot only, never in what is
// exported, in blocks or in Describe().
struct StateRoom {
  int64_t n_draft_max = 0;  // tokens that can be taken back, 0 to kDraftTokensLimit
  DrafterKind drafter = DrafterKind::kNone;
};

// Byte layout of KV blocks and state slots, computed from the config; nothing of Flash or Pro is fixed here.
//
// A slot can be taken back: everything in it is a ring by position, with n_draft_max rows more than the next token
// needs. So a slot into which n tokens were written holds every state from n - n_draft_max tokens on, and going back
// is to continue from there: nothing is copied or undone. What the drafter keeps lies behind it; zeros are its empty
// state, which is what a new or imported slot has.
//
// The component table of a config: for each ratio that its layers have, the smallest first, the entries of those
// layers, then, for kIndexedRatio, their index keys.
//
// Native records: entry and window row = FP8 [nope_dim] | BF16 [rope_dim] | UE8M0 [ceil(nope_dim/64)] | pad to 8 bytes;
// index key = FP4 [index_head_dim/2] | UE8M0 [index_head_dim/32]. fp32 records: F32 [width].
class KvLayout {
 public:
  // REQUIRES: room.n_draft_max within its bounds.
  KvLayout(const ModelConfig& config, Numerics numerics, StateRoom room = {});

  Numerics numerics() const { return numerics_; }
  int64_t n_draft_max() const { return room_.n_draft_max; }
  int64_t window() const { return config_.window; }
  int64_t index_head_dim() const { return config_.index_head_dim; }
  size_t block_bytes() const { return table_.block_bytes(); }
  size_t state_bytes() const { return state_bytes_; }
  int64_t entry_bytes() const { return entry_bytes_; }
  int64_t index_key_bytes() const { return index_key_bytes_; }
  const KvTable& table() const { return table_; }
  const std::vector<KvComponent>& components() const { return table_.components(); }
  // Null when the layer has no such component.
  const KvComponent* Entries(int64_t layer) const;
  const KvComponent* IndexKeys(int64_t layer) const;
  // Stable text of the table and of what is stored beside it, hashed into the KV fingerprint.
  std::string Describe() const;

  RecordRing Window(int64_t layer) const { return windows_[static_cast<size_t>(layer)]; }
  CarryRing EntryCarry(int64_t layer) const { return entry_carry_[static_cast<size_t>(layer)]; }
  CarryRing IndexCarry(int64_t layer) const { return index_carry_[static_cast<size_t>(layer)]; }
  // The drafter's part of the slot: which positions it has (DraftState), the window of each of its layers,
  // and with MTP the streams of a position whose next token is not known yet, F32 [hc_mult, D].
  size_t DraftOffset() const { return draft_offset_; }
  RecordRing DraftWindow(int64_t stage) const { return draft_windows_[static_cast<size_t>(stage)]; }
  size_t DraftStreamsOffset() const { return draft_streams_offset_; }

  // A slot for a sequence of zero tokens.
  void ResetState(std::byte* slot) const;

  // What must be kept to continue after n_tokens, in logical (never ring) order; the same bytes whatever the history
  // of the slot. Size depends on n_tokens only. n_tokens may be lower than what was written, by n_draft_max at most.
  size_t StateExportBytes(int64_t n_tokens) const;
  // The most of any position.
  size_t StateExportBytesMax() const;
  void ExportState(const std::byte* slot, int64_t n_tokens, std::span<std::byte> out) const;
  // INVALID_ARGUMENT when the size is not StateExportBytes(n_tokens).
  absl::Status ImportState(std::span<const std::byte> bytes, int64_t n_tokens, std::byte* slot) const;

  // See KvTable.
  void ClearTail(std::byte* block, int64_t n_tokens_in_block) const { table_.ClearTail(block, n_tokens_in_block); }

 private:
  struct Carry {
    CarryRing ring;
    int ratio;
    int64_t d;
    int64_t width;  // coff * d
  };
  void AddComponents(std::string_view id, int ratio, std::vector<int>& of_layer);
  RecordRing AddWindow(int64_t n_rows);
  CarryRing AddCarry(int ratio, int64_t d);
  void AddDrafter();
  template <typename Visit>
  static void VisitCarry(const Carry& carry, int64_t n_tokens, const Visit& visit);
  template <typename Visit>
  void VisitLive(int64_t n_tokens, const Visit& visit) const;

  ModelConfig config_;
  Numerics numerics_;
  StateRoom room_;
  int64_t entry_bytes_ = 0;
  int64_t index_key_bytes_ = 0;
  size_t state_bytes_ = 0;
  KvTable table_;
  std::vector<int> entries_of_layer_;  // index into table_, -1 = none
  std::vector<int> index_keys_of_layer_;
  std::vector<RecordRing> windows_;
  std::vector<CarryRing> entry_carry_;
  std::vector<CarryRing> index_carry_;
  std::vector<Carry> carries_;
  size_t draft_offset_ = 0;
  std::vector<RecordRing> draft_windows_;
  size_t draft_streams_offset_ = 0;
};

}  // namespace longshelf::engine
