#include "cluster_client_impl.h"

#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cluster_get.h"
#include "cluster_lookup.h"
#include "cluster_put.h"
#include "cluster_queries.h"

namespace longshelf::kvstore {
namespace {

// What a caller holds of a call: the call goes on without it.
class GetHandle final : public Client::GetCall {
 public:
  GetHandle(std::weak_ptr<ClusterGet> get, std::shared_ptr<TaskLoop> loop)
      : get_(std::move(get)), loop_(std::move(loop)) {}
  void Release(uint64_t n_bytes) override {
    loop_->Post([get = get_, n_bytes] {
      if (const auto running = get.lock()) running->Release(n_bytes);
    });
  }
  void Cancel() override {
    loop_->Post([get = get_] {
      if (const auto running = get.lock()) running->Cancel();
    });
  }

 private:
  const std::weak_ptr<ClusterGet> get_;
  const std::shared_ptr<TaskLoop> loop_;
};

class PutHandle final : public Client::PutCall {
 public:
  PutHandle(std::weak_ptr<ClusterPut> put, std::shared_ptr<TaskLoop> loop)
      : put_(std::move(put)), loop_(std::move(loop)) {}
  void Offer(PutItem item) override {
    loop_->Post([put = put_, item = std::move(item)] {
      if (const auto running = put.lock()) running->Offer(item);
    });
  }
  void Finish() override {
    loop_->Post([put = put_] {
      if (const auto running = put.lock()) running->Finish();
    });
  }
  void Cancel() override {
    loop_->Post([put = put_] {
      if (const auto running = put.lock()) running->Cancel();
    });
  }

 private:
  const std::weak_ptr<ClusterPut> put_;
  const std::shared_ptr<TaskLoop> loop_;
};

absl::Status CheckCount(size_t n) {
  if (n <= kMaxKeysPerCall) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(n, " objects in one call, at most ", kMaxKeysPerCall));
}

absl::Status Gone() { return absl::CancelledError("the client is going away"); }

}  // namespace

ClusterClient::ClusterClient(const Clock& clock, uint32_t n_replicas, Metrics* metrics, MakeNode make_node)
    : core_(std::make_unique<ClusterCore>(clock, n_replicas, metrics)), membership_(*core_, std::move(make_node)) {}

ClusterClient::~ClusterClient() {
  watcher_.reset();
  // First nobody begins anything new; then the nodes' clients end what they still do; then what they have posted runs.
  const auto closed = std::make_shared<std::promise<void>>();
  core_->loop->Post([this, closed] {
    Close();
    closed->set_value();
  });
  if (!thread_.joinable()) core_->loop->RunReady();
  closed->get_future().wait();
  clients_.clear();
  if (thread_.joinable()) {
    core_->loop->Close();
    thread_.join();
  } else {
    core_->loop->RunReady();
  }
  core_->loop->Abandon();
}

void ClusterClient::Close() {
  core_->is_closed = true;
  const auto operations = std::exchange(core_->operations, {});
  for (const auto& weak : operations) {
    if (const auto operation = weak.lock()) operation->Abandon(Gone());
  }
  clients_ = membership_.Close();
}

void ClusterClient::RunInThread() {
  thread_ = std::thread([loop = core_->loop] { loop->RunUntilClosed(); });
}

void ClusterClient::RunReady() { core_->loop->RunReady(); }

void ClusterClient::SetMembers(std::vector<Member> members, absl::Duration leave_after) {
  core_->loop->Post([this, members = std::move(members), leave_after] { membership_.Use(members, leave_after); });
}

void ClusterClient::Watch(std::string host_port, absl::Duration interval, absl::Duration leave_after) {
  watcher_ = std::make_unique<DnsWatcher>(
      std::move(host_port), interval,
      [this, leave_after](std::vector<Member> members) { SetMembers(std::move(members), leave_after); });
}

void ClusterClient::Run(std::function<void(ClusterCore&)> start, std::function<void(const absl::Status&)> refuse) {
  core_->loop->Post([core = core_.get(), start = std::move(start), refuse = std::move(refuse)] {
    if (core->is_closed) return refuse(Gone());
    if (core->view == nullptr) return refuse(absl::UnavailableError("no KV store is known yet"));
    start(*core);
  });
}

void ClusterClient::Lookup(const LookupQuery& query, absl::Duration timeout, Done<LookupResult> done) {
  Run(
      [query, timeout, done](ClusterCore& core) {
        const auto lookup = std::make_shared<ClusterLookup>(core, query, timeout, done);
        core.Register(lookup);
        lookup->Start();
      },
      done);
}

std::shared_ptr<Client::GetCall> ClusterClient::Get(GetRequest request, GetEvents events) {
  const size_t n_items = request.items.size();
  const auto fail = [events, n_items](const absl::Status& status) {
    for (size_t i = 0; i < n_items; ++i) events.on_object(i, status);
    events.on_done(status);
  };
  // Made here and not on the loop, so that the handle can name it; its members are the loop's from then on.
  const auto operation = std::make_shared<ClusterGet>(*core_, std::move(request), std::move(events));
  if (const absl::Status status = CheckCount(n_items); !status.ok()) {
    fail(status);
  } else {
    Run(
        [operation](ClusterCore& core) {
          core.Register(operation);
          operation->Start();
        },
        fail);
  }
  return std::make_shared<GetHandle>(operation, core_->loop);
}

std::shared_ptr<Client::PutCall> ClusterClient::Put(absl::Duration timeout, PutEvents events) {
  const auto operation = std::make_shared<ClusterPut>(*core_, timeout, events);
  Run(
      [operation](ClusterCore& core) {
        core.Register(operation);
        operation->Start();
      },
      events.on_done);
  return std::make_shared<PutHandle>(operation, core_->loop);
}

void ClusterClient::Touch(TouchQuery query, absl::Duration timeout, Done<TouchResult> done) {
  if (const absl::Status status = CheckCount(query.keys.size()); !status.ok()) return done(status);
  Run([query = std::move(query), timeout, done](ClusterCore& core) { ClusterTouch(core, query, timeout, done); }, done);
}

void ClusterClient::Drop(std::vector<PlacedKey> keys, absl::Duration timeout, Done<DropResult> done) {
  if (const absl::Status status = CheckCount(keys.size()); !status.ok()) return done(status);
  Run([keys = std::move(keys), timeout,
       done](ClusterCore& core) { ClusterDrop(core, &Client::Drop, keys, timeout, done); },
      done);
}

void ClusterClient::DropCache(std::vector<PlacedKey> keys, absl::Duration timeout, Done<DropResult> done) {
  if (const absl::Status status = CheckCount(keys.size()); !status.ok()) return done(status);
  Run([keys = std::move(keys), timeout,
       done](ClusterCore& core) { ClusterDrop(core, &Client::DropCache, keys, timeout, done); },
      done);
}

void ClusterClient::DropNamespace(NamespaceDrop drop, absl::Duration timeout, Done<DropResult> done) {
  if (drop.id.empty()) return done(absl::InvalidArgumentError("namespace_id: empty"));
  Run([drop = std::move(drop), timeout, done](ClusterCore& core) { ClusterDropNamespace(core, drop, timeout, done); },
      done);
}

void ClusterClient::List(ListQuery query, absl::Duration timeout, Done<ListResult> done) {
  Run([query = std::move(query), timeout, done](ClusterCore& core) { ClusterList(core, query, timeout, done); }, done);
}

void ClusterClient::Stats(absl::Duration timeout, Done<StoreStats> done) {
  Run([timeout, done](ClusterCore& core) { ClusterStats(core, timeout, done); }, done);
}

}  // namespace longshelf::kvstore
