#include "engine/model/kv_view.h"

#include <algorithm>

#include "kv_records.h"

namespace longshelf::engine {

std::vector<float> KvView::WindowRing(int64_t layer, int64_t n_tokens) const {
  const RecordFormat format = EntryFormat(config_, layout_.numerics());
  const int64_t n_rows = std::min(n_tokens, config_.window);
  std::vector<float> out(static_cast<size_t>(n_rows * format.width));
  const RecordRing ring = layout_.Window(layer);
  for (int64_t p = n_tokens - n_rows; p < n_tokens; ++p) {
    UnpackEntry(format, state_ + ring.offset + p % ring.n_rows * format.row_bytes,
                out.data() + p % config_.window * format.width);
  }
  return out;
}

std::vector<float> KvView::Entries(int64_t layer, int64_t n_entries) const {
  const RecordFormat format = EntryFormat(config_, layout_.numerics());
  std::vector<float> out(static_cast<size_t>(n_entries * format.width));
  for (int64_t i = 0; i < n_entries; ++i) {
    UnpackEntry(format, RecordAt(*layout_.Entries(layer), blocks_, i), out.data() + i * format.width);
  }
  return out;
}

std::vector<float> KvView::IndexKeys(int64_t layer, int64_t n_entries) const {
  const RecordFormat format = IndexKeyFormat(config_, layout_.numerics());
  std::vector<float> out(static_cast<size_t>(n_entries * format.width));
  for (int64_t i = 0; i < n_entries; ++i) {
    UnpackIndexKey(format, RecordAt(*layout_.IndexKeys(layer), blocks_, i), out.data() + i * format.width);
  }
  return out;
}

}  // namespace longshelf::engine
