#pragma once

// Between the wire messages of kvstore.proto and the structs of object.h and queries.h. Every size is checked here,
// before anything is done with it. Include this from *_service.* and *_client.* only.

#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kvstore/object.h"
#include "kvstore/queries.h"
#include "longshelf/v1/kvstore.pb.h"

namespace longshelf::kvstore {

// The 33 bytes of a key: hash and kind.
std::string KeyToWire(const ObjectKey& key);
absl::StatusOr<ObjectKey> KeyFromWire(std::string_view bytes);
// The same and the 32 bytes of its extent.
std::string PlacedKeyToWire(const ObjectKey& key, const BlockKey& extent);
absl::StatusOr<PlacedKey> PlacedKeyFromWire(std::string_view bytes);

std::string HashToWire(const BlockKey& hash);
// `field` names the field in the error.
absl::StatusOr<BlockKey> HashFromWire(const std::string& bytes, const char* field);

void HeadToWire(const ObjectHead& head, v1::ObjectHead* wire);
absl::StatusOr<ObjectHead> HeadFromWire(const v1::ObjectHead& wire);
// Of an object that is only opened: its digest must be empty, on the wire and in the result.
void OpenedHeadToWire(const ObjectHead& head, v1::ObjectHead* wire);
absl::StatusOr<ObjectHead> OpenedHeadFromWire(const v1::ObjectHead& wire);
absl::StatusOr<Digest> DigestFromWire(const std::string& bytes);

// Unix milliseconds; the epoch is "no time". INVALID_ARGUMENT past the year 9999.
absl::StatusOr<absl::Time> RetentionFromWire(uint64_t unix_ms);
uint64_t RetentionToWire(absl::Time time);

void QueryToWire(const LookupQuery& query, v1::LookupRequest* wire);
absl::StatusOr<LookupQuery> QueryFromWire(const v1::LookupRequest& wire);

void ResultToWire(const LookupResult& result, v1::LookupReply* wire);
absl::StatusOr<LookupResult> ResultFromWire(const v1::LookupReply& wire);

void ListQueryToWire(const ListQuery& query, v1::ListRequest* wire);
absl::StatusOr<ListQuery> ListQueryFromWire(const v1::ListRequest& wire);
void ListToWire(const ListResult& result, v1::ListReply* wire);
absl::StatusOr<ListResult> ListFromWire(const v1::ListReply& wire);

void TouchToWire(const TouchResult& result, v1::TouchReply* wire);
// INTERNAL: it is not an answer to n_keys keys.
absl::StatusOr<TouchResult> TouchFromWire(const v1::TouchReply& wire, size_t n_keys);

// Of one object, beside the status of the call.
void ErrorToWire(const absl::Status& status, v1::ObjectError* wire);
absl::Status ErrorFromWire(const v1::ObjectError& wire);

void StatsToWire(const StoreStats& stats, v1::StatsReply* wire);
StoreStats StatsFromWire(const v1::StatsReply& wire);

}  // namespace longshelf::kvstore
