#include "membership.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace longshelf::kvstore {
namespace {

constexpr absl::Duration kFreeInterval = absl::Seconds(10);

std::string NameOf(const Member& member) { return absl::StrCat(member.address, ";", member.weight, ";", member.zone); }

}  // namespace

void Membership::Use(const std::vector<Member>& members, absl::Duration leave_after) {
  if (core_.is_closed) return;
  std::set<std::string> present;
  for (const Member& member : members) {
    const std::string name = NameOf(member);
    if (!known_.contains(name)) {
      absl::StatusOr<std::unique_ptr<Client>> client = make_node_(member);
      if (!client.ok()) continue;  // no address
      known_[name].node = std::make_shared<ClusterNode>(member, *std::move(client));
    }
    known_[name].leaves_at = absl::InfiniteFuture();
    present.insert(name);
  }
  if (present.empty()) return;
  const absl::Time leaves_at = core_.clock.Now() + leave_after;
  bool any_leaves = false;
  for (auto& [name, known] : known_) {
    if (present.contains(name) || known.leaves_at != absl::InfiniteFuture()) continue;
    known.leaves_at = leaves_at;
    any_leaves = true;
  }
  if (any_leaves && leave_after > absl::ZeroDuration()) {
    core_.loop->At(leaves_at, [this] { Update(); });
  }
  Update();
}

void Membership::Update() {
  if (core_.is_closed) return;
  std::vector<std::shared_ptr<ClusterNode>> nodes;
  size_t n_leaving = 0;
  const absl::Time now = core_.clock.Now();
  for (auto it = known_.begin(); it != known_.end();) {
    if (it->second.leaves_at <= now) {
      left_.push_back(std::move(it->second.node));
      it = known_.erase(it);
      continue;
    }
    if (it->second.leaves_at != absl::InfiniteFuture()) ++n_leaving;
    nodes.push_back(it->second.node);
    ++it;
  }
  core_.view = std::make_shared<const ClusterView>(std::move(nodes), n_leaving);
  if (on_view_) on_view_();
  FreeLeft();
}

void Membership::FreeLeft() {
  if (core_.is_closed || left_.empty()) return;
  // Calls that run, and views that they began with, have theirs.
  std::erase_if(left_, [](const std::shared_ptr<ClusterNode>& node) { return node.use_count() == 1; });
  if (left_.empty() || std::exchange(will_free_, true)) return;
  core_.loop->At(core_.clock.Now() + kFreeInterval, [this] {
    will_free_ = false;
    FreeLeft();
  });
}

std::vector<std::unique_ptr<Client>> Membership::Close() {
  std::vector<std::unique_ptr<Client>> clients;
  for (const auto& [name, known] : known_) clients.push_back(std::move(known.node->client));
  for (const auto& node : left_) clients.push_back(std::move(node->client));
  return clients;
}

}  // namespace longshelf::kvstore
