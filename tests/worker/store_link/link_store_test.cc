// A link in front of a real KV store: where the bytes are, and where they are not.
#include <gmock/gmock.h>

#include <condition_variable>
#include <cstring>

#include "engine/kv_copies.h"
#include "fake_store.h"
#include "link_fixture.h"
#include "service_fixture.h"
#include "tcp_relay.h"

namespace longshelf::worker {
namespace {

using kvstore::MakeObject;
using kvstore::Object;
using kvstore::TcpRelay;

constexpr uint64_t kRoot = 1 << 20;

class LinkStoreTest : public kvstore::ServiceFixture {
 protected:
  ~LinkStoreTest() override { link_client_.reset(); }

  // The store that the shard reaches is at `address`.
  void StartLink(const std::string& address) {
    options_.key = RandomId();
    leader_ = *StoreLinkServer::Start(options_, clock_);
    const auto count = [this](size_t, std::span<char> bytes) {
      n_link_bytes_ += bytes.size();
      return TcpRelay::PassOn(0, bytes);
    };
    relay_ = std::make_unique<TcpRelay>(leader_->loopback_port(),
                                        TcpRelay::Hooks{.from_upstream = count, .from_client = count});
    shard_connection_ = kvstore::Connection({.address = address});
    home_ = MakeHomeStore(shard_connection_.client(), copies_);
    link_client_ = *StoreLinkClient::Start(
        {.address = absl::StrCat("127.0.0.1:", relay_->port()), .key = options_.key, .rank = 1}, *home_, clock_,
        [](const absl::Status& status) { ADD_FAILURE() << "lost: " << status; });
  }
  static HomeStore::GetRequest RequestOf(const std::vector<Object>& objects) {
    HomeStore::GetRequest request;
    request.objects.fingerprint = kvstore::FingerprintOf(1);
    request.objects.timeout = kTimeout;
    for (const Object& object : objects) {
      request.copies.push_back(500 + request.copies.size());
      request.objects.items.push_back(kvstore::WantOf(object));
    }
    return request;
  }
  std::pair<std::shared_ptr<GetRecord>, std::shared_ptr<kvstore::Client::GetCall>> Fetch(
      HomeStore::GetRequest request) {
    auto record = std::make_shared<GetRecord>();
    auto call = leader_->shard(1).Get(std::move(request), EventsOf(record));
    return {std::move(record), std::move(call)};
  }
  void ExpectCopy(uint64_t number, const Object& object) {
    const engine::KvCopies::Bytes copy = copies_.Find(number);
    ASSERT_NE(copy, nullptr) << number;
    ASSERT_EQ(copy->size(), object.payload.size());
    EXPECT_EQ(std::memcmp(copy->data(), object.payload.data(), copy->size()), 0) << number;
  }

  StoreLinkServerOptions options_;
  std::unique_ptr<StoreLinkServer> leader_;
  std::atomic<uint64_t> n_link_bytes_ = 0;
  std::unique_ptr<TcpRelay> relay_;
  kvstore::Connection shard_connection_;
  engine::KvCopies copies_;
  std::unique_ptr<HomeStore> home_;
  std::unique_ptr<StoreLinkClient> link_client_;
};

TEST_F(LinkStoreTest, ObjectsComeToTheShardAndOnlyTheirStampsToTheLeader) {
  Start(256 << 20);
  StartLink(address_);
  constexpr size_t kBytes = 2'000'003;
  std::vector<Object> objects;
  for (uint64_t id = 1; id <= 20; ++id) objects.push_back(MakeObject(id, kRoot, 256, kBytes));
  for (const Object& object : objects) ASSERT_TRUE(Put(object).ok());
  objects[4] = MakeObject(99, kRoot, 256, kBytes);  // is not there
  objects[7].payload.pop_back();                    // is of another size
  HomeStore::GetRequest request = RequestOf(objects);
  request.objects.window_bytes = 256 << 20;
  const auto [record, call] = Fetch(request);
  ASSERT_TRUE(record->WaitForEnd().ok());
  EXPECT_EQ(record->n_answers(), objects.size());
  EXPECT_EQ(record->code(4), absl::StatusCode::kNotFound);
  EXPECT_EQ(record->code(7), absl::StatusCode::kFailedPrecondition);
  for (size_t i = 0; i < objects.size(); ++i) {
    if (i == 4 || i == 7) continue;
    ASSERT_EQ(record->code(i), absl::StatusCode::kOk);
    EXPECT_EQ(record->answer(i), engine::StampOf(objects[i].payload));
    ExpectCopy(500 + i, objects[i]);
  }
  EXPECT_EQ(copies_.size(), objects.size() - 2);
  EXPECT_LT(n_link_bytes_, 60'000u) << "of " << copies_.n_bytes() << " bytes of KV";
}

TEST_F(LinkStoreTest, WhatIsNotReleasedIsNotFetched) {
  Start(64 << 20);
  StartLink(address_);
  constexpr size_t kBytes = 700'000;
  std::vector<Object> objects;
  for (uint64_t id = 1; id <= 10; ++id) objects.push_back(MakeObject(id, kRoot, 256, kBytes));
  for (const Object& object : objects) ASSERT_TRUE(Put(object).ok());
  HomeStore::GetRequest request = RequestOf(objects);
  request.objects.window_bytes = 4 * kBytes;
  request.objects.unreleased_bytes = kBytes;
  const auto [record, call] = Fetch(request);
  ASSERT_TRUE(record->WaitForAnswers(3));
  EXPECT_FALSE(record->WaitForAnswers(4, absl::Milliseconds(200)));
  EXPECT_EQ(copies_.n_bytes(), 3 * kBytes);
  for (size_t n = 4; n <= 10; ++n) {
    call->Release(kBytes);
    ASSERT_TRUE(record->WaitForAnswers(n));
    EXPECT_FALSE(n < 10 && record->WaitForAnswers(n + 1, absl::Milliseconds(20)));
  }
  call->Release(kBytes);
  EXPECT_TRUE(record->WaitForEnd().ok());
  for (size_t i = 0; i < objects.size(); ++i) ExpectCopy(500 + i, objects[i]);
}

TEST_F(LinkStoreTest, ACancelledGetAddsNothingAfterItsEnd) {
  Start(64 << 20);
  StartLink(address_);
  std::vector<Object> objects;
  for (uint64_t id = 1; id <= 30; ++id) objects.push_back(MakeObject(id, kRoot, 256, 400'000));
  for (const Object& object : objects) ASSERT_TRUE(Put(object).ok());
  HomeStore::GetRequest request = RequestOf(objects);
  request.objects.window_bytes = 64 << 20;
  const auto [record, call] = Fetch(request);
  ASSERT_TRUE(record->WaitForAnswers(2));
  call->Cancel();
  (void)record->WaitForEnd();
  const size_t n_copies = copies_.size();
  EXPECT_EQ(n_copies, record->n_ok(objects.size()));
  const auto [next, next_call] = Fetch(RequestOf({objects[0]}));
  EXPECT_TRUE(next->WaitForEnd().ok());
  EXPECT_EQ(copies_.size(), n_copies) << "its number was there before";
}

TEST_F(LinkStoreTest, CopiesOfTheShardAreInTheStoreAfterAPut) {
  Start(64 << 20);
  StartLink(address_);
  std::vector<Object> objects;
  for (uint64_t id = 1; id <= 40; ++id) objects.push_back(MakeObject(id, kRoot, 256, 100'000 + id));
  ASSERT_TRUE(Put(objects[5]).ok());
  for (size_t i = 0; i < objects.size(); ++i) {
    if (i != 9) copies_.Add(i, std::make_shared<const std::vector<std::byte>>(objects[i].payload));
  }
  const auto record = std::make_shared<PutRecord>();
  const auto call = leader_->shard(1).Put(kTimeout, kvstore::EventsOf(record));
  for (size_t i = 0; i < objects.size(); ++i) {
    HomeStore::PutItem item;
    item.head = objects[i].head;
    item.head.digest = {};
    item.head.payload_bytes = 0;
    item.copy = i;
    call->Offer(std::move(item));
  }
  call->Finish();
  EXPECT_TRUE(record->WaitForEnd().ok());
  EXPECT_EQ(record->code(9), absl::StatusCode::kInvalidArgument) << "there is no such copy";
  for (size_t i = 0; i < objects.size(); ++i) {
    if (i == 9) continue;
    ASSERT_EQ(record->code(i), absl::StatusCode::kOk);
    EXPECT_EQ(record->answer(i).existed, i == 5);
    EXPECT_EQ(record->answer(i).digest, objects[i].head.digest);
    const absl::StatusOr<std::vector<std::byte>> held = ServiceFixture::Get(objects[i]);
    ASSERT_TRUE(held.ok()) << held.status();
    ASSERT_EQ(held->size(), objects[i].payload.size());
    EXPECT_EQ(std::memcmp(held->data(), objects[i].payload.data(), held->size()), 0);
  }
  EXPECT_LT(n_link_bytes_, 40'000u);
}

TEST_F(LinkStoreTest, AStoreThatDoesNotAnswerIsGivenUpInTime) {
  std::mutex mutex;
  std::condition_variable changed;
  bool may_end = false;
  const auto block = [&] {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return may_end; });
    return grpc::Status::OK;
  };
  kvstore::FakeStore silent;
  silent.on_get = [&](grpc::ServerContext&, const auto&, auto&) { return block(); };
  silent.on_put = [&](grpc::ServerContext&, auto&) { return block(); };
  StartLink(silent.address());
  const absl::Time begin = clock_.Now();
  HomeStore::GetRequest request = RequestOf({MakeObject(1, kRoot, 256, 5000)});
  request.objects.timeout = absl::Milliseconds(300);
  const auto [record, call] = Fetch(request);
  const auto put = std::make_shared<PutRecord>();
  const auto put_call = leader_->shard(1).Put(absl::Milliseconds(300), kvstore::EventsOf(put));
  copies_.Add(101, std::make_shared<const std::vector<std::byte>>(5000));
  put_call->Offer(OfferOf(1));
  EXPECT_EQ(record->WaitForEnd().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(record->code(0), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(put->WaitForEnd().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(put->code(0), absl::StatusCode::kDeadlineExceeded);
  EXPECT_GE(clock_.Now() - begin, absl::Milliseconds(290));
  EXPECT_LT(clock_.Now() - begin, absl::Seconds(20));
  {
    std::lock_guard lock(mutex);
    may_end = true;
  }
  changed.notify_all();
  link_client_.reset();
  home_.reset();
  shard_connection_.Close();
}

}  // namespace
}  // namespace longshelf::worker
