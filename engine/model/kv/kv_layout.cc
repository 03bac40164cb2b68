#include "engine/model/kv_layout.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/check.h"
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
  // Component-major.
  const auto n_layers = static_cast<std::ptrdiff_t>(config.n_layers);
  const std::set<int> ratios(config.compress_ratios.begin(), config.compress_ratios.begin() + n_layers);
  for (const int ratio : ratios) {
    if (ratio == 0) continue;
    AddComponents(kEntries, ratio, entries_of_layer_);
    if (ratio == kIndexedRatio) AddComponents(kIndexKeys, ratio, index_keys_of_layer_);
  }

  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    windows_.push_back(AddWindow(config.window + room.n_draft_max));
    const int ratio = config.ratio(layer);
    entry_carry_.push_back(ratio != 0 ? AddCarry(ratio, config.head_dim) : CarryRing{});
    index_carry_.push_back(ratio == kIndexedRatio ? AddCarry(ratio, config.index_head_dim) : CarryRing{});
  }
  AddDrafter();
}

void KvLayout::AddComponents(std::string_view id, int ratio, std::vector<int>& of_layer) {
  const bool is_entry = id == kEntries;
  const char* native = is_entry ? "fp8+bf16+ue8m0" : "fp4+ue8m0";
  for (int64_t layer = 0; layer < config_.n_layers; ++layer) {
    if (config_.ratio(layer) != ratio) continue;
    of_layer[static_cast<size_t>(layer)] = static_cast<int>(components().size());
    const absl::Status added = table_.Add(id, layer, ratio, is_entry ? entry_bytes_ : index_key_bytes_,
                                          numerics_ == Numerics::kNative ? native : "f32");
    LONGSHELF_CHECK(added.ok());  // whoever read the config has bounded it
  }
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

// An entry of kIndexedRatio pools its own window and the one before, others their own only.
CarryRing KvLayout::AddCarry(int ratio, int64_t d) {
  const int64_t n_windows = ratio == kIndexedRatio ? 2 : 1;
  const CarryRing ring{state_bytes_, n_windows * ratio + room_.n_draft_max};
  const int64_t width = n_windows * d;
  state_bytes_ = AlignUp(state_bytes_ + static_cast<size_t>(2 * ring.n_rows * width) * sizeof(float));
  carries_.push_back({ring, ratio, d, width});
  return ring;
}

const KvComponent* KvLayout::Entries(int64_t layer) const {
  const int i = entries_of_layer_[static_cast<size_t>(layer)];
  return i < 0 ? nullptr : &components()[static_cast<size_t>(i)];
}

const KvComponent* KvLayout::IndexKeys(int64_t layer) const {
  const int i = index_keys_of_layer_[static_cast<size_t>(layer)];
  return i < 0 ? nullptr : &components()[static_cast<size_t>(i)];
}

std::string KvLayout::Describe() const {
  return absl::StrCat("longshelf-kv/2 numerics=", std::string(NumericsName(numerics_)), " block_tokens=", kBlockTokens,
                      " window=", config_.window, " token_stamp=1\n", table_.Serialize());
}

void KvLayout::ResetState(std::byte* slot) const { std::memset(slot, 0, state_bytes_); }

// The rows of the window that is not complete yet, a then g; with kIndexedRatio then the first half of the rows of the
// last complete one, which the next entry pools too.
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
  if (carry.ratio == kIndexedRatio && n_complete > 0) rows(n_complete - carry.ratio, n_complete, carry.d);
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

}  // namespace longshelf::engine
