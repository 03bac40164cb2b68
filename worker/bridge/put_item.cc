#include "put_item.h"

namespace longshelf::worker {
namespace {

// Namespace of requests that name none; the store wants one on every object.
constexpr std::string_view kDefaultNamespace = "default";

kvstore::ObjectKind KindOf(engine::ParkedObject::Kind kind) {
  switch (kind) {
    case engine::ParkedObject::Kind::kTail:
      return kvstore::ObjectKind::kTail;
    case engine::ParkedObject::Kind::kCheckpoint:
      return kvstore::ObjectKind::kCheckpoint;
    case engine::ParkedObject::Kind::kBlock:
      break;
  }
  return kvstore::ObjectKind::kBlock;
}

}  // namespace

Homes::PutItem MakePutItem(const kvstore::Fingerprint& fingerprint, const engine::ParkedObject& object,
                           std::string_view namespace_id, const kvstore::BlockKey& extent) {
  Homes::PutItem item;
  item.head.key = {object.key, KindOf(object.kind)};
  item.head.parent = object.parent;
  item.head.extent = extent;
  item.head.depth_tokens = static_cast<uint32_t>(object.n_tokens);
  item.head.fingerprint = fingerprint;
  item.head.namespace_id = namespace_id.empty() ? kDefaultNamespace : namespace_id;
  item.copy = object.copy;
  return item;
}

}  // namespace longshelf::worker
