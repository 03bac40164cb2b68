// The leader's calls on the store of another shard, whose answers the test gives.
#include <gmock/gmock.h>

#include <numeric>
#include <random>

#include "link_fixture.h"

namespace longshelf::worker {
namespace {

using ::testing::HasSubstr;

TEST_F(LinkFixture, AGetReachesTheShardAsItWasAskedFor) {
  StartLeader();
  const auto shard = Attach();
  HomeStore::GetRequest request = RequestFor(3, absl::Seconds(50));
  request.objects.items[1].key.kind = kvstore::ObjectKind::kCheckpoint;
  request.objects.window_bytes = 12345;
  request.objects.unreleased_bytes = 678;
  request.copies = {UINT64_MAX, 0, 5};
  const auto [record, call] = Get(request);
  const auto there = shard->store.get(0);
  const kvstore::Client::GetRequest& objects = there->request.objects;
  EXPECT_EQ(there->request.copies, request.copies);
  EXPECT_EQ(objects.fingerprint, request.objects.fingerprint);
  EXPECT_EQ(objects.window_bytes, 12345u);
  EXPECT_EQ(objects.unreleased_bytes, 678u);
  EXPECT_LE(objects.timeout, absl::Seconds(50));
  EXPECT_GT(objects.timeout, absl::Seconds(20));
  ASSERT_EQ(objects.items.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(objects.items[i].key, request.objects.items[i].key);
    EXPECT_EQ(objects.items[i].expected_bytes, request.objects.items[i].expected_bytes);
    EXPECT_EQ(objects.items[i].extent, request.objects.items[i].extent);
  }
  there->End(absl::OkStatus());
}

TEST_F(LinkFixture, ObjectsAndTheirErrorsComeInOrderAndThenTheEnd) {
  StartLeader();
  const auto shard = Attach();
  constexpr size_t kItems = 1000;
  const auto [record, call] = Get(RequestFor(kItems));
  const auto there = shard->store.get(0);
  for (size_t i = 0; i < kItems; ++i) {
    if (i % 3 == 0) {
      there->Answer(absl::NotFoundError(absl::StrCat("object ", i, "\n\xff", std::string(5000, 'x'))));
    } else {
      there->Answer(StampOf(i));
    }
  }
  there->End(absl::OkStatus());
  EXPECT_TRUE(record->WaitForEnd().ok());
  EXPECT_EQ(record->n_answers(), kItems);
  for (size_t i = 0; i < kItems; ++i) {
    if (i % 3 == 0) {
      EXPECT_EQ(record->code(i), absl::StatusCode::kNotFound);
    } else {
      ASSERT_EQ(record->code(i), absl::StatusCode::kOk) << i;
      EXPECT_EQ(record->answer(i), StampOf(i)) << i;
    }
  }
}

TEST_F(LinkFixture, WhatOneObjectCameToIsToldInWords) {
  StartLeader();
  const auto shard = Attach();
  absl::Status told;
  std::atomic<bool> has_ended = false;
  const auto call = server_->shard(1).Get(RequestFor(1), {[&](size_t, const auto& stamp) { told = stamp.status(); },
                                                          [&](const absl::Status&) { has_ended = true; }});
  shard->store.get(0)->End(absl::DataLossError("object 7 arrived damaged"));
  ASSERT_TRUE(Eventually([&] { return has_ended.load(); }));
  EXPECT_EQ(told, absl::DataLossError("object 7 arrived damaged"));
}

TEST_F(LinkFixture, ReleasesReachTheShardWhateverGoesTogether) {
  StartLeader();
  const auto shard = Attach();
  const auto [record, call] = Get(RequestFor(1));
  const auto there = shard->store.get(0);
  uint64_t n_released = 0;
  for (uint64_t n = 1; n <= 2000; ++n) {
    call->Release(n);
    n_released += n;
  }
  EXPECT_TRUE(Eventually([&] { return there->n_released == n_released; })) << there->n_released;
  there->End(absl::OkStatus());
  EXPECT_TRUE(record->WaitForEnd().ok());
  call->Release(1);
  call->Cancel();
  EXPECT_EQ(there->n_released, n_released);
}

TEST_F(LinkFixture, ACancelledGetEndsWhenTheShardSaysSo) {
  StartLeader();
  const auto shard = Attach();
  shard->store.cancelled_calls_end = false;
  const auto [record, call] = Get(RequestFor(3));
  const auto there = shard->store.get(0);
  there->Answer(StampOf(0));
  ASSERT_TRUE(record->WaitForAnswers(1));
  call->Cancel();
  call->Cancel();
  ASSERT_TRUE(Eventually([&] { return there->is_cancelled.load(); }));
  // It may still add to its copies, and says so.
  there->Answer(StampOf(1));
  ASSERT_TRUE(record->WaitForAnswers(2));
  EXPECT_FALSE(record->ended());
  there->End(absl::CancelledError("cancelled"));
  EXPECT_EQ(record->WaitForEnd().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(record->code(1), absl::StatusCode::kOk);
  EXPECT_EQ(record->code(2), absl::StatusCode::kCancelled);
}

TEST_F(LinkFixture, OffersReachTheShardAsTheyAreAndOutcomesComeInAnyOrder) {
  StartLeader();
  const auto shard = Attach();
  constexpr size_t kOffers = 3000;
  const auto [record, call] = Put(absl::Seconds(50));
  for (size_t i = 0; i < kOffers; ++i) {
    HomeStore::PutItem item = OfferOf(i + 1);
    item.ack = static_cast<kvstore::Ack>(i % 4);
    item.n_replicas = 1 + static_cast<uint32_t>(i % kvstore::kMaxReplicas);
    if (i % 2 == 0) {
      item.head.object_class = kvstore::ObjectClass::kParked;
      item.head.retain_until = absl::FromUnixMillis(1'700'000'000'123);
    }
    call->Offer(item);
  }
  call->Finish();
  call->Offer(OfferOf(1));  // too late to be one
  const auto there = shard->store.put(0);
  EXPECT_LE(there->timeout, absl::Seconds(50));
  ASSERT_TRUE(Eventually([&] { return there->is_finished.load(); }));
  const std::vector<HomeStore::PutItem> items = there->items();
  ASSERT_EQ(items.size(), kOffers);
  for (size_t i = 0; i < kOffers; ++i) {
    EXPECT_EQ(items[i].head.key, kvstore::BlockKeyOf(i + 1));
    EXPECT_EQ(items[i].head.parent, kvstore::Hash(1 << 20));
    EXPECT_EQ(items[i].head.namespace_id, "ns");
    EXPECT_EQ(items[i].copy, 101 + i);
    EXPECT_EQ(items[i].ack, static_cast<kvstore::Ack>(i % 4));
    EXPECT_EQ(items[i].n_replicas, 1 + i % kvstore::kMaxReplicas);
    EXPECT_EQ(items[i].head.retain_until, i % 2 == 0 ? absl::FromUnixMillis(1'700'000'000'123) : absl::UnixEpoch());
  }
  std::vector<size_t> order(kOffers);
  std::iota(order.begin(), order.end(), size_t{0});
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  for (const size_t i : order) {
    if (i % 5 == 0) {
      there->Answer(i, absl::ResourceExhaustedError("full"));
    } else {
      there->Answer(i, kvstore::PutOutcome{.existed = i % 2 == 0,
                                           .digest = {static_cast<uint8_t>(i), static_cast<uint8_t>(i >> 8)},
                                           .conflicts = i % 3 == 0});
    }
  }
  there->End(absl::OkStatus());
  EXPECT_TRUE(record->WaitForEnd().ok());
  EXPECT_EQ(record->n_answers(), kOffers);
  for (size_t i = 0; i < kOffers; ++i) {
    if (i % 5 == 0) {
      EXPECT_EQ(record->code(i), absl::StatusCode::kResourceExhausted);
      continue;
    }
    ASSERT_EQ(record->code(i), absl::StatusCode::kOk);
    const kvstore::PutOutcome outcome = record->answer(i);
    EXPECT_EQ(outcome.existed, i % 2 == 0);
    EXPECT_EQ(outcome.conflicts, i % 3 == 0);
    EXPECT_EQ(outcome.digest, (kvstore::Digest{static_cast<uint8_t>(i), static_cast<uint8_t>(i >> 8)}));
  }
}

TEST_F(LinkFixture, AnOfferThatIsNoneIsRefusedAloneAndTheOthersKeepTheirNumbers) {
  StartLeader();
  const auto shard = Attach();
  const auto [record, call] = Put();
  std::vector<HomeStore::PutItem> offers(6, OfferOf(1));
  offers[1].head.namespace_id.clear();
  offers[2].n_replicas = 0;
  offers[3].head.object_class = kvstore::ObjectClass::kParked;  // until nothing
  for (const HomeStore::PutItem& offer : offers) call->Offer(offer);
  call->Finish();
  const auto there = shard->store.put(0);
  ASSERT_TRUE(Eventually([&] { return there->is_finished.load(); }));
  ASSERT_EQ(there->items().size(), 3u);
  for (size_t i = 0; i < 3; ++i) there->Answer(i, kvstore::PutOutcome{});
  there->End(absl::OkStatus());
  EXPECT_TRUE(record->WaitForEnd().ok());
  EXPECT_EQ(record->n_ok(6), 3u);
  EXPECT_EQ(record->Count(6, absl::StatusCode::kInvalidArgument), 3u);
  EXPECT_EQ(record->code(4), absl::StatusCode::kOk);
}

TEST_F(LinkFixture, MoreThanACallMayHaveIsRefused) {
  StartLeader();
  const auto shard = Attach();
  const auto [record, call] = Get(RequestFor(kvstore::kMaxKeysPerCall + 1));
  EXPECT_EQ(record->WaitForEnd().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(record->n_answers(), kvstore::kMaxKeysPerCall + 1);
  const auto [largest, largest_call] = Get(RequestFor(kvstore::kMaxKeysPerCall));
  EXPECT_EQ(shard->store.get(0)->request.copies.size(), kvstore::kMaxKeysPerCall);
  shard->store.get(0)->End(absl::OkStatus());
  EXPECT_TRUE(largest->WaitForEnd().ok());
  const auto [put, put_call] = Put();
  for (size_t i = 0; i <= kvstore::kMaxKeysPerCall; ++i) put_call->Offer(OfferOf(i + 1));
  ASSERT_TRUE(put->WaitForAnswers(1));
  EXPECT_EQ(put->code(kvstore::kMaxKeysPerCall), absl::StatusCode::kInvalidArgument);
  put_call->Cancel();
  EXPECT_EQ(put->WaitForEnd().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(put->n_answers(), kvstore::kMaxKeysPerCall + 1);
}

TEST_F(LinkFixture, MoreCallsThanOneShardMayHaveAreRefused) {
  StartLeader();
  const auto shard = Attach();
  std::vector<std::shared_ptr<GetRecord>> records;
  for (int i = 0; i < 4096; ++i) records.push_back(Get(RequestFor(1)).first);
  EXPECT_EQ(Get(RequestFor(1)).first->WaitForEnd().code(), absl::StatusCode::kResourceExhausted);
  for (size_t i = 0; i < records.size(); ++i) shard->store.get(i)->End(absl::NotFoundError("gone"));
  for (const auto& record : records) EXPECT_EQ(record->WaitForEnd().code(), absl::StatusCode::kNotFound);
  const auto [record, call] = Get(RequestFor(1));
  shard->store.get(4096)->End(absl::OkStatus());
  EXPECT_TRUE(record->WaitForEnd().ok());
}

TEST_F(LinkFixture, APutThatTheShardEndsEarlyAnswersTheRest) {
  StartLeader();
  const auto shard = Attach();
  const auto [record, call] = Put();
  for (size_t i = 0; i < 10; ++i) call->Offer(OfferOf(i + 1));
  const auto there = shard->store.put(0);
  ASSERT_TRUE(Eventually([&] { return there->items().size() == 10; }));
  there->Answer(3, kvstore::PutOutcome{});
  there->End(absl::DeadlineExceededError("late"));
  EXPECT_EQ(record->WaitForEnd().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(record->n_answers(), 10u);
  EXPECT_EQ(record->n_ok(10), 1u);
  EXPECT_EQ(record->Count(10, absl::StatusCode::kDeadlineExceeded), 9u);
  call->Offer(OfferOf(1));
  call->Finish();
  const auto [next, next_call] = Get(RequestFor(0));
  shard->store.get(0)->End(absl::OkStatus());
  EXPECT_TRUE(next->WaitForEnd().ok()) << "what is late disturbs nobody";
  EXPECT_EQ(shard->n_lost(), 0u);
}

TEST_F(LinkFixture, ShardsAreApart) {
  StartLeader(4);
  std::vector<std::unique_ptr<Shard>> shards;
  for (const int rank : {3, 1, 2}) shards.push_back(Attach(rank));
  for (int round = 0; round < 3; ++round) {
    std::vector<std::shared_ptr<GetRecord>> records;
    for (const int rank : {3, 1, 2}) {
      records.push_back(Get(RequestFor(static_cast<size_t>(rank)), rank).first);
    }
    for (size_t i = 0; i < 3; ++i) {
      const auto there = shards[i]->store.get(static_cast<size_t>(round));
      EXPECT_EQ(there->request.copies.size(), i == 0 ? 3 : i);
      there->End(absl::OkStatus());
      EXPECT_TRUE(records[i]->WaitForEnd().ok());
    }
  }
  for (const auto& shard : shards) EXPECT_EQ(shard->store.n_calls(), 3u);
}

TEST_F(LinkFixture, CallsBeforeTheShardAttachesWaitForIt) {
  StartLeader();
  const auto [get, get_call] = Get(RequestFor(2));
  const auto [put, put_call] = Put();
  put_call->Offer(OfferOf(1));
  put_call->Offer(OfferOf(2));
  put_call->Finish();
  const auto [cancelled, cancelled_call] = Get(RequestFor(1));
  cancelled_call->Cancel();
  EXPECT_EQ(cancelled->WaitForEnd().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(cancelled->code(0), absl::StatusCode::kCancelled);
  get_call->Release(17);
  EXPECT_FALSE(get->WaitForAnswers(1, absl::Milliseconds(50)));
  const auto shard = Attach();
  const auto get_there = shard->store.get(0);
  ASSERT_TRUE(Eventually([&] { return get_there->n_released == 17; }));
  get_there->End(absl::OkStatus());
  const auto put_there = shard->store.put(0);
  ASSERT_TRUE(Eventually([&] { return put_there->is_finished.load(); }));
  ASSERT_EQ(put_there->items().size(), 2u);
  put_there->Answer(1, kvstore::PutOutcome{});
  put_there->Answer(0, kvstore::PutOutcome{});
  put_there->End(absl::OkStatus());
  EXPECT_TRUE(get->WaitForEnd().ok());
  EXPECT_TRUE(put->WaitForEnd().ok());
  EXPECT_EQ(shard->store.n_calls(), 2u) << "the cancelled one never came";
}

TEST_F(LinkFixture, CallsOfAShardThatNeverAttachesEndInTime) {
  StartLeader();
  const absl::Time begin = clock_.Now();
  const auto [get, get_call] = Get(RequestFor(2, absl::Milliseconds(100)));
  const auto [put, put_call] = Put(absl::Milliseconds(150));
  put_call->Offer(OfferOf(1));
  EXPECT_EQ(get->WaitForEnd().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_GE(clock_.Now() - begin, absl::Milliseconds(100));
  EXPECT_EQ(get->Count(2, absl::StatusCode::kDeadlineExceeded), 2u);
  EXPECT_EQ(put->WaitForEnd().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(put->code(0), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(clock_.Now() - begin, absl::Seconds(10));
  const auto shard = Attach();
  const auto [later, later_call] = Get(RequestFor(1));
  shard->store.get(0)->End(absl::OkStatus());
  EXPECT_TRUE(later->WaitForEnd().ok());
  EXPECT_EQ(shard->store.n_calls(), 1u) << "what had ended is not ordered";
}

TEST_F(LinkFixture, ACallbackMayAskForMore) {
  StartLeader();
  const auto shard = Attach();
  const auto second = std::make_shared<GetRecord>();
  const auto first = server_->shard(1).Get(
      RequestFor(1), {[](size_t, const auto&) {},
                      [&](const absl::Status&) { server_->shard(1).Get(RequestFor(1), EventsOf(second)); }});
  shard->store.get(0)->End(absl::OkStatus());
  shard->store.get(1)->End(absl::OkStatus());
  EXPECT_TRUE(second->WaitForEnd().ok());
}

}  // namespace
}  // namespace longshelf::worker
