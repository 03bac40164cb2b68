#include "router/namespaces.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_split.h"
#include "kvstore/keys.h"
#include "manifests.h"
#include "session_errors.h"

namespace longshelf::router {
namespace {

using kvstore::BlockKey;
using kvstore::ObjectHead;
using kvstore::ObjectKind;
using kvstore::PlacedKey;

constexpr absl::Duration kAskEvery = absl::Seconds(2);
// What was under way when a namespace was deleted may reach the stores later.
constexpr absl::Duration kDropEvery = absl::Minutes(1);
constexpr absl::Duration kDropFor = absl::Hours(1);
constexpr absl::Duration kKeptFor = absl::Hours(24 * 3650);
constexpr size_t kDeletedMax = 100'000;  // namespaces
constexpr uint64_t kRecordBytesMax = 256;
constexpr char kRecords[] = "#namespaces";  // what the records themselves belong to

}  // namespace

// Its payload: the name, and the id before.
struct Namespaces::Record {
  std::string name;
  std::string old_id;

  std::string ToBytes() const { return name + "\n" + old_id; }
  static Record FromBytes(const std::string& bytes) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(bytes, absl::MaxSplits('\n', 1));
    return {parts.first, parts.second};
  }
  BlockKey hash(std::string_view secret) const { return kvstore::NamespaceSalt(secret, "namespace/1/" + name); }
  static BlockKey root(std::string_view secret) { return kvstore::NamespaceSalt(secret, "namespaces/1"); }
};

Namespaces::Namespaces(kvstore::Client& client, std::string tenant_secret, Clock& clock, Post post)
    : manifests_(std::make_unique<Manifests>(client, std::move(post))),
      secret_(std::move(tenant_secret)),
      clock_(clock) {}

Namespaces::~Namespaces() = default;

void Namespaces::Tick() {
  const absl::Time now = clock_.Now();
  if (now >= next_ask_ && !is_asking_) {
    next_ask_ = now + kAskEvery;
    is_asking_ = true;
    Ask({});
  }
  if (now >= next_drop_) {
    next_drop_ = now + kDropEvery;
    DropOld();
  }
}

void Namespaces::Ask(const BlockKey& after) {
  manifests_->List({.parent = Record::root(secret_), .after = after},
                   [this](absl::StatusOr<kvstore::ListResult> listed) {
                     is_asking_ = false;
                     if (!listed.ok()) {
                       is_ready_ = true;
                       return;
                     }
                     if (listed->more && !listed->heads.empty()) {
                       is_asking_ = true;
                       Ask(listed->heads.back().key.hash);
                     }
                     Take(std::move(listed->heads));
                   });
}

void Namespaces::Take(std::vector<ObjectHead> heads) {
  std::erase_if(heads, [this](const ObjectHead& head) {
    return known_.contains(head.key.hash) || head.payload_bytes > kRecordBytesMax;
  });
  if (heads.empty()) {
    is_ready_ = is_ready_ || !is_asking_;
    return;
  }
  std::vector<kvstore::GetItem> items;
  for (const ObjectHead& head : heads) items.push_back({head.key, head.payload_bytes, head.extent});
  manifests_->Get(std::move(items), [this, heads](absl::StatusOr<std::vector<absl::StatusOr<std::string>>> read) {
    for (size_t i = 0; i < std::min(heads.size(), read->size()); ++i) {
      if (!(*read)[i].ok()) continue;  // read again the next time
      const Record record = Record::FromBytes(*(*read)[i]);
      const BlockKey& key = heads[i].key.hash;
      // Only who knows the secret can write one.
      if (VersionPrefix(record.hash(secret_)) != VersionPrefix(key) || known_.size() >= 2 * kDeletedMax) continue;
      known_.emplace(key, VersionOf(key));
      Learn(record.name, VersionOf(key));
      if (clock_.WallNow() < VersionOf(key) + kDropFor) to_drop_until_[record.old_id] = VersionOf(key) + kDropFor;
    }
    is_ready_ = is_ready_ || !is_asking_;
  });
}

void Namespaces::Learn(const std::string& name, absl::Time generation) {
  if (ids_->GenerationOf(name) >= generation) return;
  ids_ = std::make_shared<const NamespaceIds>(ids_->With(name, generation));
}

void Namespaces::DropOld() {
  const absl::Time now = clock_.WallNow();
  std::erase_if(to_drop_until_, [now](const auto& each) { return each.second <= now; });
  for (const auto& [id, until] : to_drop_until_) {
    manifests_->DropNamespace({.id = id}, [](const absl::StatusOr<uint32_t>&) {});
  }
}

void Namespaces::ForgetOlder(const BlockKey& record) {
  BlockKey first = record;
  std::fill(first.begin() + kVersionPrefixBytes, first.end(), uint8_t{0});
  std::vector<PlacedKey> older;
  for (auto it = known_.lower_bound(first); it != known_.end() && it->first < record; it = known_.erase(it)) {
    older.push_back({{it->first, ObjectKind::kManifest}, Record::root(secret_)});
  }
  if (!older.empty()) manifests_->Drop(std::move(older), [](const absl::StatusOr<uint32_t>&) {});
}

void Namespaces::Delete(const std::string& name, std::function<void(std::variant<Deleted, ApiError>)> done) {
  const absl::Time last = ids_->GenerationOf(name);
  if (last == absl::InfinitePast() && ids_->n_deleted() >= kDeletedMax) {
    return done(SessionStoreError(absl::ResourceExhaustedError("as many as there may be were deleted")));
  }
  const absl::Time generation =
      absl::FromUnixMillis(absl::ToUnixMillis(std::max(clock_.WallNow(), last + absl::Milliseconds(1))));
  const Record record{name, ids_->Of(name)};
  Manifests::Item item;
  item.hash = VersionKey(record.hash(secret_), generation);
  item.parent = item.extent = Record::root(secret_);
  item.namespace_id = kRecords;
  item.bytes = record.ToBytes();
  item.retain_until = generation + kKeptFor;
  item.ack = kvstore::Ack::kDurableOne;
  const auto begin_generation = [=, this](const absl::Status& stored) {
    if (!stored.ok()) return done(SessionStoreError(stored));
    ForgetOlder(item.hash);
    known_.emplace(item.hash, generation);
    Learn(name, generation);
    to_drop_until_[record.old_id] = generation + kDropFor;
    manifests_->DropNamespace({.id = record.old_id}, [done](const absl::StatusOr<uint32_t>& n_missed) {
      done(Deleted{.n_stores_missed = n_missed.ok() ? *n_missed : 1});
    });
  };
  manifests_->Put(item, [=, this](const absl::Status& stored) {
    if (!absl::IsFailedPrecondition(stored)) return begin_generation(stored);
    // No store has a disk: then nothing else outlives them either.
    Manifests::Item in_memory = item;
    in_memory.ack = kvstore::Ack::kMemoryAll;
    manifests_->Put(in_memory, begin_generation);
  });
}

}  // namespace longshelf::router
