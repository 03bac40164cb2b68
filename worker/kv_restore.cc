#include <algorithm>
#include <set>
#include <utility>

#include "engine/model/kv_layout.h"
#include "worker/kv_bridge.h"

namespace longshelf::worker {

using engine::kBlockTokens;
using kvstore::BlockKey;
using kvstore::GetItem;
using kvstore::ObjectKey;
using kvstore::ObjectKind;

struct KvBridge::Chain {
  BlockKey root{};
  std::vector<BlockKey> blocks;  // full blocks that a resumed sequence could use
  int64_t n_usable = 0;          // the last token is always computed: its logits are wanted

  const BlockKey& Parent(int64_t n_tokens) const {
    const int64_t n_blocks = n_tokens / kBlockTokens;
    return n_blocks == 0 ? root : blocks[static_cast<size_t>(n_blocks) - 1];
  }
  // The name of the checkpoint at n_tokens of these tokens.
  BlockKey CheckpointKey(std::span<const uint32_t> tokens, int64_t n_tokens) const {
    const int64_t n_tail = n_tokens % kBlockTokens;
    const BlockKey& parent = Parent(n_tokens);
    if (n_tail == 0) return parent;
    return kvstore::ChainNext(parent,
                              tokens.subspan(static_cast<size_t>(n_tokens - n_tail), static_cast<size_t>(n_tail)));
  }
};

struct KvBridge::Candidate {
  BlockKey key{};
  int64_t n_tokens = 0;
};

struct KvBridge::Fetched {
  int64_t first_block = 0;
  std::vector<std::vector<std::byte>> blocks;  // from first_block on, without holes
  int64_t end_block = INT64_MAX;               // the first block that cannot be had
  std::vector<std::byte> tail;
  std::vector<std::byte> state;
};

namespace {

// Shallower checkpoints are tried when a deeper one turns out to be incomplete.
constexpr int kAttemptsMax = 4;

std::string ReasonOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return "missing";
    case absl::StatusCode::kDataLoss:
      return "digest_mismatch";
    case absl::StatusCode::kFailedPrecondition:
      return "bad_size";
    case absl::StatusCode::kDeadlineExceeded:
      return "store_timeout";
    case absl::StatusCode::kUnavailable:
      return "store_unreachable";
    default:
      return "other";
  }
}

}  // namespace

void KvBridge::Restore(RestoreRequest request, std::function<void(RestoreOutcome)> done) {
  if (!breaker_.MayCall(clock_.Now())) {
    metrics_.RestoreFailed("store_unreachable");
    done({nullptr, "store_unreachable", nullptr});
    return;
  }
  auto shared = std::make_shared<std::pair<RestoreRequest, std::function<void(RestoreOutcome)>>>(std::move(request),
                                                                                                 std::move(done));
  if (!restore_pool_.Post([this, shared] { shared->second(RestoreNow(shared->first)); })) {
    metrics_.RestoreFailed("store_busy");
    shared->second({nullptr, "store_busy", nullptr});
  }
}

KvBridge::Chain KvBridge::MakeChain(const RestoreRequest& request) const {
  const std::span<const uint32_t> tokens(request.tokens);
  Chain chain;
  chain.n_usable = std::min<int64_t>(static_cast<int64_t>(tokens.size()), kvstore::kMaxDepthTokens) - 1;
  chain.root = kvstore::ChainRoot(options_.fingerprint, request.namespace_salt);
  const auto n_known_max = static_cast<size_t>(std::max<int64_t>(chain.n_usable, 0) / kBlockTokens);
  chain.blocks = request.prefix_keys;
  chain.blocks.resize(std::min(chain.blocks.size(), n_known_max));
  for (int64_t end = (std::ssize(chain.blocks) + 1) * kBlockTokens; end <= chain.n_usable; end += kBlockTokens) {
    chain.blocks.push_back(
        kvstore::ChainNext(chain.Parent(end - 1),
                           tokens.subspan(static_cast<size_t>(end - kBlockTokens), static_cast<size_t>(kBlockTokens))));
  }
  return chain;
}

RestoreOutcome KvBridge::RestoreNow(const RestoreRequest& request) {
  const absl::Time begun = clock_.Now();
  const std::span<const uint32_t> tokens(request.tokens);
  const Chain chain = MakeChain(request);
  if (chain.n_usable < 1 || chain.blocks.size() > kvstore::kMaxChainKeys) return {};

  const auto found = LookupChain(chain, tokens);
  ReportCall(found.ok() ? absl::OkStatus() : found.status());
  if (!found.ok()) {
    metrics_.RestoreFailed(ReasonOf(found.status()));
    return {nullptr, ReasonOf(found.status()), nullptr};
  }
  // The engine knows better whether it ever saw these tokens.
  if (found->n_present == 0 && found->checkpoints.empty()) return {};

  const int64_t n_local = ProbeLocal(request);
  if (n_local >= chain.n_usable) return {};
  Fetched fetched;
  fetched.first_block = n_local / kBlockTokens;
  std::string reason;
  const absl::Time deadline =
      begun + options_.fetch_timeout + options_.fetch_timeout_per_block * static_cast<int64_t>(chain.blocks.size());
  int n_attempts = 0;
  for (const Candidate& candidate : UsableCheckpoints(chain, *found, tokens, n_local)) {
    if (candidate.n_tokens / kBlockTokens > fetched.end_block) continue;
    const auto n_blocks = static_cast<uint64_t>(candidate.n_tokens / kBlockTokens + 1 - fetched.first_block);
    const uint64_t n_bytes = n_blocks * options_.block_bytes + options_.state_bytes(candidate.n_tokens);
    if (restore_bytes_->fetch_add(n_bytes) + n_bytes > options_.restore_memory_bytes) {
      restore_bytes_->fetch_sub(n_bytes);
      metrics_.RestoreFailed("restore_memory");
      if (reason.empty()) reason = "restore_memory";
      continue;
    }
    // Of a long session none of the deepest may fit; what was not fetched is no attempt.
    if (++n_attempts > kAttemptsMax) {
      restore_bytes_->fetch_sub(n_bytes);
      break;
    }
    std::shared_ptr<void> lease(restore_bytes_.get(),
                                [total = restore_bytes_, n_bytes](void*) { total->fetch_sub(n_bytes); });
    const std::string failure = FetchCandidate(chain, candidate, request, deadline, fetched);
    if (request.cancelled != nullptr && request.cancelled->load()) return {nullptr, "cancelled", nullptr};
    if (!failure.empty()) {
      metrics_.RestoreFailed(failure);
      if (reason.empty()) reason = failure;
      if (failure == "store_unreachable" || failure == "store_timeout") break;
      continue;
    }
    if (candidate.n_tokens == chain.n_usable) reason.clear();
    auto restored = std::make_unique<engine::RestoredPrefix>();
    restored->n_tokens = candidate.n_tokens;
    restored->first_block = fetched.first_block;
    fetched.blocks.resize(static_cast<size_t>(candidate.n_tokens / kBlockTokens - fetched.first_block));
    restored->blocks = std::move(fetched.blocks);
    if (candidate.n_tokens % kBlockTokens != 0) restored->blocks.push_back(std::move(fetched.tail));
    restored->state = std::move(fetched.state);
    metrics_.RestoreDone(clock_.Now() - begun, candidate.n_tokens - n_local, n_bytes);
    return {std::move(restored), reason, std::move(lease)};
  }
  if (reason.empty() && n_local == 0) reason = "no_checkpoint";
  return {nullptr, reason, nullptr};
}

int64_t KvBridge::ProbeLocal(const RestoreRequest& request) {
  auto reply = std::make_shared<Mailbox<int64_t>>(1);
  engine::EngineMessage probe =
      engine::ProbePrefix{request.tokens, request.namespace_salt,
                          [reply](int64_t n_tokens) { reply->Post(std::move(n_tokens)); }, request.prefix_keys};
  if (!engine_inbox_.Post(std::move(probe))) return 0;
  const auto answer = reply->Drain(absl::ToChronoMilliseconds(options_.probe_timeout));
  return answer.empty() ? 0 : std::max<int64_t>(answer.front(), 0);
}

absl::StatusOr<kvstore::LookupResult> KvBridge::LookupChain(const Chain& chain, std::span<const uint32_t> tokens) {
  kvstore::LookupQuery query;
  query.fingerprint = options_.fingerprint;
  query.root = chain.root;
  query.chain = chain.blocks;
  // Every position inside the last, partly filled block, by name: the listing of a popular block is bounded and may be
  // full of other people's continuations.
  const int64_t last_boundary = chain.n_usable - chain.n_usable % kBlockTokens;
  for (int64_t n = last_boundary + 1; n <= chain.n_usable; ++n) {
    query.probes.push_back(chain.CheckpointKey(tokens, n));
  }
  return store_.Lookup(query, options_.lookup_timeout);
}

std::vector<KvBridge::Candidate> KvBridge::UsableCheckpoints(const Chain& chain, const kvstore::LookupResult& found,
                                                             std::span<const uint32_t> tokens, int64_t n_local) {
  std::vector<Candidate> usable;
  std::set<BlockKey> seen;
  const auto n_present = std::min<int64_t>(found.n_present, static_cast<int64_t>(chain.blocks.size()));
  for (const kvstore::CheckpointInfo& info : found.checkpoints) {
    const auto n_tokens = static_cast<int64_t>(info.depth_tokens);
    if (n_tokens <= n_local || n_tokens > chain.n_usable || !seen.insert(info.hash).second) continue;
    if (n_tokens / kBlockTokens > std::max(n_present, n_local / kBlockTokens)) continue;
    // The store says where it hangs; only our own tokens say what it is of.
    if (chain.CheckpointKey(tokens, n_tokens) != info.hash) continue;
    const bool needs_tail = n_tokens % kBlockTokens != 0;
    if (needs_tail && !info.has_tail) {
      metrics_.RestoreFailed("no_tail");
      continue;
    }
    if (info.payload_bytes != options_.state_bytes(n_tokens) ||
        (needs_tail && info.tail_bytes != options_.block_bytes)) {
      metrics_.RestoreFailed("bad_size");
      continue;
    }
    usable.push_back({info.hash, n_tokens});
  }
  std::sort(usable.begin(), usable.end(),
            [](const Candidate& a, const Candidate& b) { return a.n_tokens > b.n_tokens; });
  return usable;
}

std::string KvBridge::FetchCandidate(const Chain& chain, const Candidate& candidate, const RestoreRequest& request,
                                     absl::Time deadline, Fetched& fetched) {
  // State and tail first: without them the blocks are of no use.
  std::vector<GetItem> items = {{{candidate.key, ObjectKind::kCheckpoint}, options_.state_bytes(candidate.n_tokens)}};
  if (candidate.n_tokens % kBlockTokens != 0) {
    items.push_back({{candidate.key, ObjectKind::kTail}, options_.block_bytes});
  }
  std::string failure = FetchItems(items, deadline, [&fetched](size_t i, std::vector<std::byte> payload) {
    (i == 0 ? fetched.state : fetched.tail) = std::move(payload);
  });
  if (!failure.empty()) return failure;

  // Blocks that an earlier, deeper candidate already brought are kept.
  constexpr int64_t kBlocksPerCall = 64;
  const int64_t end = candidate.n_tokens / kBlockTokens;
  while (true) {
    const int64_t next = fetched.first_block + static_cast<int64_t>(fetched.blocks.size());
    if (next >= end) return "";
    if (request.cancelled != nullptr && request.cancelled->load()) return "cancelled";
    items.clear();
    for (int64_t b = next; b < std::min(end, next + kBlocksPerCall); ++b) {
      items.push_back({{chain.blocks[static_cast<size_t>(b)], ObjectKind::kBlock}, options_.block_bytes});
    }
    const size_t n_before = fetched.blocks.size();
    failure = FetchItems(items, deadline, [&](size_t i, std::vector<std::byte> payload) {
      // A hole ends what can be used.
      if (n_before + i == fetched.blocks.size()) fetched.blocks.push_back(std::move(payload));
    });
    if (!failure.empty()) {
      fetched.end_block = fetched.first_block + static_cast<int64_t>(fetched.blocks.size());
      return failure;
    }
  }
}

std::string KvBridge::FetchItems(std::span<const GetItem> items, absl::Time deadline,
                                 const std::function<void(size_t, std::vector<std::byte>)>& take) {
  const absl::Duration left = deadline - clock_.Now();
  if (left <= absl::ZeroDuration()) return "store_timeout";
  std::string failure;
  const absl::Status call =
      store_.Get(options_.fingerprint, items, left, [&](size_t i, absl::StatusOr<kvstore::FetchedObject> object) {
        if (object.ok() && object->payload.size() == items[i].expected_bytes) {
          take(i, std::move(object->payload));
        } else if (failure.empty()) {
          failure = object.ok() ? "bad_size" : ReasonOf(object.status());
        }
      });
  ReportCall(call);
  if (!call.ok() && failure.empty()) failure = ReasonOf(call);
  return failure;
}

}  // namespace longshelf::worker
