// What stores do that ours does not: answers out of turn, to nobody, without end, or never.
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <mutex>
#include <thread>

#include "call_record.h"
#include "connection.h"
#include "fake_store.h"
#include "objects.h"
#include "wire_heads.h"

namespace longshelf::kvstore {
namespace {

constexpr uint64_t kRoot = 1 << 20;
constexpr absl::Duration kTimeout = absl::Seconds(30);

v1::GetFrame HeadFrame(uint32_t index, const ObjectHead& head) {
  v1::GetFrame frame;
  frame.set_index(index);
  FillHead(head, frame.mutable_head());
  return frame;
}

v1::GetFrame DataFrame(uint32_t index, uint64_t offset, std::string payload, bool last) {
  v1::GetFrame frame;
  frame.set_index(index);
  frame.mutable_data()->set_offset(offset);
  frame.mutable_data()->set_payload(std::move(payload));
  frame.mutable_data()->set_last(last);
  return frame;
}

v1::GetFrame Both(const v1::GetFrame& a, const v1::GetFrame& b) {
  v1::GetFrame frame = a;
  frame.MergeFrom(b);
  return frame;
}

v1::GetFrame ErrorFrame(uint32_t index) {
  v1::GetFrame frame;
  frame.set_index(index);
  frame.mutable_error()->set_code(static_cast<uint32_t>(absl::StatusCode::kNotFound));
  return frame;
}

// The same object under every key: what a test counts is bytes.
TEST(HostileStore, AGetThatReleasesNothingLetsTheStoreSendOneWindowAndLittleMore) {
  constexpr size_t kBytes = kMaxFrameBytes;
  constexpr uint32_t kObjects = 64;
  constexpr uint64_t kWindow = 4 * kBytes;
  const Object object = MakeObject(1, kRoot, 256, kBytes);
  std::atomic<uint64_t> n_sent = 0;
  std::promise<void> beyond;
  // What HTTP/2 lets a sender have under way beside what the client has read.
  constexpr uint64_t kLookahead = 2 << 20;
  constexpr uint64_t kSentMax = kWindow + kMaxFrameBytes + kLookahead;
  FakeStore store;
  store.on_get = [&](grpc::ServerContext&, const v1::GetRequest& request, FakeStore::GetWriter& writer) {
    for (uint32_t i = 0; i < static_cast<uint32_t>(request.keys_size()); ++i) {
      ObjectHead head = object.head;
      head.key.hash = Hash(i);
      if (!writer.Write(HeadFrame(i, head)) || !writer.Write(DataFrame(i, 0, Bytes(object.payload), true))) break;
      const uint64_t before = n_sent.fetch_add(kBytes);
      if (before <= kSentMax && before + kBytes > kSentMax) beyond.set_value();
    }
    return grpc::Status::OK;
  };
  Connection connection({.address = store.address()});
  Client::GetRequest request = {
      .fingerprint = FingerprintOf(1), .items = {}, .timeout = kTimeout, .window_bytes = kWindow};
  for (uint32_t i = 0; i < kObjects; ++i) request.items.push_back({{Hash(i), ObjectKind::kBlock}, kBytes});
  const auto record = std::make_shared<GetRecord>();
  const auto call = connection.client().Get(request, EventsOf(record));
  ASSERT_TRUE(record->WaitForAnswers(4));
  EXPECT_EQ(beyond.get_future().wait_for(std::chrono::milliseconds(300)), std::future_status::timeout) << n_sent;
  EXPECT_EQ(record->n_answers(), 4u);
  for (size_t n = 4; n < kObjects; ++n) {
    call->Release(kBytes);
    ASSERT_TRUE(record->WaitForAnswers(n + 1));
  }
  EXPECT_TRUE(record->WaitForEnd().ok());
  EXPECT_EQ(n_sent, kObjects * kBytes);
}

TEST(HostileStore, AStoreThatNeverAnswersCostsTheTimeoutAndCannotKeepAClientFromGoing) {
  std::promise<void> released;
  const std::shared_future<void> release = released.get_future().share();
  std::atomic<int> n_waiting = 0;
  const auto wait = [&] {
    ++n_waiting;
    release.wait();
    return grpc::Status::OK;
  };
  FakeStore store;
  store.on_get = [&](auto&&...) { return wait(); };
  store.on_put = [&](auto&&...) { return wait(); };
  store.on_lookup = [&](auto&&...) { return wait(); };
  Connection connection({.address = store.address()});
  Client& client = connection.client();

  const auto late = std::make_shared<GetRecord>();
  client.Get({.fingerprint = {}, .items = std::vector<GetItem>(3), .timeout = absl::Milliseconds(100)}, EventsOf(late));
  EXPECT_EQ(late->WaitForEnd().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(late->Count(3, absl::StatusCode::kDeadlineExceeded), 3u);
  const auto late_put = std::make_shared<PutRecord>();
  client.Put(absl::Milliseconds(100), EventsOf(late_put))->Offer(ItemOf(MakeObject(1, kRoot, 256, 1000)));
  EXPECT_EQ(late_put->WaitForEnd().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(late_put->code(0), absl::StatusCode::kDeadlineExceeded);

  n_waiting = 0;
  const auto get = std::make_shared<GetRecord>();
  const auto put = std::make_shared<PutRecord>();
  const auto lookup = std::make_shared<CallRecord<LookupResult>>();
  client.Get({.fingerprint = {}, .items = std::vector<GetItem>(3), .timeout = kTimeout}, EventsOf(get));
  const auto call = client.Put(kTimeout, EventsOf(put));
  for (uint64_t id = 0; id < 3; ++id) call->Offer(ItemOf(MakeObject(id, kRoot, 256, 1000)));
  client.Lookup({}, kTimeout, [lookup](absl::StatusOr<LookupResult> result) { lookup->Answer(0, std::move(result)); });
  while (n_waiting < 3) std::this_thread::yield();
  connection.Close();
  EXPECT_EQ(get->Count(3, absl::StatusCode::kCancelled), 3u);
  EXPECT_EQ(put->Count(3, absl::StatusCode::kCancelled), 3u);
  EXPECT_EQ(lookup->code(0), absl::StatusCode::kCancelled);
  EXPECT_TRUE(get->ended());
  EXPECT_TRUE(put->ended());
  released.set_value();
}

TEST(HostileStore, FramesOutOfTurnEndTheGetAndEveryObjectIsAnswered) {
  const Object a = MakeObject(1, kRoot, 256, 1000);
  const Object b = MakeObject(2, kRoot, 256, 1000);
  struct Case {
    const char* name;
    std::vector<v1::GetFrame> frames;
    absl::StatusCode first;
    absl::StatusCode second;
    absl::StatusCode call;
  };
  constexpr auto kOk = absl::StatusCode::kOk;
  constexpr auto kInternal = absl::StatusCode::kInternal;
  constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
  const v1::GetFrame head_a = HeadFrame(0, a.head);
  const v1::GetFrame data_a = DataFrame(0, 0, Bytes(a.payload), true);
  const v1::GetFrame error_a = ErrorFrame(0);
  const v1::GetFrame error_b = ErrorFrame(1);
  constexpr auto kNotFound = absl::StatusCode::kNotFound;
  const std::string half(500, 'x');
  const std::vector<Case> cases = {
      {"nothing at all", {}, kInternal, kInternal, kInternal},
      {"one of two", {head_a, data_a}, kOk, kInternal, kInternal},
      {"the second first", {error_b, error_a}, kInternal, kInternal, kInternal},
      {"an object that was not asked for", {error_a, error_b, ErrorFrame(2)}, kNotFound, kNotFound, kInternal},
      {"an empty frame", {v1::GetFrame()}, kInternal, kInternal, kInternal},
      {"data without a head", {data_a}, kInternal, kInternal, kInternal},
      {"two heads", {head_a, head_a}, kInternal, kInternal, kInternal},
      {"head and data in one frame", {Both(head_a, data_a), error_b}, kOk, kNotFound, kOk},
      {"a head again with later data",
       {Both(head_a, DataFrame(0, 0, half, false)), Both(head_a, DataFrame(0, 500, half, true))},
       kInternal,
       kInternal,
       kInternal},
      {"the head of another", {HeadFrame(0, b.head), data_a, error_b}, kDataLoss, kNotFound, kOk},
      {"bytes too early", {head_a, DataFrame(0, 1, half, true), error_b}, kDataLoss, kNotFound, kOk},
      {"too few bytes", {head_a, DataFrame(0, 0, half, true), error_b}, kDataLoss, kNotFound, kOk},
      {"too many bytes", {head_a, DataFrame(0, 0, std::string(1001, 'x'), true), error_b}, kDataLoss, kNotFound, kOk},
      {"other bytes", {head_a, DataFrame(0, 0, Bytes(b.payload), true), error_b}, kDataLoss, kNotFound, kOk},
      {"a frame above the limit",
       {head_a, DataFrame(0, 0, std::string(kMaxFrameBytes + 1, 'x'), false)},
       kInternal,
       kInternal,
       kInternal},
  };
  for (const Case& test : cases) {
    FakeStore store;
    store.on_get = [&](grpc::ServerContext&, const v1::GetRequest&, FakeStore::GetWriter& writer) {
      for (const v1::GetFrame& frame : test.frames) writer.Write(frame);
      return grpc::Status::OK;
    };
    Connection connection({.address = store.address()});
    const auto record = std::make_shared<GetRecord>();
    connection.client().Get({.fingerprint = FingerprintOf(1), .items = {WantOf(a), WantOf(b)}, .timeout = kTimeout},
                            EventsOf(record));
    EXPECT_EQ(record->WaitForEnd().code(), test.call) << test.name;
    EXPECT_EQ(record->code(0), test.first) << test.name;
    EXPECT_EQ(record->code(1), test.second) << test.name;
    EXPECT_EQ(record->n_answers(), 2u) << test.name;
  }
}

v1::PutReplies Only(const v1::PutReply& reply) {
  v1::PutReplies replies;
  *replies.add_replies() = reply;
  return replies;
}

v1::PutReply Credit(uint32_t id) {
  v1::PutReply reply;
  reply.set_object_id(id);
  reply.mutable_credit()->set_bytes(1);
  return reply;
}

v1::PutReply Committed(uint32_t id) {
  v1::PutReply reply;
  reply.set_object_id(id);
  reply.mutable_committed();
  return reply;
}

v1::PutReply Exists(uint32_t id, size_t n_digest_bytes) {
  v1::PutReply reply;
  reply.set_object_id(id);
  reply.mutable_exists()->set_xxh3_128(std::string(n_digest_bytes, 'd'));
  return reply;
}

v1::PutReply Busy(uint32_t id) {
  v1::PutReply reply;
  reply.set_object_id(id);
  reply.mutable_busy();
  return reply;
}

TEST(HostileStore, RepliesOutOfTurnEndThePutAndEveryOfferIsAnswered) {
  v1::PutReply nothing;
  const std::vector<std::pair<const char*, std::vector<v1::PutReply>>> cases = {
      {"no reply at all in a reply", {nothing}},   {"credit for an object never opened", {Credit(7)}},
      {"credit twice", {Credit(0), Credit(0)}},    {"committed before it was sent", {Committed(0)}},
      {"busy after credit", {Credit(0), Busy(0)}}, {"an answer after the answer", {Busy(0), Busy(0)}},
      {"a digest of 15 bytes", {Exists(0, 15)}},
  };
  for (const auto& [name, replies] : cases) {
    std::promise<void> offered;
    FakeStore store;
    store.on_put = [&, &replies = replies](grpc::ServerContext&, FakeStore::PutCall& call) {
      v1::PutFrame frame;
      if (!call.Read(&frame)) return grpc::Status::OK;
      offered.get_future().wait();
      for (const v1::PutReply& reply : replies) call.Write(Only(reply));
      while (call.Read(&frame)) {
      }
      return grpc::Status::OK;
    };
    Connection connection({.address = store.address()});
    const auto record = std::make_shared<PutRecord>();
    const auto call = connection.client().Put(kTimeout, EventsOf(record));
    // Large: still being sent when the second reply comes.
    for (uint64_t id = 0; id < 2; ++id) call->Offer(ItemOf(MakeObject(id, kRoot, 256, 32 << 20)));
    offered.set_value();
    EXPECT_EQ(record->WaitForEnd().code(), absl::StatusCode::kInternal) << name;
    EXPECT_EQ(record->n_answers(), 2u) << name;
    EXPECT_EQ(record->n_ok(2), 0u) << name;
  }
}

TEST(HostileStore, APutOpensAFewObjectsAtATimeAndQueuesTheRest) {
  constexpr size_t kOffers = 40;
  constexpr uint32_t kWindow = 12;
  std::atomic<uint32_t> n_opened = 0;
  std::promise<void> beyond;
  std::promise<void> released;
  FakeStore store;
  store.on_put = [&](grpc::ServerContext&, FakeStore::PutCall& call) {
    std::mutex one_write;
    const auto refuse = [&](uint32_t id) {
      std::lock_guard lock(one_write);
      call.Write(Only(Busy(id)));
    };
    std::thread reader([&] {
      v1::PutFrame frame;
      while (call.Read(&frame)) {
        EXPECT_FALSE(frame.has_data()) << "nothing has credit";
        for (const v1::PutOpen& open : frame.opens()) {
          const uint32_t n = ++n_opened;
          if (n == kWindow + 1) beyond.set_value();
          if (n > kWindow) refuse(open.object_id());
        }
      }
    });
    released.get_future().wait();
    for (uint32_t id = 0; id < kWindow; ++id) refuse(id);
    reader.join();
    return grpc::Status::OK;
  };
  Connection connection({.address = store.address()});
  const auto record = std::make_shared<PutRecord>();
  const auto call = connection.client().Put(kTimeout, EventsOf(record));
  const auto payload = std::make_shared<const std::vector<std::byte>>(RandomBytes(1, 1000));
  for (uint64_t id = 0; id < kOffers; ++id) call->Offer({MakeObject(id, kRoot, 256, 1).head, payload});
  call->Finish();
  EXPECT_EQ(beyond.get_future().wait_for(std::chrono::milliseconds(200)), std::future_status::timeout);
  EXPECT_EQ(n_opened, kWindow);
  released.set_value();
  EXPECT_TRUE(record->WaitForEnd().ok());
  EXPECT_EQ(record->Count(kOffers, absl::StatusCode::kUnavailable), kOffers);
  EXPECT_EQ(n_opened, kOffers);
}

TEST(HostileStore, APutThatTheStoreEndsEarlyFailsWhatHadNoAnswer) {
  std::promise<void> offered;
  FakeStore store;
  store.on_put = [&](grpc::ServerContext&, FakeStore::PutCall& call) {
    v1::PutFrame frame;
    call.Read(&frame);
    offered.get_future().wait();
    call.Write(Only(Busy(0)));
    return grpc::Status::OK;
  };
  Connection connection({.address = store.address()});
  const auto record = std::make_shared<PutRecord>();
  const auto call = connection.client().Put(kTimeout, EventsOf(record));
  for (uint64_t id = 0; id < 3; ++id) call->Offer(ItemOf(MakeObject(id, kRoot, 256, 1000)));
  offered.set_value();
  EXPECT_EQ(record->WaitForEnd().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(record->Count(3, absl::StatusCode::kUnavailable), 3u);
  EXPECT_EQ(record->n_answers(), 3u);
}

}  // namespace
}  // namespace longshelf::kvstore
