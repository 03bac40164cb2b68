// Messages of the links between the leader of a shard group and its other shards, in any order, number and shape, as
// either side takes them. Whatever the other side says, every item of a call is answered once and nothing comes after
// its end; what reaches the shard's store is what a store may be asked for.
#include <google/protobuf/stubs/logging.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/clock.h"
#include "common/task_loop.h"
#include "forms_service.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "objects.h"
#include "remote_store_service.h"
#include "shard_calls_client.h"

namespace longshelf::worker {
namespace {

constexpr size_t kItems = 3;
constexpr size_t kOffers = 3;

// The message, or an empty one.
template <typename Message>
Message Parsed(std::string_view bytes) {
  Message message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) message.Clear();
  return message;
}

HomeStore::GetRequest Request() {
  HomeStore::GetRequest request;
  request.objects.fingerprint = kvstore::FingerprintOf(1);
  request.objects.timeout = absl::Seconds(5);
  for (uint64_t i = 1; i <= kItems; ++i) {
    request.objects.items.push_back({.key = kvstore::BlockKeyOf(i), .expected_bytes = i});
    request.copies.push_back(i);
  }
  return request;
}

HomeStore::PutItem Offered(uint64_t id) {
  HomeStore::PutItem item;
  item.head = kvstore::MakeObject(id, 0, 256, 1).head;
  item.copy = id;
  return item;
}

// What the callbacks of one call were told.
struct Told {
  std::set<size_t> answered;
  bool has_ended = false;

  void Answer(size_t index, bool in_order) {
    LONGSHELF_CHECK(!has_ended && answered.insert(index).second);
    LONGSHELF_CHECK(!in_order || index + 1 == answered.size());
  }
  void End() {
    LONGSHELF_CHECK(!has_ended);
    has_ended = true;
  }
};

struct NowhereStream final : OrderStream {
  void Write(v1::StoreOrders orders) override {
    LONGSHELF_CHECK(orders.orders_size() >= 1 && orders.orders_size() <= kBatchMax);
    n_written += orders.orders_size();
  }
  void End(const absl::Status&) override {}
  int n_written = 0;
};

// Two gets and two puts on the leader, and a shard that reports whatever it likes.
void Lead(fuzz::FuzzInput& input) {
  ManualClock clock;
  const auto loop = std::make_shared<TaskLoop>(clock);
  RemoteStore store(1, loop);
  Told told[4];
  std::vector<std::shared_ptr<kvstore::Client::GetCall>> gets;
  std::vector<std::shared_ptr<HomeStore::PutCall>> puts;
  for (size_t i = 0; i < 2; ++i) {
    gets.push_back(store.Get(Request(), {[&told, i](size_t index, const auto&) { told[i].Answer(index, true); },
                                         [&told, i](const absl::Status&) { told[i].End(); }}));
    puts.push_back(
        store.Put(absl::Seconds(9), {[&told, i](size_t index, const auto&) { told[2 + i].Answer(index, false); },
                                     [&told, i](const absl::Status&) { told[2 + i].End(); }}));
    for (uint64_t id = 1; id <= kOffers; ++id) puts[i]->Offer(Offered(id));
  }
  puts[0]->Finish();
  NowhereStream stream;
  loop->RunReady();
  LONGSHELF_CHECK(store.Attach(stream).ok());
  for (int n_read = 0; n_read < stream.n_written;) {
    n_read = stream.n_written;
    store.OnWritten();
  }
  LONGSHELF_CHECK(stream.n_written == 11);
  while (!input.empty()) {
    if (input.Byte() == 0) gets[1]->Cancel();
    const absl::Status status = store.OnReports(Parsed<v1::StoreReports>(input.Part()));
    loop->RunReady();
    if (status.ok()) continue;
    LONGSHELF_CHECK(absl::IsInvalidArgument(status));
    store.OnBroken(status);
    break;
  }
  store.Close();
  loop->RunReady();
  for (const Told& one : told) LONGSHELF_CHECK(one.has_ended && one.answered.size() == kItems);
  loop->Abandon();
}

void CheckRequest(const HomeStore::GetRequest& request) {
  LONGSHELF_CHECK(request.copies.size() == request.objects.items.size());
  LONGSHELF_CHECK(request.copies.size() <= kvstore::kMaxKeysPerCall);
  LONGSHELF_CHECK(request.objects.timeout >= absl::ZeroDuration() && request.objects.timeout <= kLongestTimeout);
  v1::StoreGet wire;
  GetToWire(request, &wire);
  const auto again = GetFromWire(wire);
  LONGSHELF_CHECK(again.ok() && again->copies == request.copies);
  for (size_t i = 0; i < request.copies.size(); ++i) {
    const kvstore::GetItem& item = request.objects.items[i];
    const kvstore::GetItem& same = again->objects.items[i];
    LONGSHELF_CHECK(item.key == same.key && item.extent == same.extent && item.expected_bytes == same.expected_bytes);
  }
}

void CheckOffered(const HomeStore::PutItem& item) {
  LONGSHELF_CHECK(CheckOffer(item, 0).ok() && kvstore::CheckHead(item.head).ok());
  v1::StoreOffer wire;
  OfferToWire(item, 5, &wire);
  const auto again = OfferFromWire(wire);
  LONGSHELF_CHECK(again.ok() && again->head.key == item.head.key && again->copy == item.copy);
  LONGSHELF_CHECK(again->ack == item.ack && again->n_replicas == item.n_replicas);
}

// Answers what it can at once: every second item well.
class ReadyStore final : public HomeStore {
 public:
  class GetCall final : public kvstore::Client::GetCall {
   public:
    explicit GetCall(GetEvents events) : events_(std::move(events)) {}
    void Release(uint64_t) override {}
    void Cancel() override { End(absl::CancelledError("cancelled")); }
    void End(const absl::Status& status) {
      if (!std::exchange(has_ended_, true)) events_.on_done(status);
    }

   private:
    const GetEvents events_;
    bool has_ended_ = false;
  };
  class PutCall final : public HomeStore::PutCall {
   public:
    explicit PutCall(kvstore::Client::PutEvents events) : events_(std::move(events)) {}
    void Offer(PutItem item) override {
      CheckOffered(item);
      if (has_ended_ || is_finished_) return;
      const size_t index = n_offered_++;
      if (index % 2 == 0) {
        events_.on_outcome(index, kvstore::PutOutcome{});
      } else {
        events_.on_outcome(index, absl::UnavailableError("no\xff memory"));
      }
    }
    void Finish() override {
      is_finished_ = true;
      End(absl::OkStatus());
    }
    void Cancel() override { End(absl::CancelledError("cancelled")); }

   private:
    void End(const absl::Status& status) {
      if (!std::exchange(has_ended_, true)) events_.on_done(status);
    }
    const kvstore::Client::PutEvents events_;
    size_t n_offered_ = 0;
    bool is_finished_ = false;
    bool has_ended_ = false;
  };

  std::shared_ptr<kvstore::Client::GetCall> Get(GetRequest request, GetEvents events) override {
    CheckRequest(request);
    for (size_t i = 0; i < request.copies.size(); ++i) {
      if (i % 2 == 0) {
        events.on_object(i, engine::EncodedStamp{});
      } else {
        events.on_object(i, absl::NotFoundError("absent"));
      }
    }
    const auto call = std::make_shared<GetCall>(std::move(events));
    if (request.objects.window_bytes != 0) call->End(absl::OkStatus());
    return call;
  }
  std::shared_ptr<HomeStore::PutCall> Put(absl::Duration timeout, kvstore::Client::PutEvents events) override {
    LONGSHELF_CHECK(timeout >= absl::ZeroDuration() && timeout <= kLongestTimeout);
    return std::make_shared<PutCall>(std::move(events));
  }
};

// A shard, and a leader that orders whatever it likes.
void Follow(fuzz::FuzzInput& input) {
  ManualClock clock;
  const auto loop = std::make_shared<TaskLoop>(clock);
  ReadyStore store;
  std::set<uint64_t> ended;
  ShardCalls calls(store, loop, [&ended](const v1::StoreReport& report) {
    LONGSHELF_CHECK(!ended.contains(report.call()));
    LONGSHELF_CHECK(report.report_case() != v1::StoreReport::REPORT_NOT_SET);
    if (report.has_done()) ended.insert(report.call());
    v1::StoreReport again;  // which it does not if a text is none
    LONGSHELF_CHECK(again.ParseFromString(report.SerializeAsString()));
  });
  while (!input.empty()) {
    const absl::Status status = calls.Execute(Parsed<v1::StoreOrders>(input.Part()));
    loop->RunReady();
    if (status.ok()) continue;
    LONGSHELF_CHECK(absl::IsInvalidArgument(status));
    break;
  }
  calls.CancelAll();
  loop->RunReady();
  LONGSHELF_CHECK(calls.empty());
  loop->Abandon();
}

template <typename Message>
void Append(const Message& message, std::string& input) {
  fuzz::AppendPart(message.SerializeAsString(), input);
}

std::vector<v1::StoreReport> SomeReports() {
  std::vector<v1::StoreReport> reports;
  for (size_t i = 0; i < kItems; ++i) {
    v1::StoreReport& object = reports.emplace_back();
    object.set_call(1);
    ObjectToWire(i, i == 1 ? ObjectResult(absl::NotFoundError("absent")) : engine::EncodedStamp{},
                 object.mutable_object());
    v1::StoreReport& outcome = reports.emplace_back();
    outcome.set_call(2);
    OutcomeToWire(kItems - 1 - i, i == 1 ? OutcomeResult(absl::DataLossError("bad")) : kvstore::PutOutcome{},
                  outcome.mutable_outcome());
  }
  for (const uint64_t call : {1, 2}) {
    v1::StoreReport& done = reports.emplace_back();
    done.set_call(call);
    DoneToWire(absl::OkStatus(), done.mutable_done());
  }
  v1::StoreReport& failed = reports.emplace_back();
  failed.set_call(3);
  DoneToWire(absl::UnavailableError("gone"), failed.mutable_done());
  return reports;
}

std::vector<v1::StoreOrder> SomeOrders() {
  std::vector<v1::StoreOrder> orders(8);
  for (size_t i = 0; i < orders.size(); ++i) orders[i].set_call(i == 0 || i == 6 ? 1 : i == 7 ? 3 : 2);
  GetToWire(Request(), orders[0].mutable_get());
  orders[0].mutable_get()->set_window_bytes(0);  // see ReadyStore
  orders[1].mutable_put()->set_timeout_us(1000);
  for (const size_t i : {2, 3}) OfferToWire(Offered(i), i, orders[i].mutable_offer());
  orders[4].mutable_finish();
  orders[5].mutable_cancel();
  orders[6].mutable_release()->set_bytes(7);
  GetToWire(Request(), orders[7].mutable_get());
  return orders;
}

}  // namespace
}  // namespace longshelf::worker

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  google::protobuf::SetLogHandler(nullptr);  // it reports what it refuses
  using namespace worker;                    // all of the input is of the link
  Seeds seeds;
  std::string apart(1, '\0');
  v1::StoreReports reports;
  for (const v1::StoreReport& report : SomeReports()) {
    *reports.add_reports() = report;
    v1::StoreReports one;
    *one.add_reports() = report;
    apart.push_back('\1');
    Append(one, apart);
    Append(one, seeds.words.emplace_back());
  }
  seeds.inputs.push_back(apart);
  seeds.inputs.emplace_back("\0\0", 2);
  Append(reports, seeds.inputs.back());
  std::string orders_apart("\1");
  v1::StoreOrders orders;
  for (const v1::StoreOrder& order : SomeOrders()) {
    *orders.add_orders() = order;
    v1::StoreOrders one;
    *one.add_orders() = order;
    Append(one, orders_apart);
    Append(one, seeds.words.emplace_back());
  }
  seeds.inputs.push_back(orders_apart);
  seeds.inputs.emplace_back("\1");
  Append(orders, seeds.inputs.back());
  return seeds;
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  longshelf::fuzz::FuzzInput input(data, size);
  if (input.Byte() % 2 == 0) {
    longshelf::worker::Lead(input);
  } else {
    longshelf::worker::Follow(input);
  }
  return 0;
}
