#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace longshelf::engine {

// Copies of KV that one shard keeps beside its arena: checkpoints, and what is on its way from or to a KV store. Each
// ends in the stamp of the tokens that it is of (token_stamp.h). The leader names them by number (kv_copy.h) and says
// when they go; the bytes stay here. Any thread.
class KvCopies {
 public:
  using Bytes = std::shared_ptr<const std::vector<std::byte>>;

  void Add(uint64_t number, Bytes bytes);
  // Null when there is none of this number.
  Bytes Find(uint64_t number) const;
  // Nothing when there is none: what was to be copied may have failed.
  void Drop(uint64_t number);
  size_t size() const;
  uint64_t n_bytes() const;

 private:
  // Guards all below: the engine thread makes and drops copies while others fetch and send them.
  mutable std::mutex mutex_;
  std::unordered_map<uint64_t, Bytes> copies_;
  uint64_t n_bytes_ = 0;
};

}  // namespace longshelf::engine
