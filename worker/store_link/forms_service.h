#pragma once

// Between the messages of store_link.proto and the structs of home_store.h. Every size is checked here, before anything
// is done with it.

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/token_stamp.h"
#include "longshelf/v1/store_link.pb.h"
#include "worker/home_store/home_store.h"

namespace longshelf::worker {

inline constexpr absl::Duration kLongestTimeout = absl::Minutes(10);
inline constexpr size_t kCallsMax = 4096;  // at once, of one shard
// What waits to be sent goes together, up to so many and until there are so many bytes.
inline constexpr int kBatchMax = 128;
inline constexpr size_t kBatchBytes = 64 << 10;
// A batch and the largest get behind it.
inline constexpr int kMessageBytesMax = 512 << 10;

// INVALID_ARGUMENT: more items than a call may have.
absl::Status CheckGet(const HomeStore::GetRequest& request);
void GetToWire(const HomeStore::GetRequest& request, v1::StoreGet* wire);
absl::StatusOr<HomeStore::GetRequest> GetFromWire(const v1::StoreGet& wire);

// Of what is longer or shorter than can be: the nearest that can.
uint64_t TimeoutToWire(absl::Duration timeout);
absl::StatusOr<absl::Duration> TimeoutFromWire(uint64_t timeout_us);

// INVALID_ARGUMENT: it would not be one on the other side.
absl::Status CheckOffer(const HomeStore::PutItem& item, size_t index);
// REQUIRES: CheckOffer.
void OfferToWire(const HomeStore::PutItem& item, size_t index, v1::StoreOffer* wire);
absl::StatusOr<HomeStore::PutItem> OfferFromWire(const v1::StoreOffer& wire);

// What one item came to. The outer status is that of the message itself.
using ObjectResult = absl::StatusOr<engine::EncodedStamp>;
void ObjectToWire(size_t index, const ObjectResult& object, v1::StoreObject* wire);
absl::StatusOr<ObjectResult> ObjectFromWire(const v1::StoreObject& wire);
using OutcomeResult = absl::StatusOr<kvstore::PutOutcome>;
void OutcomeToWire(size_t index, const OutcomeResult& outcome, v1::StoreOutcome* wire);
absl::StatusOr<OutcomeResult> OutcomeFromWire(const v1::StoreOutcome& wire);
void DoneToWire(const absl::Status& status, v1::StoreDone* wire);
absl::Status DoneFromWire(const v1::StoreDone& wire);

}  // namespace longshelf::worker
