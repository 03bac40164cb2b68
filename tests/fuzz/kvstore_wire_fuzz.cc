// What comes over the wire of the KV store as whole messages: heads, keys, queries and their answers. What is accepted
// is within the limits of object.h and the same after one more way there and back.
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "common/check.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "kvstore/namespace_id.h"
#include "kvstore/wire_service.h"
#include "objects.h"

namespace longshelf::kvstore {
namespace {

enum Kind : uint8_t {
  kKey,
  kPlacedKey,
  kHash,
  kHead,
  kQuery,
  kResult,
  kListQuery,
  kList,
  kTouch,
  kError,
  kNamespace,
  kKinds
};

bool AreEqual(const ObjectHead& a, const ObjectHead& b) {
  return a.key == b.key && a.parent == b.parent && a.extent == b.extent && a.depth_tokens == b.depth_tokens &&
         a.fingerprint == b.fingerprint && a.payload_bytes == b.payload_bytes && a.digest == b.digest &&
         a.object_class == b.object_class && a.retain_until == b.retain_until && a.namespace_id == b.namespace_id;
}

void CheckContract(const ObjectHead& head) {
  LONGSHELF_CHECK(IsObjectKind(static_cast<uint8_t>(head.key.kind)));
  LONGSHELF_CHECK(head.payload_bytes >= 1 && head.payload_bytes <= kMaxPayloadBytes);
  LONGSHELF_CHECK(head.depth_tokens >= 1 && head.depth_tokens <= kMaxDepthTokens);
  LONGSHELF_CHECK(!head.namespace_id.empty() && head.namespace_id.size() <= kMaxNamespaceBytes);
  LONGSHELF_CHECK(head.object_class == ObjectClass::kCache || head.retain_until > absl::UnixEpoch());
  v1::ObjectHead wire;
  HeadToWire(head, &wire);
  const absl::StatusOr<ObjectHead> again = HeadFromWire(wire);
  LONGSHELF_CHECK(again.ok() && AreEqual(*again, head));
}

void ParseKeys(Kind kind, std::string_view bytes) {
  if (kind == kKey) {
    const auto key = KeyFromWire(bytes);
    LONGSHELF_CHECK(!key.ok() || KeyToWire(*key) == bytes);
  } else if (kind == kPlacedKey) {
    const auto placed = PlacedKeyFromWire(bytes);
    LONGSHELF_CHECK(!placed.ok() || PlacedKeyToWire(placed->key, placed->extent) == bytes);
  } else {
    const auto hash = HashFromWire(std::string(bytes), "hash");
    LONGSHELF_CHECK(hash.ok() == (bytes.size() == BlockKey().size()) && (!hash.ok() || HashToWire(*hash) == bytes));
  }
}

// What is read of an id names it, and is read of that again.
void ParseNamespace(std::string_view id) {
  const NamespaceId parsed = ParseNamespaceId(id);
  if (parsed.name.empty()) return;  // is no name
  const std::string named = NamespaceIdOf(parsed.name, parsed.generation);
  LONGSHELF_CHECK(named == id || parsed.generation == 0);
  const NamespaceId again = ParseNamespaceId(named);
  LONGSHELF_CHECK(again.name == parsed.name && again.generation == parsed.generation);
  const std::string_view owner = OwnerOf(parsed.name);
  LONGSHELF_CHECK(parsed.name.starts_with(owner));
  LONGSHELF_CHECK(!IsBefore(id, parsed.name, parsed.generation));
  if (parsed.generation < UINT64_MAX) LONGSHELF_CHECK(IsBefore(id, parsed.name, parsed.generation + 1));
  if (!owner.empty() && parsed.generation < UINT64_MAX) LONGSHELF_CHECK(IsBefore(id, owner, parsed.generation + 1));
}

// The message, or an empty one.
template <typename Message>
Message Parsed(std::string_view bytes) {
  Message message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) message.Clear();
  return message;
}

void ParseQueries(Kind kind, std::string_view bytes) {
  if (kind == kQuery) {
    const auto query = QueryFromWire(Parsed<v1::LookupRequest>(bytes));
    if (!query.ok()) return;
    LONGSHELF_CHECK(query->chain.size() <= kMaxChainKeys && query->probes.size() <= kMaxProbes);
    v1::LookupRequest wire;
    QueryToWire(*query, &wire);
    const auto again = QueryFromWire(wire);
    LONGSHELF_CHECK(again.ok() && again->chain == query->chain && again->probes == query->probes &&
                    again->root == query->root && again->fingerprint == query->fingerprint &&
                    again->want_checkpoints == query->want_checkpoints);
  } else {
    const auto query = ListQueryFromWire(Parsed<v1::ListRequest>(bytes));
    if (!query.ok()) return;
    v1::ListRequest wire;
    ListQueryToWire(*query, &wire);
    const auto again = ListQueryFromWire(wire);
    LONGSHELF_CHECK(again.ok() && again->parent == query->parent && again->hash_prefix == query->hash_prefix &&
                    again->after == query->after && again->limit == query->limit);
  }
}

void ParseLookupAnswer(std::string_view bytes) {
  const auto result = ResultFromWire(Parsed<v1::LookupReply>(bytes));
  if (!result.ok()) return;
  LONGSHELF_CHECK(result->checkpoints.size() <= kMaxListedCheckpoints + kMaxProbes);
  v1::LookupReply wire;
  ResultToWire(*result, &wire);
  const auto again = ResultFromWire(wire);
  LONGSHELF_CHECK(again.ok() && again->n_present == result->n_present);
  LONGSHELF_CHECK(
      std::ranges::equal(again->checkpoints, result->checkpoints, [](const CheckpointInfo& a, const CheckpointInfo& b) {
        return a.hash == b.hash && a.parent == b.parent && a.depth_tokens == b.depth_tokens &&
               a.payload_bytes == b.payload_bytes && a.has_tail == b.has_tail && a.tail_bytes == b.tail_bytes;
      }));
}

void ParseAnswers(Kind kind, fuzz::FuzzInput input) {
  if (kind == kList) {
    const auto list = ListFromWire(Parsed<v1::ListReply>(input.Rest()));
    if (!list.ok()) return;
    LONGSHELF_CHECK(list->heads.size() <= kMaxListed);
    std::ranges::for_each(list->heads, CheckContract);
  } else if (kind == kTouch) {
    const size_t n_keys = input.Byte();
    const auto touched = TouchFromWire(Parsed<v1::TouchReply>(input.Rest()), n_keys);
    LONGSHELF_CHECK(!touched.ok() || (touched->retained.size() == n_keys && touched->n_present <= n_keys &&
                                      touched->n_refused <= n_keys));
  } else {
    // A failure stays one, whatever its code.
    LONGSHELF_CHECK(!ErrorFromWire(Parsed<v1::ObjectError>(input.Rest())).ok());
  }
}

std::string Input(Kind kind, std::string_view bytes) { return std::string(1, static_cast<char>(kind)).append(bytes); }

ObjectHead ParkedHead() {
  ObjectHead head = Parked(MakeObject(7, 6, 512, 150), absl::FromUnixMillis(1234567890123)).head;
  head.namespace_id = std::string(kMaxNamespaceBytes, 'n');
  return head;
}

void AddAnswers(std::vector<std::string>& inputs) {
  v1::LookupReply result;
  ResultToWire({.n_present = 3, .checkpoints = {{Hash(1), Hash(2), 300, 5000, true, 900}, {Hash(3), Hash(4), 256}}},
               &result);
  inputs.push_back(Input(kResult, result.SerializeAsString()));
  v1::ListReply list;
  ListToWire({.heads = {ParkedHead(), MakeObject(1, 2, 256, 20).head}, .more = true}, &list);
  inputs.push_back(Input(kList, list.SerializeAsString()));
  v1::TouchReply touch;
  TouchToWire({.n_present = 2, .n_refused = 1, .retained = {true, false, true}}, &touch);
  inputs.push_back(Input(kTouch, '\3' + touch.SerializeAsString()));
  v1::ObjectError error;
  ErrorToWire(absl::NotFoundError("gone"), &error);
  inputs.push_back(Input(kError, error.SerializeAsString()));
}

}  // namespace
}  // namespace longshelf::kvstore

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  google::protobuf::SetLogHandler(nullptr);  // it reports what it refuses
  using namespace kvstore;                   // all of the input is of the store
  std::vector<std::string> inputs = {Input(kKey, KeyToWire(BlockKeyOf(1))),
                                     Input(kPlacedKey, PlacedKeyToWire(BlockKeyOf(1), Hash(2))),
                                     Input(kHash, HashToWire(Hash(3)))};
  for (const ObjectHead& head : {ParkedHead(), MakeObject(1, 2, 256, 20).head}) {
    v1::ObjectHead wire;
    HeadToWire(head, &wire);
    inputs.push_back(Input(kHead, wire.SerializeAsString()));
  }
  v1::LookupRequest query;
  QueryToWire({.fingerprint = FingerprintOf(1), .root = Hash(1), .chain = {Hash(2), Hash(3)}, .probes = {Hash(4)}},
              &query);
  inputs.push_back(Input(kQuery, query.SerializeAsString()));
  v1::ListRequest list;
  ListQueryToWire({.parent = Hash(1), .hash_prefix = "ab", .after = Hash(2), .limit = 10}, &list);
  inputs.push_back(Input(kListQuery, list.SerializeAsString()));
  AddAnswers(inputs);
  for (const char* id : {"ns", "ns#1z", "ns:user#3w5e11264sgsf", "a:b:c#0", "#", "x#1#2"}) {
    inputs.push_back(Input(kNamespace, id));
  }
  return {.inputs = std::move(inputs)};
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longshelf;  // the entry point has no namespace of its own
  using namespace longshelf::kvstore;
  fuzz::FuzzInput input(data, size);
  const auto kind = static_cast<Kind>(input.Byte() % kKinds);
  if (kind <= kHash) {
    ParseKeys(kind, input.Rest());
  } else if (kind == kNamespace) {
    ParseNamespace(input.Rest());
  } else if (kind == kHead) {
    const auto head = HeadFromWire(Parsed<v1::ObjectHead>(input.Rest()));
    if (head.ok()) CheckContract(*head);
  } else if (kind == kQuery || kind == kListQuery) {
    ParseQueries(kind, input.Rest());
  } else if (kind == kResult) {
    ParseLookupAnswer(input.Rest());
  } else {
    ParseAnswers(kind, input);
  }
  return 0;
}
