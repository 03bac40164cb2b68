#include "kvstore/wire_service.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace longshelf::kvstore {
namespace {

constexpr uint64_t kMaxUnixMs = 253402300799999;  // the last millisecond of the year 9999

template <typename Array>
std::string ToWire(const Array& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <typename Array>
absl::StatusOr<Array> FromWire(const std::string& bytes, const char* field) {
  Array out;
  if (bytes.size() != out.size()) {
    return absl::InvalidArgumentError(absl::StrCat(field, ": ", bytes.size(), " bytes, must be ", out.size()));
  }
  std::memcpy(out.data(), bytes.data(), out.size());
  return out;
}

absl::StatusOr<ObjectHead> UndigestedHead(const v1::ObjectHead& wire) {
  ObjectHead head;
  ASSIGN_OR_RETURN(head.key, KeyFromWire(wire.key()));
  ASSIGN_OR_RETURN(head.parent, HashFromWire(wire.parent(), "parent"));
  ASSIGN_OR_RETURN(head.extent, HashFromWire(wire.extent(), "extent"));
  ASSIGN_OR_RETURN(head.fingerprint, FromWire<Fingerprint>(wire.fingerprint(), "fingerprint"));
  ASSIGN_OR_RETURN(head.retain_until, RetentionFromWire(wire.retain_until_unix_ms()));
  head.depth_tokens = wire.depth_tokens();
  head.payload_bytes = wire.payload_bytes();
  head.namespace_id = wire.namespace_id();
  switch (wire.object_class()) {
    case v1::OBJECT_CLASS_CACHE:
      head.object_class = ObjectClass::kCache;
      break;
    case v1::OBJECT_CLASS_PARKED:
      head.object_class = ObjectClass::kParked;
      if (wire.retain_until_unix_ms() == 0) {
        return absl::InvalidArgumentError("retain_until_unix_ms: a parked object needs it");
      }
      break;
    default:
      return absl::InvalidArgumentError("object_class: unknown");
  }
  RETURN_IF_ERROR(CheckHead(head));
  return head;
}

}  // namespace

std::string KeyToWire(const ObjectKey& key) {
  std::string bytes = ToWire(key.hash);
  bytes.push_back(static_cast<char>(key.kind));
  return bytes;
}

absl::StatusOr<ObjectKey> KeyFromWire(std::string_view bytes) {
  ObjectKey key;
  if (bytes.size() != key.hash.size() + 1) {
    return absl::InvalidArgumentError(absl::StrCat("key: ", bytes.size(), " bytes, must be ", key.hash.size() + 1));
  }
  std::memcpy(key.hash.data(), bytes.data(), key.hash.size());
  const auto kind = static_cast<uint8_t>(bytes.back());
  if (!IsObjectKind(kind)) {
    return absl::InvalidArgumentError(absl::StrCat("key: object kind ", kind, " is unknown"));
  }
  key.kind = static_cast<ObjectKind>(kind);
  return key;
}

std::string PlacedKeyToWire(const ObjectKey& key, const BlockKey& extent) {
  std::string bytes = KeyToWire(key);
  bytes.append(reinterpret_cast<const char*>(extent.data()), extent.size());
  return bytes;
}

absl::StatusOr<PlacedKey> PlacedKeyFromWire(std::string_view bytes) {
  PlacedKey placed;
  const size_t n_key = placed.key.hash.size() + 1;
  if (bytes.size() != n_key + placed.extent.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("keys: ", bytes.size(), " bytes, must be ", n_key + placed.extent.size()));
  }
  ASSIGN_OR_RETURN(placed.key, KeyFromWire(bytes.substr(0, n_key)));
  std::memcpy(placed.extent.data(), bytes.data() + n_key, placed.extent.size());
  return placed;
}

std::string HashToWire(const BlockKey& hash) { return ToWire(hash); }

absl::StatusOr<BlockKey> HashFromWire(const std::string& bytes, const char* field) {
  return FromWire<BlockKey>(bytes, field);
}

absl::StatusOr<absl::Time> RetentionFromWire(uint64_t unix_ms) {
  if (unix_ms > kMaxUnixMs) {
    return absl::InvalidArgumentError(absl::StrCat("retain_until_unix_ms: ", unix_ms, ", at most ", kMaxUnixMs));
  }
  return absl::FromUnixMillis(static_cast<int64_t>(unix_ms));
}

uint64_t RetentionToWire(absl::Time time) {
  return std::min(static_cast<uint64_t>(std::max<int64_t>(absl::ToUnixMillis(time), 0)), kMaxUnixMs);
}

void OpenedHeadToWire(const ObjectHead& head, v1::ObjectHead* wire) {
  wire->set_key(KeyToWire(head.key));
  wire->set_parent(HashToWire(head.parent));
  wire->set_depth_tokens(head.depth_tokens);
  wire->set_fingerprint(ToWire(head.fingerprint));
  wire->set_payload_bytes(head.payload_bytes);
  wire->set_object_class(head.object_class == ObjectClass::kParked ? v1::OBJECT_CLASS_PARKED : v1::OBJECT_CLASS_CACHE);
  wire->set_retain_until_unix_ms(RetentionToWire(head.retain_until));
  wire->set_namespace_id(head.namespace_id);
  wire->set_extent(HashToWire(head.extent));
}

void HeadToWire(const ObjectHead& head, v1::ObjectHead* wire) {
  OpenedHeadToWire(head, wire);
  wire->set_xxh3_128(ToWire(head.digest));
}

absl::StatusOr<Digest> DigestFromWire(const std::string& bytes) { return FromWire<Digest>(bytes, "xxh3_128"); }

absl::StatusOr<ObjectHead> HeadFromWire(const v1::ObjectHead& wire) {
  ASSIGN_OR_RETURN(ObjectHead head, UndigestedHead(wire));
  ASSIGN_OR_RETURN(head.digest, DigestFromWire(wire.xxh3_128()));
  return head;
}

absl::StatusOr<ObjectHead> OpenedHeadFromWire(const v1::ObjectHead& wire) {
  if (!wire.xxh3_128().empty()) return absl::InvalidArgumentError("xxh3_128: comes with the last data");
  return UndigestedHead(wire);
}

void QueryToWire(const LookupQuery& query, v1::LookupRequest* wire) {
  wire->set_fingerprint(ToWire(query.fingerprint));
  wire->set_root(HashToWire(query.root));
  wire->set_want_checkpoints(query.want_checkpoints);
  wire->mutable_chain()->Reserve(static_cast<int>(query.chain.size()));
  for (const BlockKey& hash : query.chain) wire->add_chain(hash.data(), hash.size());
  for (const BlockKey& hash : query.probes) wire->add_probes(hash.data(), hash.size());
}

absl::StatusOr<LookupQuery> QueryFromWire(const v1::LookupRequest& wire) {
  LookupQuery query;
  if (static_cast<size_t>(wire.chain_size()) > kMaxChainKeys) {
    return absl::InvalidArgumentError(absl::StrCat("chain: ", wire.chain_size(), " keys, at most ", kMaxChainKeys));
  }
  if (static_cast<size_t>(wire.probes_size()) > kMaxProbes) {
    return absl::InvalidArgumentError(absl::StrCat("probes: ", wire.probes_size(), " hashes, at most ", kMaxProbes));
  }
  ASSIGN_OR_RETURN(query.fingerprint, FromWire<Fingerprint>(wire.fingerprint(), "fingerprint"));
  if (!wire.root().empty()) {
    ASSIGN_OR_RETURN(query.root, HashFromWire(wire.root(), "root"));
  }
  query.want_checkpoints = wire.want_checkpoints();
  query.chain.reserve(static_cast<size_t>(wire.chain_size()));
  for (const std::string& bytes : wire.chain()) {
    ASSIGN_OR_RETURN(query.chain.emplace_back(), HashFromWire(bytes, "chain"));
  }
  for (const std::string& bytes : wire.probes()) {
    ASSIGN_OR_RETURN(query.probes.emplace_back(), HashFromWire(bytes, "probes"));
  }
  return query;
}

void ResultToWire(const LookupResult& result, v1::LookupReply* wire) {
  wire->set_n_present(result.n_present);
  for (const CheckpointInfo& info : result.checkpoints) {
    v1::CheckpointInfo* out = wire->add_checkpoints();
    out->set_key(HashToWire(info.hash));
    out->set_parent(HashToWire(info.parent));
    out->set_depth_tokens(info.depth_tokens);
    out->set_payload_bytes(info.payload_bytes);
    out->set_has_tail(info.has_tail);
    out->set_tail_bytes(info.tail_bytes);
  }
}

absl::StatusOr<LookupResult> ResultFromWire(const v1::LookupReply& wire) {
  LookupResult result;
  result.n_present = wire.n_present();
  if (static_cast<size_t>(wire.checkpoints_size()) > kMaxListedCheckpoints + kMaxProbes) {
    return absl::InternalError(absl::StrCat("the store listed ", wire.checkpoints_size(), " checkpoints"));
  }
  for (const v1::CheckpointInfo& in : wire.checkpoints()) {
    CheckpointInfo& info = result.checkpoints.emplace_back();
    ASSIGN_OR_RETURN(info.hash, HashFromWire(in.key(), "checkpoint key"));
    ASSIGN_OR_RETURN(info.parent, HashFromWire(in.parent(), "checkpoint parent"));
    info.depth_tokens = in.depth_tokens();
    info.payload_bytes = in.payload_bytes();
    info.has_tail = in.has_tail();
    info.tail_bytes = in.tail_bytes();
  }
  return result;
}

void ListQueryToWire(const ListQuery& query, v1::ListRequest* wire) {
  wire->set_parent(HashToWire(query.parent));
  wire->set_hash_prefix(query.hash_prefix);
  wire->set_after(HashToWire(query.after));
  wire->set_limit(query.limit);
}

absl::StatusOr<ListQuery> ListQueryFromWire(const v1::ListRequest& wire) {
  ListQuery query;
  ASSIGN_OR_RETURN(query.parent, HashFromWire(wire.parent(), "parent"));
  query.hash_prefix = wire.hash_prefix();
  if (!wire.after().empty()) {
    ASSIGN_OR_RETURN(query.after, HashFromWire(wire.after(), "after"));
  }
  query.limit = wire.limit();
  return query;
}

void ListToWire(const ListResult& result, v1::ListReply* wire) {
  for (const ObjectHead& head : result.heads) HeadToWire(head, wire->add_heads());
  wire->set_more(result.more);
}

absl::StatusOr<ListResult> ListFromWire(const v1::ListReply& wire) {
  ListResult result;
  if (static_cast<size_t>(wire.heads_size()) > kMaxListed) {
    return absl::InternalError(absl::StrCat("the store listed ", wire.heads_size(), " objects"));
  }
  for (const v1::ObjectHead& head : wire.heads()) {
    ASSIGN_OR_RETURN(result.heads.emplace_back(), HeadFromWire(head));
  }
  result.more = wire.more();
  return result;
}

void TouchToWire(const TouchResult& result, v1::TouchReply* wire) {
  wire->set_n_present(result.n_present);
  wire->set_n_refused(result.n_refused);
  std::string& bytes = *wire->mutable_retained();
  for (const bool retained : result.retained) bytes.push_back(retained ? '\1' : '\0');
}

absl::StatusOr<TouchResult> TouchFromWire(const v1::TouchReply& wire, size_t n_keys) {
  if (wire.retained().size() != n_keys || wire.n_present() > n_keys || wire.n_refused() > n_keys) {
    return absl::InternalError("the store answered for other keys than were touched");
  }
  TouchResult result{.n_present = wire.n_present(), .n_refused = wire.n_refused()};
  for (const char retained : wire.retained()) result.retained.push_back(retained != '\0');
  return result;
}

void ErrorToWire(const absl::Status& status, v1::ObjectError* wire) {
  wire->set_code(static_cast<uint32_t>(status.raw_code()));
  wire->set_message(std::string(status.message()));
}

absl::Status ErrorFromWire(const v1::ObjectError& wire) {
  const auto code = static_cast<absl::StatusCode>(wire.code());
  return {code == absl::StatusCode::kOk ? absl::StatusCode::kUnknown : code, wire.message()};
}

void StatsToWire(const StoreStats& stats, v1::StatsReply* wire) {
  wire->set_capacity_bytes(stats.capacity_bytes);
  wire->set_used_bytes(stats.used_bytes);
  wire->set_reserved_bytes(stats.reserved_bytes);
  wire->set_parked_bytes(stats.parked_bytes);
  wire->set_parked_limit_bytes(stats.parked_limit_bytes);
  wire->set_n_objects(stats.n_objects);
  wire->set_n_reservations(stats.n_reservations);
  wire->set_n_hits(stats.n_hits);
  wire->set_n_misses(stats.n_misses);
  wire->set_n_evicted(stats.n_evicted);
  wire->set_n_quarantined(stats.n_quarantined);
}

StoreStats StatsFromWire(const v1::StatsReply& wire) {
  StoreStats stats;
  stats.capacity_bytes = wire.capacity_bytes();
  stats.used_bytes = wire.used_bytes();
  stats.reserved_bytes = wire.reserved_bytes();
  stats.parked_bytes = wire.parked_bytes();
  stats.parked_limit_bytes = wire.parked_limit_bytes();
  stats.n_objects = wire.n_objects();
  stats.n_reservations = wire.n_reservations();
  stats.n_hits = wire.n_hits();
  stats.n_misses = wire.n_misses();
  stats.n_evicted = wire.n_evicted();
  stats.n_quarantined = wire.n_quarantined();
  return stats;
}

}  // namespace longshelf::kvstore
