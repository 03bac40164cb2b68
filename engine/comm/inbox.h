#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

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

// Where messages for one shard arrive: shared memory of the shards of its host, or memory of its own when it has no
// neighbours. Flags count exchanges and only grow; whoever sees one sees everything before it.
class Inbox {
 public:
  Inbox() = default;
  // `memory` has shape.n_bytes().
  Inbox(MappedMemory memory, const InboxShape& shape) : memory_(std::move(memory)), shape_(shape) {}
  bool is_mapped() const { return memory_.data() != nullptr; }

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

  Lines* lines(int source) { return reinterpret_cast<Lines*>(memory_.data()) + source; }

  MappedMemory memory_;
  InboxShape shape_;
};

// What a shard lets its neighbours read where it lies: the rows that it dispatches, and results for them.
class Outbox {
 public:
  // `memory` has NumBytes() of these.
  Outbox(MappedMemory memory, size_t rows_bytes, size_t results_bytes)
      : memory_(std::move(memory)), rows_bytes_(rows_bytes), results_bytes_(results_bytes) {}
  static size_t NumBytes(size_t rows_bytes, size_t results_bytes) {
    return RoundUpTo(rows_bytes, kMessageUnitBytes) + results_bytes;
  }
  std::byte* rows() const { return memory_.data(); }
  std::byte* results() const { return memory_.data() + RoundUpTo(rows_bytes_, kMessageUnitBytes); }
  size_t rows_bytes() const { return rows_bytes_; }
  size_t results_bytes() const { return results_bytes_; }

 private:
  MappedMemory memory_;
  size_t rows_bytes_;
  size_t results_bytes_;
};

}  // namespace longshelf::engine
