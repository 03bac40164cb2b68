#pragma once

#include <cstddef>
#include <optional>

#include "disk/disk_index.h"
#include "kvstore/queries.h"
#include "object_index.h"

namespace longshelf::kvstore {

// One Lookup, in steps that are each short: forward along the chain to where it ends, then back from there, deepest
// first, counting a use of each block and listing what hangs off it, then the probes. Objects may come and go between
// two steps; what the way back does not find any more ends the prefix there, and nothing beyond it is reported.
// Owner: the thread that looks up. The query and the index must outlive it.
class LookupWalk {
 public:
  // `disk`: where else objects may be; null for nowhere.
  LookupWalk(const LookupQuery& query, ObjectIndex& index, disk::DiskIndex* disk)
      : query_(query), index_(index), disk_(disk) {}

  // Visits some keys; false when the result is complete. REQUIRES: nobody else uses the index meanwhile.
  bool Step();
  LookupResult TakeResult() { return std::move(result_); }

 private:
  enum class Stage { kForward, kBack, kProbes, kDone };

  void Forward(size_t n_keys);
  void Back(size_t n_keys);
  void Probe(size_t n_keys);
  // In memory or on disk, of this fingerprint.
  bool HasBlock(const BlockKey& hash, bool use);
  std::optional<ObjectHead> Find(const BlockKey& hash, ObjectKind kind) const;
  void List(const ObjectHead& checkpoint);
  void ListTails(const BlockKey& parent);
  // Nothing that was listed hangs off the present prefix.
  void StartListing();

  const LookupQuery& query_;
  ObjectIndex& index_;
  disk::DiskIndex* const disk_;
  Stage stage_ = Stage::kForward;
  size_t position_ = 0;  // in the chain (kBack: how many of its keys are left), then in the probes
  size_t n_steps_left_ = 0;
  size_t n_tails_ = 0;
  size_t n_boundaries_ = 0;
  LookupResult result_;
};

}  // namespace longshelf::kvstore
