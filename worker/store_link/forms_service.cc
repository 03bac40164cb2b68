#include "forms_service.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "kvstore/wire_service.h"

namespace longshelf::worker {
namespace {

constexpr size_t kErrorChars = 512;

// A text that protobuf would not take for one would end the link, and with it the group.
void BoundedErrorToWire(const absl::Status& status, v1::ObjectError* wire) {
  std::string text(status.message().substr(0, kErrorChars));
  for (char& c : text) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = '?';
  }
  kvstore::ErrorToWire({status.code(), text}, wire);
}

v1::StoreAck AckToWire(kvstore::Ack ack) {
  switch (ack) {
    case kvstore::Ack::kMemoryOne:
      return v1::STORE_ACK_MEMORY_ONE;
    case kvstore::Ack::kMemoryAll:
      return v1::STORE_ACK_MEMORY_ALL;
    case kvstore::Ack::kDurableOne:
      return v1::STORE_ACK_DURABLE_ONE;
    case kvstore::Ack::kDurableAll:
      return v1::STORE_ACK_DURABLE_ALL;
  }
  return v1::STORE_ACK_UNSPECIFIED;
}

absl::StatusOr<kvstore::Ack> AckFromWire(v1::StoreAck ack) {
  switch (ack) {
    case v1::STORE_ACK_MEMORY_ONE:
      return kvstore::Ack::kMemoryOne;
    case v1::STORE_ACK_MEMORY_ALL:
      return kvstore::Ack::kMemoryAll;
    case v1::STORE_ACK_DURABLE_ONE:
      return kvstore::Ack::kDurableOne;
    case v1::STORE_ACK_DURABLE_ALL:
      return kvstore::Ack::kDurableAll;
    default:
      return absl::InvalidArgumentError(absl::StrCat("ack: ", static_cast<int>(ack), " is unknown"));
  }
}

absl::Status CheckCount(size_t n) {
  if (n <= kvstore::kMaxKeysPerCall) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(n, " objects in one call, at most ", kvstore::kMaxKeysPerCall));
}

absl::Status CheckReplicas(uint32_t n) {
  if (n >= 1 && n <= kvstore::kMaxReplicas) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("n_replicas: ", n, ", must be 1 .. ", kvstore::kMaxReplicas));
}

// Nobody reads it, but a head without it is none.
kvstore::ObjectHead WithSomeSize(const kvstore::ObjectHead& head) {
  kvstore::ObjectHead sized = head;
  sized.payload_bytes = 1;
  return sized;
}

}  // namespace

absl::Status CheckGet(const HomeStore::GetRequest& request) { return CheckCount(request.objects.items.size()); }

void GetToWire(const HomeStore::GetRequest& request, v1::StoreGet* wire) {
  wire->set_fingerprint(kvstore::HashToWire(request.objects.fingerprint));
  wire->mutable_items()->Reserve(static_cast<int>(request.objects.items.size()));
  for (size_t i = 0; i < request.objects.items.size(); ++i) {
    const kvstore::GetItem& item = request.objects.items[i];
    v1::StoreGetItem& out = *wire->add_items();
    out.set_key(kvstore::PlacedKeyToWire(item.key, item.extent));
    out.set_expected_bytes(item.expected_bytes);
    out.set_copy(request.copies[i]);
  }
  wire->set_timeout_us(TimeoutToWire(request.objects.timeout));
  wire->set_window_bytes(request.objects.window_bytes);
  wire->set_unreleased_bytes(request.objects.unreleased_bytes);
}

absl::StatusOr<HomeStore::GetRequest> GetFromWire(const v1::StoreGet& wire) {
  const auto n_items = static_cast<size_t>(wire.items_size());
  RETURN_IF_ERROR(CheckCount(n_items));
  HomeStore::GetRequest request;
  ASSIGN_OR_RETURN(request.objects.fingerprint, kvstore::HashFromWire(wire.fingerprint(), "fingerprint"));
  ASSIGN_OR_RETURN(request.objects.timeout, TimeoutFromWire(wire.timeout_us()));
  request.objects.window_bytes = wire.window_bytes();
  request.objects.unreleased_bytes = wire.unreleased_bytes();
  request.objects.items.reserve(n_items);
  request.copies.reserve(n_items);
  for (const v1::StoreGetItem& item : wire.items()) {
    ASSIGN_OR_RETURN(const kvstore::PlacedKey placed, kvstore::PlacedKeyFromWire(item.key()));
    request.objects.items.push_back(
        {.key = placed.key, .expected_bytes = item.expected_bytes(), .extent = placed.extent});
    request.copies.push_back(item.copy());
  }
  return request;
}

uint64_t TimeoutToWire(absl::Duration timeout) {
  return static_cast<uint64_t>(absl::ToInt64Microseconds(std::clamp(timeout, absl::ZeroDuration(), kLongestTimeout)));
}

absl::StatusOr<absl::Duration> TimeoutFromWire(uint64_t timeout_us) {
  if (timeout_us > TimeoutToWire(kLongestTimeout)) {
    return absl::InvalidArgumentError(absl::StrCat("timeout_us: ", timeout_us, ", at most 10 minutes"));
  }
  return absl::Microseconds(static_cast<int64_t>(timeout_us));
}

absl::Status CheckOffer(const HomeStore::PutItem& item, size_t index) {
  RETURN_IF_ERROR(CheckCount(index + 1));
  RETURN_IF_ERROR(CheckReplicas(item.n_replicas));
  if (item.head.object_class == kvstore::ObjectClass::kParked &&
      kvstore::RetentionToWire(item.head.retain_until) == 0) {
    return absl::InvalidArgumentError("retain_until: a parked object needs it");
  }
  return kvstore::CheckHead(WithSomeSize(item.head));
}

void OfferToWire(const HomeStore::PutItem& item, size_t index, v1::StoreOffer* wire) {
  wire->set_index(static_cast<uint32_t>(index));
  kvstore::OpenedHeadToWire(WithSomeSize(item.head), wire->mutable_head());
  wire->set_copy(item.copy);
  wire->set_ack(AckToWire(item.ack));
  wire->set_n_replicas(item.n_replicas);
}

absl::StatusOr<HomeStore::PutItem> OfferFromWire(const v1::StoreOffer& wire) {
  RETURN_IF_ERROR(CheckCount(size_t{wire.index()} + 1));
  RETURN_IF_ERROR(CheckReplicas(wire.n_replicas()));
  HomeStore::PutItem item;
  ASSIGN_OR_RETURN(item.head, kvstore::OpenedHeadFromWire(wire.head()));
  ASSIGN_OR_RETURN(item.ack, AckFromWire(wire.ack()));
  item.copy = wire.copy();
  item.n_replicas = wire.n_replicas();
  return item;
}

void ObjectToWire(size_t index, const ObjectResult& object, v1::StoreObject* wire) {
  wire->set_index(static_cast<uint32_t>(index));
  if (object.ok()) {
    wire->set_stamp(object->data(), object->size());
  } else {
    BoundedErrorToWire(object.status(), wire->mutable_error());
  }
}

absl::StatusOr<ObjectResult> ObjectFromWire(const v1::StoreObject& wire) {
  if (wire.result_case() == v1::StoreObject::kError) return ObjectResult(kvstore::ErrorFromWire(wire.error()));
  engine::EncodedStamp stamp;
  if (wire.stamp().size() != stamp.size()) {
    return absl::InvalidArgumentError(absl::StrCat("stamp: ", wire.stamp().size(), " bytes, must be ", stamp.size()));
  }
  std::memcpy(stamp.data(), wire.stamp().data(), stamp.size());
  return ObjectResult(stamp);
}

void OutcomeToWire(size_t index, const OutcomeResult& outcome, v1::StoreOutcome* wire) {
  wire->set_index(static_cast<uint32_t>(index));
  if (!outcome.ok()) return BoundedErrorToWire(outcome.status(), wire->mutable_error());
  v1::StorePutOutcome& out = *wire->mutable_outcome();
  out.set_existed(outcome->existed);
  out.set_xxh3_128(outcome->digest.data(), outcome->digest.size());
  out.set_conflicts(outcome->conflicts);
}

absl::StatusOr<OutcomeResult> OutcomeFromWire(const v1::StoreOutcome& wire) {
  if (wire.result_case() == v1::StoreOutcome::kError) return OutcomeResult(kvstore::ErrorFromWire(wire.error()));
  kvstore::PutOutcome outcome;
  ASSIGN_OR_RETURN(outcome.digest, kvstore::DigestFromWire(wire.outcome().xxh3_128()));
  outcome.existed = wire.outcome().existed();
  outcome.conflicts = wire.outcome().conflicts();
  return OutcomeResult(outcome);
}

void DoneToWire(const absl::Status& status, v1::StoreDone* wire) {
  if (!status.ok()) BoundedErrorToWire(status, wire->mutable_error());
}

absl::Status DoneFromWire(const v1::StoreDone& wire) {
  return wire.has_error() ? kvstore::ErrorFromWire(wire.error()) : absl::OkStatus();
}

}  // namespace longshelf::worker
