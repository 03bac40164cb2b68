#include "engine/model/kv_layout.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "draft_state.h"
#include "kv_records.h"

namespace longshelf::engine {
namespace {

constexpr size_t kAlign = 64;

size_t AlignUp(size_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

}  // namespace

KvLayout::KvLayout(const ModelConfig& config, Numerics numerics, StateRoom room)
    : config_(config),
      numerics_(numerics),
      room_(room),
      entry_bytes_(EntryFormat(config, numerics).row_bytes),
      index_key_bytes_(IndexKeyFormat(config, numerics).row_bytes) {
  entries_of_layer_.assign(static_cast<size_t>(config.n_layers), -1);
  index_keys_of_layer_.assign(static_cast<size_t>(config.n_layers), -1);
  // Component-major: every layer's CSA entries, then index keys, then HCA entries.
  const auto add = [&](KvComponent::Kind kind, int ratio, std::vector<int>& of_layer) {
    for (int64_t layer = 0; layer < config.n_layers; ++layer) {
      if (config.ratio(layer) != ratio) continue;
      const int64_t row_bytes = kind == KvComponent::Kind::kEntries ? entry_bytes_ : index_key_bytes_;
      of_layer[static_cast<size_t>(layer)] = static_cast<int>(components_.size());
      components_.push_back({kind, layer, ratio, kBlockTokens / ratio, row_bytes, block_bytes_});
      block_bytes_ += static_cast<size_t>(kBlockTokens / ratio * row_bytes);
    }
  };
  add(KvComponent::Kind::kEntries, 4, entries_of_layer_);
  add(KvComponent::Kind::kIndexKeys, 4, index_keys_of_layer_);
  add(KvComponent::Kind::kEntries, 128, entries_of_layer_);

  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    windows_.push_back(AddWindow(config.window + room.n_draft_max));
    const int ratio = config.ratio(layer);
    entry_carry_.push_back(ratio != 0 ? AddCarry(ratio, config.head_dim) : CarryRing{});
    index_carry_.push_back(ratio == 4 ? AddCarry(ratio, config.index_head_dim) : CarryRing{});
  }
  AddDrafter();
}

RecordRing KvLayout::AddWindow(int64_t n_rows) {
  const RecordRing ring{state_bytes_, n_rows};
  state_bytes_ = AlignUp(state_bytes_ + static_cast<size_t>(n_rows * entry_bytes_));
  return ring;
}

void KvLayout::AddDrafter() {
  draft_offset_ = state_bytes_;
  if (room_.drafter == DrafterKind::kNone) return;
  state_bytes_ = AlignUp(state_bytes_ + sizeof(DraftState));
  if (room_.drafter == DrafterKind::kDspark) {
    for (int64_t i = 0; i < config_.dspark.n_stages; ++i) draft_windows_.push_back(AddWindow(config_.window));
    return;
  }
  // An MTP layer reads what it wrote for its own guesses.
  draft_windows_.push_back(AddWindow(config_.window + room_.n_draft_max));
  draft_streams_offset_ = state_bytes_;
  state_bytes_ = AlignUp(state_bytes_ + static_cast<size_t>(config_.hc_mult * config_.hidden_size) * sizeof(float));
}

// An entry of ratio 4 pools its own window and the one before, others their own only.
CarryRing KvLayout::AddCarry(int ratio, int64_t d) {
  const int64_t n_windows = ratio == 4 ? 2 : 1;
  const CarryRing ring{state_bytes_, n_windows * ratio + room_.n_draft_max};
  const int64_t width = n_windows * d;
  state_bytes_ = AlignUp(state_bytes_ + static_cast<size_t>(2 * ring.n_rows * width) * sizeof(float));
  carries_.push_back({ring, ratio, d, width});
  return ring;
}

const KvComponent* KvLayout::Entries(int64_t layer) const {
  const int i = entries_of_layer_[static_cast<size_t>(layer)];
  return i < 0 ? nullptr : &components_[static_cast<size_t>(i)];
}

const KvComponent* KvLayout::IndexKeys(int64_t layer) const {
  const int i = index_keys_of_layer_[static_cast<size_t>(layer)];
  return i < 0 ? nullptr : &components_[static_cast<size_t>(i)];
}

std::string KvLayout::Describe() const {
  std::string out = absl::StrCat("longshelf-kv/2 numerics=", std::string(NumericsName(numerics_)),
                                 " block_tokens=", kBlockTokens, " window=", config_.window, "\n");
  for (const KvComponent& c : components_) {
    absl::StrAppend(&out, c.kind == KvComponent::Kind::kEntries ? "entries" : "index_keys", " layer=", c.layer,
                    " ratio=", c.ratio, " rows=", c.rows, " row_bytes=", c.row_bytes, " offset=", c.offset, "\n");
  }
  return out;
}

void KvLayout::ResetState(std::byte* slot) const { std::memset(slot, 0, state_bytes_); }

// The rows of the window that is not complete yet, a then g; with ratio 4 then the first half of the rows of the last
// complete one, which the next entry pools too.
template <typename Visit>
void KvLayout::VisitCarry(const Carry& carry, int64_t n_tokens, const Visit& visit) {
  const auto rows = [&](int64_t begin, int64_t end, int64_t n_columns) {
    for (const int64_t first_row : {int64_t{0}, carry.ring.n_rows}) {
      for (int64_t p = begin; p < end; ++p) {
        const int64_t at = (first_row + p % carry.ring.n_rows) * carry.width;
        visit(carry.ring.offset + static_cast<size_t>(at) * sizeof(float),
              static_cast<size_t>(n_columns) * sizeof(float));
      }
    }
  };
  const int64_t n_complete = n_tokens - n_tokens % carry.ratio;
  rows(n_complete, n_tokens, carry.width);
  if (carry.ratio == 4 && n_complete > 0) rows(n_complete - carry.ratio, n_complete, carry.d);
}

// Walks every live range of a slot in export order; `visit(offset, bytes)`.
template <typename Visit>
void KvLayout::VisitLive(int64_t n_tokens, const Visit& visit) const {
  const int64_t n_window = std::min(n_tokens, config_.window);
  for (const RecordRing& ring : windows_) {
    for (int64_t p = n_tokens - n_window; p < n_tokens; ++p) {
      visit(ring.offset + static_cast<size_t>(p % ring.n_rows * entry_bytes_), static_cast<size_t>(entry_bytes_));
    }
  }
  for (const Carry& carry : carries_) VisitCarry(carry, n_tokens, visit);
}

size_t KvLayout::StateExportBytes(int64_t n_tokens) const {
  size_t total = 0;
  VisitLive(n_tokens, [&](size_t, size_t bytes) { total += bytes; });
  return total;
}

size_t KvLayout::StateExportBytesMax() const {
  // Behind the first window only the open rows of the compressors come and go, with a block at the longest.
  size_t most = 0;
  for (int64_t n = 0; n < kBlockTokens; ++n) most = std::max(most, StateExportBytes(config_.window + kBlockTokens + n));
  return most;
}

void KvLayout::ExportState(const std::byte* slot, int64_t n_tokens, std::span<std::byte> out) const {
  std::byte* to = out.data();
  VisitLive(n_tokens, [&](size_t offset, size_t bytes) {
    std::memcpy(to, slot + offset, bytes);
    to += bytes;
  });
}

absl::Status KvLayout::ImportState(std::span<const std::byte> bytes, int64_t n_tokens, std::byte* slot) const {
  if (n_tokens < 0 || bytes.size() != StateExportBytes(n_tokens)) {
    return absl::InvalidArgumentError(absl::StrCat("state of ", n_tokens, " tokens has ", bytes.size(),
                                                   " bytes; this model and layout need ",
                                                   n_tokens < 0 ? 0 : StateExportBytes(n_tokens)));
  }
  ResetState(slot);
  const std::byte* from = bytes.data();
  VisitLive(n_tokens, [&](size_t offset, size_t n) {
    std::memcpy(slot + offset, from, n);
    from += n;
  });
  return absl::OkStatus();
}

void KvLayout::ClearTail(std::byte* block, int64_t n_tokens_in_block) const {
  for (const KvComponent& c : components_) {
    const int64_t n_live = n_tokens_in_block / c.ratio;
    std::memset(block + c.offset + static_cast<size_t>(n_live * c.row_bytes), 0,
                static_cast<size_t>((c.rows - n_live) * c.row_bytes));
  }
}

}  // namespace longshelf::engine
