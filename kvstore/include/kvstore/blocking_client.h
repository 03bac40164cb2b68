#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/client.h"

namespace longshelf::kvstore {

// A client whose calls block the calling thread until they have ended: for tools, tests and benches. Any number of
// threads at once; none of them a callback of the client, which would wait for itself.
class BlockingClient {
 public:
  // The client must outlive this.
  explicit BlockingClient(Client& client) : client_(client) {}

  absl::StatusOr<LookupResult> Lookup(const LookupQuery& query, absl::Duration timeout);

  // Called on the calling thread, once per item, in the order of `items`, one payload at a time.
  using OnObject = std::function<void(size_t index, absl::StatusOr<FetchedObject> object)>;
  absl::Status Get(const Fingerprint& fingerprint, std::span<const GetItem> items, absl::Duration timeout,
                   const OnObject& on_object);
  // Get with every payload kept: result[i] is the payload of items[i].
  std::vector<absl::StatusOr<std::vector<std::byte>>> GetMany(const Fingerprint& fingerprint,
                                                              std::span<const GetItem> items, absl::Duration timeout);

  // result[i] is the outcome of items[i]. At most kMaxKeysPerCall.
  std::vector<absl::StatusOr<PutOutcome>> PutMany(std::span<const PutItem> items, absl::Duration timeout);

  absl::StatusOr<TouchResult> Touch(const TouchQuery& query, absl::Duration timeout);
  absl::StatusOr<DropResult> Drop(std::span<const PlacedKey> keys, absl::Duration timeout);
  absl::StatusOr<DropResult> DropCache(std::span<const PlacedKey> keys, absl::Duration timeout);
  absl::StatusOr<DropResult> DropNamespace(const NamespaceDrop& drop, absl::Duration timeout);
  absl::StatusOr<ListResult> List(const ListQuery& query, absl::Duration timeout);
  absl::StatusOr<StoreStats> Stats(absl::Duration timeout);

 private:
  Client& client_;
};

}  // namespace longshelf::kvstore
