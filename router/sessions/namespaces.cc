#include "router/namespaces.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/keys.h"
#include "kvstore/namespace_id.h"
#include "manifests.h"
#include "session_errors.h"

namespace longshelf::router {
namespace {

using kvstore::BlockKey;
using kvstore::NamespaceDrop;
using kvstore::ObjectHead;
using kvstore::ObjectKind;
using kvstore::PlacedKey;

constexpr absl::Duration kAskEvery = absl::Seconds(2);
constexpr absl::Duration kAskEveryAtFirst = absl::Milliseconds(250);
constexpr absl::Duration kGiveUpAfter = absl::Seconds(30);
// What was under way when a namespace was deleted may reach the stores later, and a store that was restarted has
// forgotten what it must not take.
constexpr absl::Duration kDropEvery = absl::Minutes(1);
constexpr absl::Duration kDropFor = absl::Hours(1);
constexpr absl::Duration kKeptFor = absl::Hours(24 * 3650);
constexpr uint64_t kRecordBytesMax = 256;
constexpr char kRecords[] = "#namespaces";  // what the records themselves belong to

NamespaceDrop DropOf(const std::string& name, absl::Time generation, bool retire) {
  return {.id = name, .before_generation = static_cast<uint64_t>(absl::ToUnixMillis(generation)), .retire = retire};
}

ApiError TooManyUsers() {
  ApiError error;
  error.http_status = 409;
  error.code = "too_many_users_deleted";
  error.param = "user_id";
  error.message = absl::StrCat("the caches of ", Namespaces::kTenantUsersMax,
                               " users were deleted one by one: delete the tenant's whole cache, without user_id, "
                               "which is that of its users too");
  return error;
}

}  // namespace

// Its payload: the name, and a line more that nobody reads.
struct Namespaces::Record {
  static std::string NameOf(const std::string& bytes) { return bytes.substr(0, bytes.find('\n')); }
  static BlockKey HashOf(std::string_view secret, const std::string& name) {
    return kvstore::NamespaceSalt(secret, "namespace/1/" + name);
  }
  static BlockKey Root(std::string_view secret) { return kvstore::NamespaceSalt(secret, "namespaces/1"); }
};

struct Namespaces::NewRecord {
  std::string name;
  absl::Time generation;
  Manifests::Item item;
};

Namespaces::Namespaces(kvstore::Client& client, std::string tenant_secret, Clock& clock, Post post)
    : manifests_(std::make_unique<Manifests>(client, std::move(post))),
      secret_(std::move(tenant_secret)),
      clock_(clock) {}

Namespaces::~Namespaces() = default;

void Namespaces::Tick() {
  const absl::Time now = clock_.Now();
  give_up_at_ = std::min(give_up_at_, now + kGiveUpAfter);
  if (!is_ready() && now >= give_up_at_) {
    has_given_up_ = true;
    spdlog::error("for {} the KV stores did not say which namespaces were deleted: requests are served without",
                  absl::FormatDuration(kGiveUpAfter));
  }
  if (now >= next_ask_ && !is_asking_) {
    next_ask_ = now + (has_read_ ? kAskEvery : kAskEveryAtFirst);
    BeginPass();
  }
  if (now >= next_drop_ && !is_dropping_) {
    next_drop_ = now + kDropEvery;
    std::erase_if(to_drop_, [wall = clock_.WallNow()](const auto& each) { return each.second.until <= wall; });
    is_dropping_ = true;
    DropNext("");
  }
}

void Namespaces::BeginPass() {
  is_asking_ = true;
  is_whole_ = true;
  ++pass_;
  Ask({});
}

void Namespaces::Ask(const BlockKey& after) {
  manifests_->List({.parent = Record::Root(secret_), .after = after},
                   [this](absl::StatusOr<kvstore::ListResult> listed) {
                     if (!listed.ok()) return EndPass(/*is_all=*/false);
                     is_whole_ = is_whole_ && Manifests::IsWhole(*listed);
                     if (!listed->more || listed->heads.empty()) {
                       const bool is_all = !listed->more;
                       return Read(std::move(listed->heads), [this, is_all] { EndPass(is_all); });
                     }
                     const BlockKey last = listed->heads.back().key.hash;
                     Read(std::move(listed->heads), [this, last] { Ask(last); });
                   });
}

void Namespaces::Read(std::vector<ObjectHead> heads, std::function<void()> next) {
  std::erase_if(heads, [this](const ObjectHead& head) {
    const auto known = known_.find(head.key.hash);
    if (known != known_.end()) known->second.pass = pass_;
    return known != known_.end() || head.payload_bytes > kRecordBytesMax;
  });
  if (heads.empty()) return next();
  std::vector<kvstore::GetItem> items;
  for (const ObjectHead& head : heads) items.push_back({head.key, head.payload_bytes, head.extent});
  manifests_->Get(std::move(items), [this, heads = std::move(heads), next = std::move(next)](
                                        absl::StatusOr<std::vector<absl::StatusOr<std::string>>> read) {
    for (size_t i = 0; i < heads.size(); ++i) {
      if (i < read->size() && (*read)[i].ok()) {
        Take(heads[i], *(*read)[i]);
      } else {
        is_whole_ = false;  // read again the next time
      }
    }
    next();
  });
}

void Namespaces::Take(const ObjectHead& head, const std::string& bytes) {
  const BlockKey& key = head.key.hash;
  const std::string name = Record::NameOf(bytes);
  // Only who knows the secret can write one.
  if (VersionPrefix(Record::HashOf(secret_, name)) != VersionPrefix(key)) return;
  Know(key, name);
  begun_.push_back({name, VersionOf(key)});
  DropLater(name, VersionOf(key));
}

void Namespaces::EndPass(bool is_all) {
  is_asking_ = false;
  const std::vector<NamespaceIds::Begun> begun = std::exchange(begun_, {});
  if (!begun.empty()) ids_ = std::make_shared<const NamespaceIds>(ids_->With(begun));
  if (!is_all || !is_whole_) return;
  has_read_ = true;
  // What others have replaced.
  std::vector<BlockKey> gone;
  for (const auto& [key, known] : known_) {
    if (known.pass != pass_) gone.push_back(key);
  }
  for (const BlockKey& key : gone) Forget(key);
}

void Namespaces::Know(const BlockKey& record, const std::string& name) {
  known_[record] = {name, pass_};
  by_name_.emplace(name, record);
}

void Namespaces::Forget(const BlockKey& record) {
  const auto known = known_.find(record);
  by_name_.erase({known->second.name, record});
  known_.erase(known);
}

void Namespaces::DropOlder(const std::string& name, absl::Time generation) {
  std::vector<PlacedKey> older;
  const auto collect = [&](const std::string& prefix, const auto& is_one) {
    for (auto it = by_name_.lower_bound({prefix, {}}); it != by_name_.end() && is_one(it->first); ++it) {
      if (VersionOf(it->second) >= generation) continue;
      older.push_back({{it->second, ObjectKind::kManifest}, Record::Root(secret_)});
    }
  };
  collect(name, [&](const std::string& each) { return each == name; });
  collect(name + ":", [&](const std::string& each) { return each.starts_with(name + ":"); });
  for (const PlacedKey& record : older) Forget(record.key.hash);
  if (!older.empty()) manifests_->Drop(std::move(older), [](const absl::StatusOr<uint32_t>&) {});
}

void Namespaces::DropLater(const std::string& name, absl::Time generation) {
  const absl::Time until = generation + kDropFor;
  const auto owner = to_drop_.find(std::string(kvstore::OwnerOf(name)));
  const bool is_covered = owner != to_drop_.end() && owner->second.generation >= generation;
  if (until <= clock_.WallNow() || is_covered) return;
  Drop& drop = to_drop_.try_emplace(name, Drop{generation, until}).first->second;
  drop = {std::max(drop.generation, generation), std::max(drop.until, until)};
  const std::string users = name + ":";
  for (auto it = to_drop_.lower_bound(users); it != to_drop_.end() && it->first.starts_with(users);) {
    it = it->second.generation <= generation ? to_drop_.erase(it) : std::next(it);
  }
}

// One after another: they may be many, and there is time.
void Namespaces::DropNext(const std::string& after) {
  const auto next = to_drop_.upper_bound(after);
  is_dropping_ = next != to_drop_.end();
  if (!is_dropping_) return;
  manifests_->DropNamespace(DropOf(next->first, next->second.generation, /*retire=*/true),
                            [this, name = next->first](const absl::StatusOr<uint32_t>&) { DropNext(name); });
}

void Namespaces::Put(const NewRecord& record, Stored stored) {
  manifests_->Put(record.item, [this, record, stored = std::move(stored)](const absl::Status& durably) {
    if (!absl::IsFailedPrecondition(durably)) return stored(durably);
    // No store has a disk: then nothing else outlives them either.
    Manifests::Item in_memory = record.item;
    in_memory.ack = kvstore::Ack::kMemoryAll;
    manifests_->Put(in_memory, stored);
  });
}

void Namespaces::Begin(const NewRecord& record, const Done& done) {
  DropOlder(record.name, record.generation);
  Know(record.item.hash, record.name);
  ids_ = std::make_shared<const NamespaceIds>(ids_->With({{record.name, record.generation}}));
  DropLater(record.name, record.generation);
  manifests_->DropNamespace(DropOf(record.name, record.generation, /*retire=*/true),
                            [done](const absl::StatusOr<uint32_t>& n_missed) {
                              done(Deleted{.n_stores_missed = n_missed.ok() ? *n_missed : 1});
                            });
}

void Namespaces::Delete(const std::string& name, Done done) {
  const std::string_view tenant = kvstore::OwnerOf(name);
  const bool is_new = !tenant.empty() && ids_->GenerationOf(name) == ids_->GenerationOf(std::string(tenant));
  if (is_new && (ids_->n_users(tenant) >= kTenantUsersMax || ids_->n_users() >= kUsersMax)) return done(TooManyUsers());
  const absl::Time last = ids_->LatestOf(name);
  NewRecord record;
  record.name = name;
  record.generation =
      absl::FromUnixMillis(absl::ToUnixMillis(std::max(clock_.WallNow(), last + absl::Milliseconds(1))));
  record.item.hash = VersionKey(Record::HashOf(secret_, name), record.generation);
  record.item.parent = record.item.extent = Record::Root(secret_);
  record.item.namespace_id = kRecords;
  record.item.bytes = name + "\n";
  record.item.retain_until = record.generation + kKeptFor;
  record.item.ack = kvstore::Ack::kDurableOne;
  const Stored begin = [=, this](const absl::Status& stored) {
    if (!stored.ok()) return done(SessionStoreError(stored));
    Begin(record, done);
  };
  Put(record, [=, this](const absl::Status& stored) {
    if (!absl::IsResourceExhausted(stored)) return begin(stored);
    // What is to be deleted makes the room. Not retired yet: without the record the name goes on, and whoever asked is
    // told so.
    manifests_->DropNamespace(DropOf(name, record.generation, /*retire=*/false),
                              [=, this](const absl::StatusOr<uint32_t>&) { Put(record, begin); });
  });
}

}  // namespace longshelf::router
