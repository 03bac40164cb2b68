#include "inbox.h"

namespace longshelf::engine {
namespace {

constexpr size_t kPageBytes = 4096;

}  // namespace

size_t InboxShape::dispatch_offset(int source) const {
  const size_t lines = RoundUpTo(static_cast<size_t>(n_sources) * sizeof(Inbox::Lines), kPageBytes);
  return lines + static_cast<size_t>(source) * RoundUpTo(dispatch_bytes, kPageBytes);
}
size_t InboxShape::results_offset() const { return dispatch_offset(n_sources); }
size_t InboxShape::n_bytes() const { return results_offset() + RoundUpTo(combine_rows * result_stride, kPageBytes); }

}  // namespace longshelf::engine
