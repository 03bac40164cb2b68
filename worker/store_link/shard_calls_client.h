#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/task_loop.h"
#include "longshelf/v1/store_link.pb.h"
#include "worker/home_store/home_store.h"

namespace longshelf::worker {

// The calls of a link, on the shard's own store. On the loop, to which what the store says is posted; must not go
// before it is empty.
class ShardCalls {
 public:
  // `report` is called on the loop; a call is gone before its done is reported.
  ShardCalls(HomeStore& local, std::shared_ptr<TaskLoop> loop, std::function<void(v1::StoreReport)> report)
      : local_(local), loop_(std::move(loop)), report_(std::move(report)) {}

  // INVALID_ARGUMENT: the leader breaks the protocol.
  absl::Status Execute(const v1::StoreOrders& orders);
  void CancelAll();
  bool empty() const { return calls_.empty(); }

 private:
  // One of the two is set.
  struct Call {
    std::shared_ptr<kvstore::Client::GetCall> get = nullptr;
    std::shared_ptr<HomeStore::PutCall> put = nullptr;
    std::vector<uint32_t> indices = {};  // the leader's numbers of what was offered, in our order
  };

  absl::Status Execute(const v1::StoreOrder& order);
  // Orders that begin a call.
  absl::Status CheckNew(uint64_t id) const;
  absl::Status StartGet(uint64_t id, const v1::StoreGet& wire);
  absl::Status StartPut(uint64_t id, const v1::StorePut& wire);
  // Others.
  static absl::Status Continue(Call& call, const v1::StoreOrder& order);
  static absl::Status Offer(Call& call, const v1::StoreOffer& wire);

  void OnObject(uint64_t id, size_t index, const absl::StatusOr<engine::EncodedStamp>& object);
  void OnOutcome(uint64_t id, size_t index, const absl::StatusOr<kvstore::PutOutcome>& outcome);
  void OnDone(uint64_t id, const absl::Status& status);

  HomeStore& local_;
  const std::shared_ptr<TaskLoop> loop_;
  const std::function<void(v1::StoreReport)> report_;
  std::map<uint64_t, Call> calls_;
  uint64_t last_id_ = 0;
};

}  // namespace longshelf::worker
