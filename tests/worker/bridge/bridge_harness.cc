#include "bridge_harness.h"

#include <numeric>
#include <span>

#include "worker/prefix_hasher.h"

namespace longshelf::worker {

using engine::KvObject;
using engine::ParkedObject;
using kvstore::ObjectKey;
using kvstore::ObjectKind;

void FakeEngine::Hold(const std::vector<KvObject>& objects) {
  for (const KvObject& held : objects) {
    const ParkedObject object = Name(held);
    if (object.kind == ParkedObject::Kind::kBlock) {
      blocks[object.key] = object;
      continue;
    }
    engine::FoundPrefix& checkpoint = checkpoints[object.key];
    checkpoint.at = {object.key, object.parent, object.n_tokens};
    (object.kind == ParkedObject::Kind::kTail ? checkpoint.tail : checkpoint.state) = object.copy;
  }
}

ParkedObject FakeEngine::Name(const KvObject& object) const {
  return copies_.Add(static_cast<uint16_t>(object.n_tokens / engine::kBlockTokens % n_shards), object);
}

bool FakeEngine::Export(engine::ExportBlocks& job) {
  if (is_export_stuck) return false;
  bool has_sent = false;
  while (job.first < job.keys.size()) {
    const int64_t n_room = job.sink->n_room();
    if (n_room < 0) return true;
    if (n_room == 0) return has_sent;
    const auto block = blocks.find(job.keys[job.first]);
    if (block == blocks.end()) {
      job.sink->OnEnd(absl::NotFoundError("evicted"));
      job.first = job.keys.size() + 1;
      return true;
    }
    job.sink->OnBlock(block->second);
    ++n_blocks_sent;
    ++job.first;
    has_sent = true;
  }
  if (job.first == job.keys.size()) job.sink->OnEnd(absl::OkStatus());
  job.first = job.keys.size() + 1;
  return true;
}

bool FakeEngine::Run() {
  for (engine::EngineMessage& message : inbox_.Drain(std::chrono::milliseconds(0))) {
    waiting_.push_back(std::move(message));
  }
  copies_.DropUnheld();
  if (is_asleep) return false;
  bool has_run = !waiting_.empty();
  for (; !waiting_.empty(); waiting_.pop_front()) {
    engine::EngineMessage& message = waiting_.front();
    if (auto* find = std::get_if<engine::FindPrefix>(&message)) find->reply(found);
    if (auto* find = std::get_if<engine::FindCheckpoint>(&message)) {
      const auto held = checkpoints.find(find->key);
      find->reply(held == checkpoints.end() ? absl::StatusOr<engine::FoundPrefix>(absl::NotFoundError("not held"))
                                            : held->second);
    }
    if (auto* job = std::get_if<engine::ExportBlocks>(&message)) exports_.push_back(std::move(*job));
  }
  for (auto job = exports_.begin(); job != exports_.end();) {
    has_run = Export(*job) || has_run;
    job = job->first > job->keys.size() || job->sink->n_room() < 0 ? exports_.erase(job) : std::next(job);
  }
  return has_run;
}

BridgeHarness::BridgeHarness() {
  options_.fingerprint.fill(3);
  options_.block_bytes = kBlockBytes;
  options_.state_bytes = StateBytes;
  options_.state_bytes_max = StateBytes(127);
  options_.memory_bytes = 100 * kBlockBytes;
}

void BridgeHarness::Start() {
  std::vector<HomeStore*> homes;
  for (engine::KvCopies& copies : of_shards_) {
    homes_.push_back(MakeHomeStore(client(), copies));
    homes.push_back(homes_.back().get());
  }
  bridge_ = std::make_unique<KvBridge>(options_, clock_, client(), std::move(homes), copies_.ledger(), inbox_,
                                       worker_metrics_);
}

void BridgeHarness::TearDown() {
  if (bridge_ == nullptr) return;
  bridge_->Stop();
  Pass(absl::Milliseconds(50));
  bridge_.reset();
  Settle();
}

void BridgeHarness::Settle() {
  bool has_run = true;
  while (has_run) {
    if (bridge_ != nullptr) bridge_->RunReady();
    has_run = RunStores();
    has_run = engine_.Run() || has_run;
  }
  if (bridge_ != nullptr) bridge_->RunReady();
}

void BridgeHarness::Pass(absl::Duration time) {
  Settle();
  for (; time > absl::ZeroDuration(); time -= absl::Milliseconds(10)) {
    Advance(absl::Milliseconds(10));
    Settle();
  }
}

std::vector<uint32_t> BridgeHarness::Tokens(size_t n, uint32_t seed) {
  std::vector<uint32_t> tokens(n);
  std::iota(tokens.begin(), tokens.end(), seed);
  return tokens;
}

std::vector<std::byte> BridgeHarness::Filled(uint64_t n_bytes, uint64_t seed) {
  std::vector<std::byte> out(n_bytes);
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>((i * 31 + seed * 7) & 255);
  return out;
}

std::vector<KvObject> BridgeHarness::Objects(const std::vector<uint32_t>& tokens,
                                             const std::vector<int64_t>& checkpoints) const {
  const KvPrefixHasher hasher(options_.fingerprint);
  const auto filled = [](uint64_t n_bytes, uint64_t seed) {
    return std::make_shared<const std::vector<std::byte>>(Filled(n_bytes, seed));
  };
  std::vector<KvObject> out;
  std::vector<engine::PrefixKey> keys = {hasher.Root(salt_)};
  const std::span<const uint32_t> all(tokens);
  for (size_t end = 256; end <= tokens.size(); end += 256) {
    const auto key = hasher.Next(keys.back(), all.subspan(end - 256, 256));
    out.push_back({ParkedObject::Kind::kBlock, key, keys.back(), static_cast<int64_t>(end), filled(kBlockBytes, end)});
    keys.push_back(key);
  }
  for (const int64_t n : checkpoints) {
    const auto parent = keys[static_cast<size_t>(n / 256)];
    const auto n_tail = static_cast<size_t>(n % 256);
    engine::PrefixKey key = parent;
    if (n_tail != 0) {
      key = hasher.Next(parent, all.subspan(static_cast<size_t>(n) - n_tail, n_tail));
      out.push_back({ParkedObject::Kind::kTail, key, parent, n, filled(kBlockBytes, 1000 + n_tail)});
    }
    out.push_back({ParkedObject::Kind::kCheckpoint, key, parent, n, filled(StateBytes(n), static_cast<uint64_t>(n))});
  }
  return out;
}

engine::FoundPrefix BridgeHarness::FoundAt(const std::vector<uint32_t>& tokens, int64_t n_tokens) const {
  engine::FoundPrefix found;
  found.root = KvPrefixHasher(options_.fingerprint).Root(salt_);
  for (const KvObject& object : Objects(tokens, {n_tokens})) {
    if (object.kind == ParkedObject::Kind::kTail) found.tail = engine_.Name(object).copy;
    if (object.kind == ParkedObject::Kind::kBlock && object.n_tokens <= n_tokens) found.blocks.push_back(object.key);
    if (object.kind != ParkedObject::Kind::kCheckpoint) continue;
    found.at = {object.key, object.parent, object.n_tokens};
    found.state = engine_.Name(object).copy;
  }
  return found;
}

ObjectKey BridgeHarness::KeyOf(const std::vector<uint32_t>& tokens, int64_t n, ObjectKind kind) const {
  for (const KvObject& object : Objects(tokens, {n})) {
    if (object.n_tokens != n) continue;
    if ((kind == ObjectKind::kBlock) != (object.kind == ParkedObject::Kind::kBlock)) continue;
    return {object.key, kind};
  }
  ADD_FAILURE() << "no object of " << n << " tokens";
  return {};
}

void BridgeHarness::Offload(const std::vector<uint32_t>& tokens, const std::vector<int64_t>& checkpoints) {
  const std::vector<KvObject> objects = Objects(tokens, checkpoints);
  engine_.Hold(objects);
  const engine::PrefixKey root = KvPrefixHasher(options_.fingerprint).Root(salt_);
  std::vector<engine::PrefixKey> keys;
  std::vector<ParkedObject> group;
  std::optional<engine::PrefixKey> last;
  for (const KvObject& object : objects) {
    if (object.kind == ParkedObject::Kind::kBlock) keys.push_back(object.key);
    group.push_back(engine_.Name(object));
    if (object.kind == ParkedObject::Kind::kTail) continue;
    bridge_->Offload({"tenant", root, keys, last}, std::exchange(group, {}));
    if (object.kind == ParkedObject::Kind::kCheckpoint) last = object.key;
  }
}

void BridgeHarness::Put(const std::vector<KvObject>& objects) {
  const engine::PrefixKey root = KvPrefixHasher(options_.fingerprint).Root(salt_);
  std::vector<engine::PrefixKey> keys;
  for (const KvObject& object : objects) {
    kvstore::ObjectHead head;
    head.key.hash = object.key;
    head.key.kind = object.kind == ParkedObject::Kind::kBlock  ? ObjectKind::kBlock
                    : object.kind == ParkedObject::Kind::kTail ? ObjectKind::kTail
                                                               : ObjectKind::kCheckpoint;
    head.parent = object.parent;
    if (head.key.kind == ObjectKind::kBlock) keys.push_back(object.key);
    head.extent = kvstore::ExtentOf(root, keys, static_cast<uint64_t>(object.n_tokens));
    head.depth_tokens = static_cast<uint32_t>(object.n_tokens);
    head.fingerprint = options_.fingerprint;
    head.payload_bytes = object.bytes->size();
    head.digest = kvstore::DigestOf(*object.bytes);
    head.namespace_id = "tenant";
    auto opened = store_.store().Open(head, absl::UnixEpoch());
    ASSERT_TRUE(opened.ok()) << opened.status();
    if (!std::holds_alternative<kvstore::Store::Reservation>(*opened)) continue;
    auto reservation = std::get<kvstore::Store::Reservation>(*std::move(opened));
    ASSERT_TRUE(reservation.Append(0, *object.bytes).ok());
    ASSERT_TRUE(store_.store().Commit(std::move(reservation), absl::UnixEpoch()).ok());
  }
}

void BridgeHarness::Spoil(const ObjectKey& key) { EXPECT_TRUE(store_.store().FlipBitForTest(key, 17)); }

void BridgeHarness::Resize(const ObjectKey& key) {
  const auto object = store_.Read(key, options_.fingerprint);
  ASSERT_NE(object, nullptr);
  Remove(key);
  object->payload.push_back(std::byte{0});
  KvObject larger;
  larger.kind = key.kind == ObjectKind::kBlock  ? ParkedObject::Kind::kBlock
                : key.kind == ObjectKind::kTail ? ParkedObject::Kind::kTail
                                                : ParkedObject::Kind::kCheckpoint;
  larger.key = key.hash;
  larger.parent = object->head.parent;
  larger.n_tokens = object->head.depth_tokens;
  larger.bytes = std::make_shared<const std::vector<std::byte>>(object->payload);
  Put({larger});
}

std::shared_ptr<BridgeHarness::Request> BridgeHarness::Ask(const std::vector<uint32_t>& tokens) {
  auto request = std::make_shared<Request>();
  RestoreRequest wanted;
  wanted.tokens = tokens;
  wanted.namespace_salt = salt_;
  wanted.cancelled = request->cancelled;
  bridge_->Restore(std::move(wanted), [request](RestoreOutcome outcome) {
    EXPECT_FALSE(request->outcome.has_value()) << "answered twice";
    request->outcome = std::move(outcome);
  });
  return request;
}

void BridgeHarness::Take(Request& request, int64_t n_blocks_held, int64_t n_blocks, absl::Duration patience) {
  ASSERT_TRUE(request.outcome.has_value());
  if (request.outcome->feed == nullptr) return;
  engine::PrefixFeed& feed = *request.outcome->feed;
  feed.Begin(home_, n_blocks_held);
  const absl::Time until = clock_.Now() + patience;
  while (!request.end.has_value() && clock_.Now() < until) {
    Settle();
    engine::PrefixFeed::Arrived arrived = feed.Take(n_blocks);
    const bool has_come = !arrived.blocks.empty();
    Keep(std::move(arrived), request);
    Settle();
    if (!has_come && !request.end.has_value()) Pass(absl::Milliseconds(10));
  }
}

// As a step imports it.
void BridgeHarness::Keep(engine::PrefixFeed::Arrived arrived, Request& request) const {
  const auto read = [this](const engine::KvCopyPtr& copy) {
    if (copy == nullptr) return std::vector<std::byte>();
    EXPECT_EQ(copy->shard(), home_);
    return *copies_.Read(copy);
  };
  for (const engine::KvCopyPtr& block : arrived.blocks) request.blocks.push_back(read(block));
  if (!arrived.end.has_value()) return;
  const engine::PrefixFeed::End& end = *arrived.end;
  request.end = {end.n_tokens, read(end.state), read(end.tail), end.miss_reason};
}

std::vector<ParkedObject> BridgeHarness::Named(const std::vector<KvObject>& objects) const {
  std::vector<ParkedObject> out;
  for (const KvObject& object : objects) out.push_back(engine_.Name(object));
  return out;
}

std::shared_ptr<BridgeHarness::Request> BridgeHarness::Restore(const std::vector<uint32_t>& tokens,
                                                               int64_t n_blocks_held) {
  auto request = Ask(tokens);
  Settle();
  Take(*request, n_blocks_held);
  return request;
}

std::shared_ptr<std::optional<absl::StatusOr<ParkOutcome>>> BridgeHarness::AskToPark(
    const std::vector<uint32_t>& tokens) {
  auto answer = std::make_shared<std::optional<absl::StatusOr<ParkOutcome>>>();
  ParkCommand command;
  command.tokens = tokens;
  command.namespace_id = "tenant";
  command.namespace_salt = salt_;
  command.retain_until = absl::FromUnixSeconds(4'000'000'000);
  command.ack = park_ack_;
  command.timeout = park_timeout_;
  bridge_->Park(std::move(command), [answer](absl::StatusOr<ParkOutcome> outcome) {
    EXPECT_FALSE(answer->has_value()) << "answered twice";
    *answer = std::move(outcome);
  });
  return answer;
}

absl::StatusOr<ParkOutcome> BridgeHarness::Park(const std::vector<uint32_t>& tokens) {
  const auto answer = AskToPark(tokens);
  for (int i = 0; i < 15000 && !answer->has_value(); ++i) Pass(absl::Milliseconds(10));
  return answer->has_value() ? **answer : absl::InternalError("no answer");
}

}  // namespace longshelf::worker
