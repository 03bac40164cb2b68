// The client against a real store: flow control, cancelling, lifetimes.
#include "kvstore/client.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <future>
#include <thread>

#include "call_record.h"
#include "service_fixture.h"
#include "tcp_relay.h"

namespace longshelf::kvstore {
namespace {

constexpr uint64_t kRoot = 1 << 20;

class ClientTest : public ServiceFixture {
 protected:
  // `n` blocks of one size, present in the store.
  std::vector<Object> PutBlocks(uint64_t n, size_t n_bytes) {
    std::vector<Object> objects;
    std::vector<PutItem> puts;
    for (uint64_t id = 1; id <= n; ++id) {
      objects.push_back(MakeObject(id, kRoot, 256, n_bytes));
      puts.push_back(ItemOf(objects.back()));
    }
    for (const auto& outcome : client_->PutMany(puts, kTimeout)) EXPECT_TRUE(outcome.ok()) << outcome.status();
    return objects;
  }

  static Client::GetRequest RequestFor(const std::vector<Object>& objects, uint64_t window_bytes,
                                       absl::Duration timeout = kTimeout) {
    Client::GetRequest request = {
        .fingerprint = FingerprintOf(1), .items = {}, .timeout = timeout, .window_bytes = window_bytes};
    for (const Object& object : objects) request.items.push_back(WantOf(object));
    return request;
  }

  bool Eventually(const std::function<bool()>& holds) {
    const absl::Time deadline = clock_.Now() + absl::Seconds(10);
    while (!holds()) {
      if (clock_.Now() > deadline) return false;
      std::this_thread::yield();
    }
    return true;
  }

  Client& client() { return client_.client(); }
};

TEST_F(ClientTest, AGetDeliversAWindowAndGoesOnWithEveryRelease) {
  Start(64 << 20);
  constexpr size_t kBytes = 700000;
  const std::vector<Object> objects = PutBlocks(12, kBytes);
  const auto record = std::make_shared<GetRecord>();
  const auto call = client().Get(RequestFor(objects, 3 * kBytes), EventsOf(record));
  ASSERT_TRUE(record->WaitForAnswers(3));
  EXPECT_FALSE(record->WaitForAnswers(4, absl::Milliseconds(200))) << "beyond the window";
  call->Release(kBytes - 1);
  EXPECT_FALSE(record->WaitForAnswers(4, absl::Milliseconds(50))) << "one byte short of room for the next";
  call->Release(1);
  ASSERT_TRUE(record->WaitForAnswers(4));
  EXPECT_FALSE(record->WaitForAnswers(5, absl::Milliseconds(50)));
  call->Release(uint64_t{1} << 40);  // more than was delivered, and no credit for later
  ASSERT_TRUE(record->WaitForAnswers(7));
  EXPECT_FALSE(record->WaitForAnswers(8, absl::Milliseconds(50)));
  for (size_t n = 7; !record->ended() && n < 12; ++n) {
    call->Release(kBytes);
    ASSERT_TRUE(record->WaitForAnswers(n + 1));
  }
  call->Release(kBytes);
  EXPECT_TRUE(record->WaitForEnd().ok());
  for (size_t i = 0; i < objects.size(); ++i) EXPECT_EQ(record->answer(i).payload, objects[i].payload) << i;
}

TEST_F(ClientTest, AnObjectLargerThanTheWindowIsDeliveredAlone) {
  Start(64 << 20);
  const std::vector<Object> objects = PutBlocks(3, 2 << 20);
  const auto record = std::make_shared<GetRecord>();
  const auto call = client().Get(RequestFor(objects, 1), EventsOf(record));
  for (size_t n = 1; n <= 3; ++n) {
    ASSERT_TRUE(record->WaitForAnswers(n));
    EXPECT_FALSE(record->WaitForAnswers(n + 1, absl::Milliseconds(50)));
    call->Release(2 << 20);
  }
  EXPECT_TRUE(record->WaitForEnd().ok());
  EXPECT_EQ(record->n_ok(3), 3u);
}

TEST_F(ClientTest, APausedGetEndsAtItsDeadline) {
  Start(64 << 20);
  const std::vector<Object> objects = PutBlocks(4, 1 << 20);
  const auto record = std::make_shared<GetRecord>();
  const auto call = client().Get(RequestFor(objects, 1, absl::Milliseconds(300)), EventsOf(record));
  ASSERT_TRUE(record->WaitForAnswers(1));
  EXPECT_EQ(record->WaitForEnd(absl::Seconds(10)).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(record->n_ok(1), 1u);
  EXPECT_EQ(record->Count(4, absl::StatusCode::kDeadlineExceeded), 3u);
  call->Release(1 << 20);
  call->Cancel();
}

TEST_F(ClientTest, APausedGetIsCancelledAtOnce) {
  Start(64 << 20);
  const std::vector<Object> objects = PutBlocks(4, 1 << 20);
  const auto record = std::make_shared<GetRecord>();
  const auto call = client().Get(RequestFor(objects, 1), EventsOf(record));
  ASSERT_TRUE(record->WaitForAnswers(1));
  EXPECT_FALSE(record->WaitForAnswers(2, absl::Milliseconds(50)));
  call->Cancel();
  EXPECT_EQ(record->WaitForEnd().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(record->Count(4, absl::StatusCode::kCancelled), 3u);
  call->Cancel();
  call->Release(1 << 20);
}

TEST_F(ClientTest, AGetCancelledFromItsOwnCallbackDeliversNothingMore) {
  Start(64 << 20);
  const std::vector<Object> objects = PutBlocks(20, 300000);
  const auto record = std::make_shared<GetRecord>();
  std::promise<std::shared_ptr<Client::GetCall>> handle;
  Client::GetEvents events = EventsOf(record);
  events.on_object = [record, call = handle.get_future().share(), forward = std::move(events.on_object)](
                         size_t index, absl::StatusOr<FetchedObject> object) {
    if (index == 5) call.get()->Cancel();
    forward(index, std::move(object));
  };
  handle.set_value(client().Get(RequestFor(objects, 64 << 20), std::move(events)));
  EXPECT_EQ(record->WaitForEnd().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(record->n_ok(20), 6u);
  EXPECT_EQ(record->Count(20, absl::StatusCode::kCancelled), 14u);
}

TEST_F(ClientTest, AGetWhoseHandleIsDroppedGoesOn) {
  Start(64 << 20);
  const std::vector<Object> objects = PutBlocks(8, 300000);
  const auto record = std::make_shared<GetRecord>();
  client().Get(RequestFor(objects, 64 << 20), EventsOf(record));
  EXPECT_TRUE(record->WaitForEnd().ok());
  EXPECT_EQ(record->n_ok(8), 8u);
}

TEST_F(ClientTest, AGetOfTooManyObjectsAnswersEachWithinTheCall) {
  Start(16 << 20);
  const auto record = std::make_shared<GetRecord>();
  client().Get(
      {.fingerprint = FingerprintOf(1), .items = std::vector<GetItem>(kMaxKeysPerCall + 1), .timeout = kTimeout},
      EventsOf(record));
  EXPECT_TRUE(record->ended());
  EXPECT_EQ(record->Count(kMaxKeysPerCall + 1, absl::StatusCode::kInvalidArgument), kMaxKeysPerCall + 1);
}

TEST_F(ClientTest, APutTakesOffersOneByOneUntilItIsFinished) {
  Start(64 << 20);
  const auto record = std::make_shared<PutRecord>();
  const auto call = client().Put(kTimeout, EventsOf(record));
  for (uint64_t id = 0; id < 5; ++id) {
    call->Offer(ItemOf(MakeObject(id, kRoot, 256, 600000)));
    // The stream is idle in between.
    ASSERT_TRUE(record->WaitForAnswers(id + 1));
  }
  EXPECT_FALSE(record->ended());
  call->Finish();
  EXPECT_TRUE(record->WaitForEnd().ok());
  EXPECT_EQ(record->n_ok(5), 5u);
  call->Offer(ItemOf(MakeObject(9, kRoot, 256, 10)));
  EXPECT_EQ(Stats().n_objects, 5u);
}

TEST_F(ClientTest, APutWithNothingToOfferEndsWell) {
  Start(16 << 20);
  const auto record = std::make_shared<PutRecord>();
  client().Put(kTimeout, EventsOf(record))->Finish();
  EXPECT_TRUE(record->WaitForEnd().ok());
}

TEST_F(ClientTest, EveryOfferHasItsOwnOutcomeAndDigest) {
  Start(16 << 20);
  const Object good = MakeObject(1, kRoot, 256, 1000);
  Object other = good;
  other.payload[3] ^= std::byte{1};
  const auto record = std::make_shared<PutRecord>();
  const auto call = client().Put(kTimeout, EventsOf(record));
  call->Offer(ItemOf(good));
  ASSERT_TRUE(record->WaitForAnswers(1));
  call->Offer({good.head, nullptr});
  call->Offer({good.head, std::make_shared<const std::vector<std::byte>>()});
  call->Offer({good.head, std::make_shared<const std::vector<std::byte>>(kMaxPayloadBytes + 1)});
  call->Offer(ItemOf(other));
  call->Offer(ItemOf(good));
  call->Finish();
  EXPECT_TRUE(record->WaitForEnd().ok());
  EXPECT_EQ(record->Count(4, absl::StatusCode::kInvalidArgument), 3u);
  EXPECT_FALSE(record->answer(0).existed);
  EXPECT_EQ(record->answer(0).digest, good.head.digest);
  EXPECT_TRUE(record->answer(4).existed);
  EXPECT_TRUE(record->answer(4).conflicts);
  EXPECT_EQ(record->answer(4).digest, good.head.digest);
  EXPECT_TRUE(record->answer(5).existed);
  EXPECT_FALSE(record->answer(5).conflicts);
}

TEST_F(ClientTest, APutAcceptsAsManyObjectsAsOneStreamMayAndNotOneMore) {
  Start(64 << 20);
  const auto record = std::make_shared<PutRecord>();
  const auto call = client().Put(kTimeout, EventsOf(record));
  const auto payload = std::make_shared<const std::vector<std::byte>>(RandomBytes(1, 100));
  ObjectHead head = MakeObject(1, kRoot, 256, 1).head;
  for (uint64_t id = 0; id < kMaxKeysPerCall + 2; ++id) {
    head.key.hash = Hash(id);
    call->Offer({head, payload});
  }
  call->Finish();
  EXPECT_TRUE(record->WaitForEnd().ok());
  EXPECT_EQ(record->n_ok(kMaxKeysPerCall), kMaxKeysPerCall);
  EXPECT_EQ(record->code(kMaxKeysPerCall), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(record->code(kMaxKeysPerCall + 1), absl::StatusCode::kInvalidArgument);
}

TEST_F(ClientTest, OutcomesMayOfferMore) {
  Start(64 << 20);
  constexpr size_t kOffers = 40;
  const auto record = std::make_shared<PutRecord>();
  std::promise<std::shared_ptr<Client::PutCall>> handle;
  Client::PutEvents events = EventsOf(record);
  events.on_outcome = [call = handle.get_future().share(), forward = std::move(events.on_outcome)](
                          size_t index, absl::StatusOr<PutOutcome> outcome) {
    forward(index, std::move(outcome));
    if (index + 1 == kOffers) return call.get()->Finish();
    // Every other one is refused, and its outcome comes while this callback runs.
    call.get()->Offer(index % 2 == 0 ? PutItem{} : ItemOf(MakeObject(index + 1, kRoot, 256, 2000)));
  };
  const std::shared_ptr<Client::PutCall> call = client().Put(kTimeout, std::move(events));
  handle.set_value(call);
  call->Offer(ItemOf(MakeObject(0, kRoot, 256, 2000)));
  EXPECT_TRUE(record->WaitForEnd().ok());
  EXPECT_EQ(record->n_ok(kOffers), kOffers / 2);
  EXPECT_EQ(record->Count(kOffers, absl::StatusCode::kInvalidArgument), kOffers / 2);
}

TEST_F(ClientTest, ACancelledPutAnswersEveryOfferOnceAndFreesTheStore) {
  Start(256 << 20);
  constexpr size_t kOffers = 40;
  const auto record = std::make_shared<PutRecord>();
  const auto call = client().Put(kTimeout, EventsOf(record));
  const auto payload = std::make_shared<const std::vector<std::byte>>(RandomBytes(1, 4 << 20));
  ObjectHead head = MakeObject(1, kRoot, 256, 1).head;
  for (uint64_t id = 0; id < kOffers; ++id) {
    head.key.hash = Hash(id);
    call->Offer({head, payload});
  }
  ASSERT_TRUE(record->WaitForAnswers(3));
  call->Cancel();
  call->Offer({head, payload});
  EXPECT_EQ(record->WaitForEnd().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(record->n_answers(), kOffers);
  EXPECT_LT(record->n_ok(kOffers), kOffers);
  EXPECT_EQ(record->n_ok(kOffers) + record->Count(kOffers, absl::StatusCode::kCancelled), kOffers);
  EXPECT_TRUE(Eventually([this] { return Stats().n_reservations == 0; }));
  EXPECT_TRUE(Eventually([&] { return payload.use_count() == 1; })) << "nothing holds on to a payload";
}

TEST_F(ClientTest, AClientThatGoesAwayEndsItsCallsFirst) {
  Start(256 << 20);
  const std::vector<Object> objects = PutBlocks(8, 1 << 20);
  const auto get = std::make_shared<GetRecord>();
  const auto put = std::make_shared<PutRecord>();
  const auto lookup = std::make_shared<CallRecord<LookupResult>>();
  Connection connection = Connect();
  Client& client = connection.client();
  const auto get_call = client.Get(RequestFor(objects, 1), EventsOf(get));
  const auto put_call = client.Put(kTimeout, EventsOf(put));
  const auto payload = std::make_shared<const std::vector<std::byte>>(RandomBytes(1, 4 << 20));
  ObjectHead head = MakeObject(1, kRoot, 256, 1).head;
  for (uint64_t id = 100; id < 120; ++id) {
    head.key.hash = Hash(id);
    put_call->Offer({head, payload});
  }
  ASSERT_TRUE(get->WaitForAnswers(1));
  client.Lookup({.fingerprint = FingerprintOf(1)}, kTimeout, [lookup, &client](absl::StatusOr<LookupResult> result) {
    lookup->Answer(0, std::move(result));
    // Either it is answered or it is refused.
    client.Stats(kTimeout, [lookup](const absl::StatusOr<StoreStats>& stats) { lookup->End(stats.status()); });
  });
  connection.Close();
  EXPECT_TRUE(get->ended());
  EXPECT_EQ(get->n_answers(), 8u);
  EXPECT_TRUE(put->ended());
  EXPECT_EQ(put->n_answers(), 20u);
  EXPECT_TRUE(lookup->ended());
  get_call->Release(1);
  get_call->Cancel();
  put_call->Offer({head, payload});
  put_call->Finish();
  put_call->Cancel();
  EXPECT_EQ(put->n_answers(), 20u);
}

TEST_F(ClientTest, ManyGetsAndPutsAtOnceOnOneClientAllEndWell) {
  Start(256 << 20);
  constexpr uint64_t kThreads = 4;
  constexpr uint64_t kRounds = 8;
  constexpr size_t kObjects = 6;
  const auto run = [&](uint64_t thread) {
    for (uint64_t round = 0; round < kRounds; ++round) {
      // Neighbouring threads write the same objects.
      std::vector<Object> objects;
      for (uint64_t i = 0; i < kObjects; ++i) {
        objects.push_back(MakeObject((thread / 2 * kRounds + round) * kObjects + i, kRoot, 256, 200000 + i * 100000));
      }
      const auto put = std::make_shared<PutRecord>();
      const auto put_call = client().Put(kTimeout, EventsOf(put));
      for (const Object& object : objects) put_call->Offer(ItemOf(object));
      put_call->Finish();
      EXPECT_TRUE(put->WaitForEnd().ok());
      EXPECT_EQ(put->n_ok(kObjects), kObjects);

      const auto get = std::make_shared<GetRecord>();
      const auto call = client().Get(RequestFor(objects, 500000), EventsOf(get));
      for (size_t i = 0; i < kObjects; ++i) {
        ASSERT_TRUE(get->WaitForAnswers(i + 1));
        EXPECT_EQ(get->answer(i).payload, objects[i].payload);
        call->Release(objects[i].payload.size());
      }
      EXPECT_TRUE(get->WaitForEnd().ok());
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < kThreads; ++thread) threads.emplace_back(run, thread);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Stats().n_reservations, 0u);
}

TEST_F(ClientTest, OneThreadOffersWhileOthersCancel) {
  Start(256 << 20);
  for (int round = 0; round < 20; ++round) {
    const auto record = std::make_shared<PutRecord>();
    const auto call = client().Put(kTimeout, EventsOf(record));
    const auto payload = std::make_shared<const std::vector<std::byte>>(RandomBytes(1, 50000));
    std::thread canceller([&] {
      record->WaitForAnswers(static_cast<size_t>(round));
      call->Cancel();
    });
    ObjectHead head = MakeObject(1, kRoot, 256, 1).head;
    for (uint64_t id = 0; id < 100; ++id) {
      head.key.hash = Hash(static_cast<uint64_t>(round) * 100 + id);
      call->Offer({head, payload});
    }
    canceller.join();
    call->Finish();
    (void)record->WaitForEnd();
    EXPECT_TRUE(record->ended());
    const size_t n = record->n_answers();
    EXPECT_EQ(record->n_ok(n) + record->Count(n, absl::StatusCode::kCancelled), n);
  }
  EXPECT_TRUE(Eventually([this] { return Stats().n_reservations == 0; }));
}

// In the middle of the third object. Keepalive finds what falls silent long before the timeout.
constexpr size_t kCutAt = 1000000;
constexpr TcpRelay::After kEnds[] = {TcpRelay::After::kFallSilent, TcpRelay::After::kClose};

TcpRelay::Hook CutThen(TcpRelay::After after) {
  return [after](size_t offset, std::span<char> bytes) {
    if (offset + bytes.size() < kCutAt) return TcpRelay::PassOn(offset, bytes);
    return TcpRelay::Verdict{.n_passed = kCutAt - std::min(kCutAt, offset), .after = after};
  };
}

TEST_F(ClientTest, AStoreThatStopsInTheMiddleOfAFrameEndsTheGet) {
  Start(64 << 20);
  const std::vector<Object> objects = PutBlocks(6, 400000);
  for (const TcpRelay::After after : kEnds) {
    TcpRelay relay(server_->port(), {.from_upstream = CutThen(after)});
    const Connection connection({.address = absl::StrCat("127.0.0.1:", relay.port())});
    const auto record = std::make_shared<GetRecord>();
    connection.client().Get(RequestFor(objects, 64 << 20, kTimeout), EventsOf(record));
    EXPECT_EQ(record->WaitForEnd(absl::Seconds(10)).code(), absl::StatusCode::kUnavailable);
    // A reset connection may take with it what had arrived.
    const size_t n_whole = record->n_ok(6);
    EXPECT_TRUE(after == TcpRelay::After::kClose ? n_whole <= 2 : n_whole == 2) << n_whole;
    EXPECT_EQ(record->Count(6, absl::StatusCode::kUnavailable), 6 - n_whole);
    for (size_t i = 0; i < n_whole; ++i) EXPECT_EQ(record->answer(i).payload, objects[i].payload);
  }
}

TEST_F(ClientTest, AConnectionThatStopsInTheMiddleOfAFrameEndsThePut) {
  Start(64 << 20);
  for (const TcpRelay::After after : kEnds) {
    TcpRelay relay(server_->port(), {.from_client = CutThen(after)});
    const Connection connection({.address = absl::StrCat("127.0.0.1:", relay.port())});
    const auto record = std::make_shared<PutRecord>();
    const auto call = connection.client().Put(kTimeout, EventsOf(record));
    for (uint64_t id = 0; id < 6; ++id) {
      call->Offer(ItemOf(MakeObject(id + 100 * static_cast<uint64_t>(after), kRoot, 256, 400000)));
    }
    call->Finish();
    EXPECT_EQ(record->WaitForEnd(absl::Seconds(10)).code(), absl::StatusCode::kUnavailable);
    const size_t n_stored = record->n_ok(6);
    EXPECT_TRUE(after == TcpRelay::After::kClose ? n_stored <= 2 : n_stored == 2) << n_stored;
    // Offers that come after the end are ignored.
    EXPECT_EQ(record->Count(6, absl::StatusCode::kUnavailable) + n_stored, record->n_answers());
    EXPECT_TRUE(after == TcpRelay::After::kClose || record->n_answers() == 6) << record->n_answers();
    EXPECT_TRUE(Eventually([this] { return Stats().n_reservations == 0; }));
  }
}

}  // namespace
}  // namespace longshelf::kvstore
