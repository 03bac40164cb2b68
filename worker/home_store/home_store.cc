#include "worker/home_store/home_store.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace longshelf::worker {
namespace {

class HomePutCall final : public HomeStore::PutCall {
 public:
  explicit HomePutCall(engine::KvCopies& copies) : copies_(copies) {}

  void Start(kvstore::Client& store, absl::Duration timeout, kvstore::Client::PutEvents events) {
    put_ = store.Put(timeout, std::move(events));
  }

  // What is missing goes without a payload, which the client refuses in its turn.
  void Offer(HomeStore::PutItem item) override {
    kvstore::PutItem out;
    out.head = std::move(item.head);
    out.payload = copies_.Find(item.copy);
    out.ack = item.ack;
    out.n_replicas = item.n_replicas;
    put_->Offer(std::move(out));
  }
  void Finish() override { put_->Finish(); }
  void Cancel() override { put_->Cancel(); }

 private:
  engine::KvCopies& copies_;
  std::shared_ptr<kvstore::Client::PutCall> put_;
};

class DirectHomeStore final : public HomeStore {
 public:
  DirectHomeStore(kvstore::Client& store, engine::KvCopies& copies) : store_(store), copies_(copies) {}

  std::shared_ptr<kvstore::Client::GetCall> Get(GetRequest request, GetEvents events) override {
    LONGSHELF_CHECK(request.copies.size() == request.objects.items.size());
    auto shared = std::make_shared<GetEvents>(std::move(events));
    kvstore::Client::GetEvents inner;
    inner.on_object = [this, shared, numbers = std::move(request.copies)](
                          size_t index, absl::StatusOr<kvstore::FetchedObject> object) {
      shared->on_object(index, Keep(numbers[index], std::move(object)));
    };
    inner.on_done = [shared](const absl::Status& status) { shared->on_done(status); };
    return store_.Get(std::move(request.objects), std::move(inner));
  }

  std::shared_ptr<PutCall> Put(absl::Duration timeout, kvstore::Client::PutEvents events) override {
    auto call = std::make_shared<HomePutCall>(copies_);
    call->Start(store_, timeout, std::move(events));
    return call;
  }

 private:
  absl::StatusOr<engine::EncodedStamp> Keep(uint64_t number, absl::StatusOr<kvstore::FetchedObject> object) {
    if (!object.ok()) return object.status();
    if (object->payload.size() < engine::kStampBytes) {
      return absl::FailedPreconditionError(
          absl::StrCat("an object of ", object->payload.size(), " bytes has no stamp"));
    }
    const engine::EncodedStamp stamp = engine::StampOf(object->payload);
    copies_.Add(number, std::make_shared<const std::vector<std::byte>>(std::move(object->payload)));
    return stamp;
  }

  kvstore::Client& store_;
  engine::KvCopies& copies_;
};

}  // namespace

std::unique_ptr<HomeStore> MakeHomeStore(kvstore::Client& store, engine::KvCopies& copies) {
  return std::make_unique<DirectHomeStore>(store, copies);
}

}  // namespace longshelf::worker
