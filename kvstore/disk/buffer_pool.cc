#include "buffer_pool.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace longshelf::kvstore::disk {

AlignedBuffer BufferPool::Take(size_t n_bytes) {
  {
    std::lock_guard lock(mutex_);
    // The last one given is most likely in the processor's cache.
    const auto found = std::find_if(kept_.rbegin(), kept_.rend(),
                                    [n = PaddedBytes(n_bytes)](const AlignedBuffer& each) { return each.size() == n; });
    if (found != kept_.rend()) {
      AlignedBuffer buffer = std::move(*found);
      kept_.erase(std::next(found).base());
      kept_bytes_ -= buffer.size();
      return buffer;
    }
  }
  return AlignedBuffer(n_bytes);
}

void BufferPool::Give(AlignedBuffer buffer) {
  if (buffer.span().data() == nullptr || buffer.size() > bytes_max_) return;
  std::deque<AlignedBuffer> too_many;  // freed without the lock
  std::lock_guard lock(mutex_);
  kept_bytes_ += buffer.size();
  kept_.push_back(std::move(buffer));
  while (kept_bytes_ > bytes_max_) {
    kept_bytes_ -= kept_.front().size();
    too_many.push_back(std::move(kept_.front()));
    kept_.pop_front();
  }
}

size_t BufferPool::n_bytes() const {
  std::lock_guard lock(mutex_);
  return kept_bytes_;
}

}  // namespace longshelf::kvstore::disk
