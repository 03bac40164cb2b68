#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "call_record.h"
#include "common/clock.h"
#include "common/ids.h"
#include "fake_home_store.h"
#include "objects.h"
#include "worker/store_link/client.h"
#include "worker/store_link/server.h"

namespace longshelf::worker {

using kvstore::PutRecord;
using GetRecord = kvstore::CallRecord<engine::EncodedStamp>;

inline HomeStore::GetEvents EventsOf(const std::shared_ptr<GetRecord>& record) {
  return {
      .on_object = [record](size_t index,
                            absl::StatusOr<engine::EncodedStamp> stamp) { record->Answer(index, std::move(stamp)); },
      .on_done = [record](const absl::Status& status) { record->End(status); }};
}

// A stamp made of a number.
inline engine::EncodedStamp StampOf(uint64_t id) {
  engine::EncodedStamp stamp{};
  const std::vector<std::byte> bytes = kvstore::RandomBytes(id, stamp.size());
  std::copy(bytes.begin(), bytes.end(), stamp.begin());
  return stamp;
}

inline HomeStore::GetRequest RequestFor(size_t n_items, absl::Duration timeout = absl::Seconds(60)) {
  HomeStore::GetRequest request;
  request.objects.fingerprint = kvstore::FingerprintOf(1);
  request.objects.timeout = timeout;
  for (size_t i = 0; i < n_items; ++i) {
    request.objects.items.push_back(
        {.key = kvstore::BlockKeyOf(i + 1), .expected_bytes = 1000 + i, .extent = kvstore::Hash(7)});
    request.copies.push_back(100 + i);
  }
  return request;
}

inline HomeStore::PutItem OfferOf(uint64_t id) {
  HomeStore::PutItem item;
  item.head = kvstore::MakeObject(id, 1 << 20, 256, 1).head;
  item.head.payload_bytes = 0;
  item.copy = 100 + id;
  return item;
}

inline bool Eventually(const std::function<bool()>& holds) {
  const SystemClock clock;
  const absl::Time deadline = clock.Now() + absl::Seconds(20);
  while (!holds()) {
    if (clock.Now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

// A leader, and shards that attach when a test lets them.
class LinkFixture : public ::testing::Test {
 protected:
  // A shard's end: its store, and what it was told of the link's end.
  struct Shard {
    FakeHomeStore store;
    std::mutex mutex;  // guards `lost`: the link's thread tells
    std::vector<absl::Status> lost;
    std::unique_ptr<StoreLinkClient> client;  // goes first

    size_t n_lost() {
      std::lock_guard lock(mutex);
      return lost.size();
    }
    // Waits for it. EXPECTs that it comes, and once.
    absl::Status WaitForLoss() {
      EXPECT_TRUE(Eventually([this] { return n_lost() > 0; })) << "nobody was told";
      std::lock_guard lock(mutex);
      EXPECT_EQ(lost.size(), 1u);
      return lost.empty() ? absl::OkStatus() : lost[0];
    }
  };

  void StartLeader(int n_shards = 2) {
    options_.n_shards = n_shards;
    options_.key = key_;
    options_.generation = 4;
    auto server = StoreLinkServer::Start(options_, clock_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  StoreLinkClientOptions ClientOptions(int rank) const {
    return {
        .address = absl::StrCat("127.0.0.1:", server_->loopback_port()), .key = key_, .rank = rank, .generation = 4};
  }
  std::unique_ptr<Shard> Attach(const StoreLinkClientOptions& options) {
    auto shard = std::make_unique<Shard>();
    auto client = StoreLinkClient::Start(options, shard->store, clock_, [to = shard.get()](const absl::Status& status) {
      std::lock_guard lock(to->mutex);
      to->lost.push_back(status);
    });
    EXPECT_TRUE(client.ok()) << client.status();
    if (client.ok()) shard->client = *std::move(client);
    return shard;
  }
  std::unique_ptr<Shard> Attach(int rank = 1) { return Attach(ClientOptions(rank)); }

  // On the leader, of a shard.
  std::pair<std::shared_ptr<GetRecord>, std::shared_ptr<kvstore::Client::GetCall>> Get(HomeStore::GetRequest request,
                                                                                       int rank = 1) {
    auto record = std::make_shared<GetRecord>();
    auto call = server_->shard(rank).Get(std::move(request), EventsOf(record));
    return {std::move(record), std::move(call)};
  }
  std::pair<std::shared_ptr<PutRecord>, std::shared_ptr<HomeStore::PutCall>> Put(
      absl::Duration timeout = absl::Seconds(60), int rank = 1) {
    auto record = std::make_shared<PutRecord>();
    auto call = server_->shard(rank).Put(timeout, kvstore::EventsOf(record));
    return {std::move(record), std::move(call)};
  }

  const SystemClock clock_;
  const std::string key_ = RandomId();
  StoreLinkServerOptions options_;
  std::unique_ptr<StoreLinkServer> server_;
};

}  // namespace longshelf::worker
