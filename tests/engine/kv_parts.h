#pragma once

#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model/config.h"
#include "engine/model/kv_layout.h"

namespace longshelf::engine {

// One part of what a sequence resumes from, to take it away in tests: bytes of a block, or of an exported state.
struct KvPart {
  std::string name;
  std::vector<std::pair<size_t, size_t>> ranges;  // offset and size
};

// The components of a full block.
inline std::vector<KvPart> PartsOfBlock(const KvLayout& layout) {
  std::vector<KvPart> parts;
  for (const KvComponent& c : layout.components()) {
    parts.push_back({absl::StrCat(c.id, " of layer ", c.layer, ", ratio ", c.ratio),
                     {{c.offset, static_cast<size_t>(c.rows * c.row_bytes)}}});
  }
  return parts;
}

// The windows and carries of a state as it is exported after n_tokens. Which byte is whose the layout says itself: in a
// slot each ring has a byte of its own, and that is exported.
inline std::vector<KvPart> PartsOfState(const KvLayout& layout, const ModelConfig& config, int64_t n_tokens) {
  std::map<size_t, std::string> rings;  // by offset in the slot
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    rings[layout.Window(layer).offset] = absl::StrCat("window of layer ", layer);
    const int ratio = config.ratio(layer);
    if (ratio != 0) rings[layout.EntryCarry(layer).offset] = absl::StrCat("carry of layer ", layer, ", ratio ", ratio);
    if (layout.IndexKeys(layer) != nullptr) {
      rings[layout.IndexCarry(layer).offset] = absl::StrCat("index carry of layer ", layer);
    }
  }
  std::vector<std::byte> slot(layout.state_bytes());
  std::vector<KvPart> parts;
  for (const auto& [offset, name] : rings) {
    std::memset(slot.data() + offset, static_cast<int>(parts.size()), slot.size() - offset);
    parts.push_back({name, {}});
  }
  std::vector<std::byte> exported(layout.StateExportBytes(n_tokens));
  layout.ExportState(slot.data(), n_tokens, exported);
  for (size_t at = 0; at < exported.size(); ++at) {
    auto& ranges = parts[static_cast<size_t>(exported[at])].ranges;
    if (ranges.empty() || ranges.back().first + ranges.back().second != at) ranges.emplace_back(at, 0);
    ++ranges.back().second;
  }
  return parts;
}

}  // namespace longshelf::engine
