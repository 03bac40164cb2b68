#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>

#include "absl/status/status.h"
#include "common/task_loop.h"
#include "longshelf/v1/store_link.pb.h"
#include "remote_call_service.h"
#include "worker/home_store/home_store.h"

namespace longshelf::worker {

// A link, as its store uses it: on the loop, until it has ended it.
class OrderStream {
 public:
  // One at a time: the next after RemoteStore::OnWritten.
  virtual void Write(v1::StoreOrders orders) = 0;
  virtual void End(const absl::Status& status) = 0;

 protected:
  ~OrderStream() = default;
};

// The store of one other shard. Anybody calls it; the rest happens on the loop. Each call has a queue of its own, so
// that one with many offers does not hold up the others.
class RemoteStore final : public HomeStore {
 public:
  RemoteStore(int rank, std::shared_ptr<TaskLoop> loop) : rank_(rank), loop_(std::move(loop)) {}

  std::shared_ptr<kvstore::Client::GetCall> Get(GetRequest request, GetEvents events) override;
  std::shared_ptr<PutCall> Put(absl::Duration timeout, kvstore::Client::PutEvents events) override;

  // Below: on the loop.

  // ALREADY_EXISTS, UNAVAILABLE: it has, or had, a link.
  absl::Status Attach(OrderStream& stream);
  // INVALID_ARGUMENT: the shard breaks the protocol.
  absl::Status OnReports(const v1::StoreReports& reports);
  void OnWritten();
  // The link is no more, for this reason: it is not used again.
  void OnBroken(const absl::Status& why);
  // Ends the calls and the link.
  void Close();

  // What handles ask for.
  void Release(RemoteCall& get, uint64_t n_bytes);
  void Offer(RemotePut& put, const PutItem& item);
  void Finish(RemotePut& put);
  void Cancel(RemoteCall& call);

 private:
  using CallPtr = std::shared_ptr<RemoteCall>;

  void Begin(const CallPtr& call, v1::StoreOrder order);
  void Order(RemoteCall& call, v1::StoreOrder order);
  void WriteNext();
  // Moves what is unsent to `orders` while there is room.
  void TakeUnsent(RemoteCall& call, v1::StoreOrders& orders, size_t& n_bytes);
  absl::Status OnReport(const v1::StoreReport& report);
  void End(RemoteCall& call, const absl::Status& status);
  // Ends all calls, and from now on every new one.
  void EndAll(const absl::Status& status);

  const int rank_;
  const std::shared_ptr<TaskLoop> loop_;

  // The loop's.
  OrderStream* stream_ = nullptr;
  absl::Status ended_;  // not OK: there will be no link any more
  std::map<uint64_t, CallPtr> calls_;
  std::deque<uint64_t> ready_;  // calls that have something unsent, maybe ended ones
  uint64_t last_id_ = 0;
  bool is_writing_ = false;
};

}  // namespace longshelf::worker
