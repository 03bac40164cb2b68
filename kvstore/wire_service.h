#pragma once

// Between the wire messages of kvstore.proto and the structs of object.h and queries.h. Every size is checked here,
// before anything is done with it.

#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "kvstore/object.h"
#include "kvstore/queries.h"
#include "longshelf/v1/kvstore.pb.h"

namespace longshelf::kvstore {

// The 33 bytes of a key: hash and kind.
std::string KeyToWire(const ObjectKey& key);
absl::StatusOr<ObjectKey> KeyFromWire(const std::string& bytes);

std::string HashToWire(const BlockKey& hash);
// `field` names the field in the error.
absl::StatusOr<BlockKey> HashFromWire(const std::string& bytes, const char* field);

void HeadToWire(const ObjectHead& head, v1::ObjectHead* wire);
absl::StatusOr<ObjectHead> HeadFromWire(const v1::ObjectHead& wire);

// Unix milliseconds; the epoch is "no time". INVALID_ARGUMENT past the year 9999.
absl::StatusOr<absl::Time> RetentionFromWire(uint64_t unix_ms);
uint64_t RetentionToWire(absl::Time time);

void QueryToWire(const LookupQuery& query, v1::LookupRequest* wire);
absl::StatusOr<LookupQuery> QueryFromWire(const v1::LookupRequest& wire);

void ResultToWire(const LookupResult& result, v1::LookupReply* wire);
absl::StatusOr<LookupResult> ResultFromWire(const v1::LookupReply& wire);

// Of one object, beside the status of the call.
void ErrorToWire(const absl::Status& status, v1::ObjectError* wire);
absl::Status ErrorFromWire(const v1::ObjectError& wire);

void StatsToWire(const StoreStats& stats, v1::StatsReply* wire);
StoreStats StatsFromWire(const v1::StatsReply& wire);

}  // namespace longshelf::kvstore
