#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cluster_core.h"

namespace longshelf::kvstore {

// Who belongs to a cluster, and the node that stands for each: makes the view of a core. Lives on its loop.
class Membership {
 public:
  using MakeNode = std::function<absl::StatusOr<std::unique_ptr<Client>>(const Member& member)>;

  // The core must outlive it. `on_view` is called when the core has another view.
  Membership(ClusterCore& core, MakeNode make_node, std::function<void()> on_view = nullptr)
      : core_(core), make_node_(std::move(make_node)), on_view_(std::move(on_view)) {}

  // From now on these are there. Who was, and is not among them, stays a member for `leave_after`: he counts where
  // several stores are promised, or have to be told something, and may be asked for what he has.
  void Use(const std::vector<Member>& members, absl::Duration leave_after);
  // Takes the nodes' clients from them, for whoever may wait for their end.
  std::vector<std::unique_ptr<Client>> Close();

 private:
  struct Known {
    std::shared_ptr<ClusterNode> node;
    absl::Time leaves_at = absl::InfiniteFuture();  // of one that is not there
  };

  // Lets those leave whose time has come, and makes the view.
  void Update();
  // Ends the clients of those that nobody uses any more.
  void FreeLeft();

  ClusterCore& core_;
  const MakeNode make_node_;
  const std::function<void()> on_view_;
  std::map<std::string, Known> known_;  // by all that a member is
  std::vector<std::shared_ptr<ClusterNode>> left_;
  bool will_free_ = false;
};

}  // namespace longshelf::kvstore
