#include "session_drops.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

#include "kvstore/keys.h"
#include "manifests.h"

namespace longshelf::router {
namespace {

using kvstore::BlockKey;

constexpr size_t kRunningMax = 4;     // each may hold one session's body
constexpr size_t kWaitingMax = 1000;  // what is turned away is found by the next one of its session
constexpr size_t kCardsPerStep = 250;
constexpr uint32_t kWalksMax = 3;  // when sessions change meanwhile

}  // namespace

std::string SessionDrops::SaltOf(const Session& session) const {
  return KeyText(kvstore::NamespaceSalt(tenant_secret_, session.namespace_id));
}

void SessionDrops::DropState(const std::string& scope, const SessionInfo& info, const Session& session) {
  if (!info.kv.has_value()) return;
  Drop({.scope = scope,
        .versions = {},
        .states = {OwnObjects(info, session, SaltOf(session))},
        .done = [](const absl::StatusOr<uint32_t>&) {}});
}

void SessionDrops::Drop(Order order) {
  const auto task = std::make_shared<Task>();
  task->order = std::move(order);
  if (n_running_ < kRunningMax) return Begin(task);
  if (waiting_.size() >= kWaitingMax) {
    return task->order.done(absl::UnavailableError("too many sessions are being removed"));
  }
  task->order.is_waited_for ? waiting_.push_front(task) : waiting_.push_back(task);
}

void SessionDrops::Begin(const TaskPtr& task) {
  ++n_running_;
  store_.GetCards(task->order.versions,
                  [this, task](const absl::StatusOr<std::vector<absl::StatusOr<SessionInfo>>>& cards) {
                    for (const absl::StatusOr<SessionInfo>& card : *cards) {
                      if (card.ok() && card->kv.has_value()) task->cards.push_back(*card);
                    }
                    LoadStates(task);
                  });
}

void SessionDrops::LoadStates(const TaskPtr& task) {
  if (task->cards.empty()) return Walk(task, {});
  const SessionInfo card = std::move(task->cards.back());
  task->cards.pop_back();
  store_.GetBody(task->order.scope, card, vocab_size_, [this, task, card](const absl::StatusOr<Session>& session) {
    // Without its tokens its state cannot be named.
    if (session.ok()) task->order.states.emplace_back(card, *session, SaltOf(*session));
    LoadStates(task);
  });
}

void SessionDrops::Walk(const TaskPtr& task, const BlockKey& after) {
  if (task->order.states.empty()) return DropOf(task);
  std::set<BlockKey> without;
  for (const kvstore::ObjectHead& head : task->order.versions) without.insert(head.key.hash);
  store_.ListHeads(task->order.scope, after, kCardsPerStep, std::move(without),
                   [this, task](const absl::StatusOr<SessionStore::HeadPage>& page) {
                     if (!page.ok()) return End(task, page.status());
                     store_.GetCards(page->heads,
                                     [this, task, page = *page](
                                         const absl::StatusOr<std::vector<absl::StatusOr<SessionInfo>>>& cards) {
                                       Compare(task, page, *cards);
                                     });
                   });
}

void SessionDrops::Compare(const TaskPtr& task, const SessionStore::HeadPage& page,
                           const std::vector<absl::StatusOr<SessionInfo>>& cards) {
  std::vector<OwnObjects>& states = task->order.states;
  for (const absl::StatusOr<SessionInfo>& card : cards) {
    if (card.ok()) {
      for (OwnObjects& state : states) state.LeaveTo(*card);
    } else if (absl::IsNotFound(card.status()) && task->n_walks + 1 < kWalksMax) {
      // Parked again since it was listed: under a name that may lie behind us.
      ++task->n_walks;
      return Walk(task, {});
    } else if (absl::IsNotFound(card.status()) || absl::IsDataLoss(card.status())) {
      states.clear();
      return DropOf(task);
    } else {
      return End(task, card.status());
    }
  }
  page.more ? Walk(task, page.next) : DropOf(task);
}

void SessionDrops::DropOf(const TaskPtr& task) {
  std::vector<kvstore::PlacedKey> keys;
  for (const OwnObjects& state : task->order.states) state.AddTo(keys);
  if (keys.empty() && task->order.versions.empty()) return End(task, 0u);
  store_.Drop(task->order.versions, std::move(keys),
              [this, task](const absl::StatusOr<uint32_t>& n_missed) { End(task, n_missed); });
}

void SessionDrops::End(const TaskPtr& task, const absl::StatusOr<uint32_t>& n_missed) {
  --n_running_;
  if (!waiting_.empty() && n_running_ < kRunningMax) {
    const TaskPtr next = std::move(waiting_.front());
    waiting_.pop_front();
    Begin(next);
  }
  task->order.done(n_missed);
}

}  // namespace longshelf::router
