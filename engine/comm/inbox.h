#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "expert_messages.h"
#include "mapped_memory.h"

namespace longshelf::engine {

// What shapes every inbox of a group.
struct InboxShape {
  int n_sources = 0;
  size_t dispatch_bytes = 0;  // the largest dispatch message
  size_t combine_rows = 0;    // results that come back to one shard
  size_t result_stride = 0;

  size_t dispatch_offset(int source) const;
  size_t results_offset() const;
  size_t n_bytes() const;
};

// Where messages for one shard arrive: a file in shared memory that its owner makes and its neighbours map, or memory
// of its own when there are none. Flags count exchanges and only grow; whoever sees one sees everything before it.
class Inbox {
 public:
  // Whole, so that a full /dev/shm is an error here and not a SIGBUS later. RESOURCE_EXHAUSTED: no room.
  static absl::StatusOr<std::unique_ptr<Inbox>> Make(const std::string& path, const InboxShape& shape);
  static absl::StatusOr<std::unique_ptr<Inbox>> Open(const std::string& path, const InboxShape& shape);
  static absl::StatusOr<std::unique_ptr<Inbox>> Private(const InboxShape& shape);
  Inbox(const Inbox&) = delete;
  Inbox& operator=(const Inbox&) = delete;

  std::byte* dispatch(int source) { return memory_.data() + shape_.dispatch_offset(source); }
  std::byte* results() { return memory_.data() + shape_.results_offset(); }
  MessageHeader& combine_header(int source) { return lines(source)->combine_header; }
  std::atomic<uint64_t>& dispatched(int source) { return lines(source)->dispatched; }
  std::atomic<uint64_t>& combined(int source) { return lines(source)->combined; }

 private:
  // Of one source; flags on lines of their own, or two writers would fight over one.
  struct Lines {
    alignas(128) std::atomic<uint64_t> dispatched;
    alignas(128) std::atomic<uint64_t> combined;
    alignas(128) MessageHeader combine_header;
  };
  static_assert(std::atomic<uint64_t>::is_always_lock_free);
  friend struct InboxShape;

  Inbox(MappedMemory memory, const InboxShape& shape) : memory_(std::move(memory)), shape_(shape) {}
  static absl::StatusOr<std::unique_ptr<Inbox>> Map(int fd, const InboxShape& shape);
  Lines* lines(int source) { return reinterpret_cast<Lines*>(memory_.data()) + source; }

  const MappedMemory memory_;
  const InboxShape shape_;
};

}  // namespace longshelf::engine
