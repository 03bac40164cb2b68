#include <gmock/gmock.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <functional>
#include <set>

#include "grpc_health.h"
#include "service_fixture.h"

namespace longshelf::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

engine::CachedCheckpoint Checkpoint(uint8_t id, int64_t n_tokens = 256) {
  engine::CachedCheckpoint out;
  out.key.fill(id);
  out.parent.fill(static_cast<uint8_t>(id + 100));
  out.n_tokens = n_tokens;
  return out;
}
engine::PrefixKey Key(uint8_t id) { return Checkpoint(id).key; }
std::string KeyText(uint8_t id) { return std::string(32, static_cast<char>(id)); }

std::vector<uint8_t> Gained(const WatchUpdate& update) {
  std::vector<uint8_t> out;
  for (const auto& checkpoint : update.gained) out.push_back(checkpoint.key[0]);
  return out;
}

TEST(WatchHub, SendsTheWholeIndexFirstAndThenOnlyChanges) {
  WatchHub hub;
  hub.OnCheckpointsChanged({Checkpoint(1), Checkpoint(2)}, {});
  hub.OnCheckpointsChanged({}, {Key(1)});
  const auto id = hub.Subscribe();
  ASSERT_TRUE(id.ok());
  const absl::Time t = absl::UnixEpoch();
  auto update = hub.Next(*id, t);
  ASSERT_TRUE(update.has_value());
  EXPECT_TRUE(update->snapshot);
  EXPECT_THAT(Gained(*update), ElementsAre(2));
  EXPECT_FALSE(hub.Next(*id, t).has_value());

  hub.OnCheckpointsChanged({Checkpoint(3)}, {});
  hub.OnCheckpointsChanged({Checkpoint(4)}, {Key(2), Key(3)});
  update = hub.Next(*id, t);
  ASSERT_TRUE(update.has_value());
  EXPECT_FALSE(update->snapshot);
  EXPECT_THAT(Gained(*update), ElementsAre(4)) << "what came and went in between is not gained";
  EXPECT_THAT(update->lost, ElementsAre(Key(2), Key(3)));
}

TEST(WatchHub, GivesASubscriberThatFellBehindASnapshotInsteadOfABacklog) {
  WatchHub::Options options;
  options.n_pending_max = 10;
  WatchHub hub(options);
  const auto slow = hub.Subscribe();
  const auto quick = hub.Subscribe();
  const absl::Time t = absl::UnixEpoch();
  ASSERT_TRUE(hub.Next(*slow, t).has_value());
  ASSERT_TRUE(hub.Next(*quick, t).has_value());
  for (uint8_t i = 0; i < 50; ++i) {
    hub.OnCheckpointsChanged({Checkpoint(i)}, {});
    const auto update = hub.Next(*quick, t);
    ASSERT_TRUE(update.has_value());
    EXPECT_FALSE(update->snapshot);
    EXPECT_THAT(Gained(*update), ElementsAre(i));
  }
  const auto update = hub.Next(*slow, t);
  ASSERT_TRUE(update.has_value());
  EXPECT_TRUE(update->snapshot);
  EXPECT_EQ(update->gained.size(), 50);
  EXPECT_EQ(hub.n_resyncs(), 1);
  EXPECT_FALSE(hub.Next(*slow, t).has_value());
}

TEST(WatchHub, SplitsALargeSnapshotAndKeepsChangesBehindIt) {
  WatchHub::Options options;
  options.n_entries_per_update = 3;
  WatchHub hub(options);
  for (uint8_t i = 0; i < 7; ++i) hub.OnCheckpointsChanged({Checkpoint(i)}, {});
  const auto id = hub.Subscribe();
  const absl::Time t = absl::UnixEpoch();
  auto update = hub.Next(*id, t);
  EXPECT_TRUE(update->snapshot);
  EXPECT_THAT(Gained(*update), ElementsAre(0, 1, 2));
  hub.OnCheckpointsChanged({}, {Key(5)});
  update = hub.Next(*id, t);
  EXPECT_FALSE(update->snapshot);
  EXPECT_THAT(Gained(*update), ElementsAre(3, 4, 5));
  EXPECT_THAT(Gained(*hub.Next(*id, t)), ElementsAre(6));
  EXPECT_THAT(hub.Next(*id, t)->lost, ElementsAre(Key(5)));
  EXPECT_FALSE(hub.Next(*id, t).has_value());
}

TEST(WatchHub, SendsTheLoadOftenWhileItChangesAndSometimesWhenNot) {
  WatchHub hub;
  const auto id = hub.Subscribe();
  absl::Time t = absl::UnixEpoch();
  ASSERT_TRUE(hub.Next(*id, t).has_value());
  engine::Load load;
  load.n_steps = 1;
  hub.OnLoad(load);
  EXPECT_FALSE(hub.Next(*id, t).has_value());
  t += absl::Milliseconds(250);
  auto update = hub.Next(*id, t);
  ASSERT_TRUE(update.has_value()) << "changed, and 250 ms have passed";
  EXPECT_EQ(update->load.n_steps, 1);
  EXPECT_THAT(update->gained, IsEmpty());
  t += absl::Milliseconds(500);
  EXPECT_FALSE(hub.Next(*id, t).has_value());
  t += absl::Milliseconds(500);
  EXPECT_TRUE(hub.Next(*id, t).has_value()) << "a second without a word";
}

TEST(WatchHub, BoundsTheNumberOfSubscribers) {
  WatchHub::Options options;
  options.n_subscribers_max = 1;
  WatchHub hub(options);
  const auto id = hub.Subscribe();
  ASSERT_TRUE(id.ok());
  EXPECT_EQ(hub.Subscribe().status().code(), absl::StatusCode::kResourceExhausted);
  hub.Unsubscribe(*id);
  EXPECT_TRUE(hub.Subscribe().ok());
}

using WatchServiceTest = ServiceFixture;

TEST_F(WatchServiceTest, PushesSnapshotChangesAndLoad) {
  Serve(Options());
  hub_.OnCheckpointsChanged({Checkpoint(1, 300)}, {});
  grpc::ClientContext context;
  const auto reader = stub_->Watch(&context, v1::WatchRequest());
  v1::WatchEvent event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_TRUE(event.snapshot());
  EXPECT_EQ(event.generation(), 3);
  ASSERT_EQ(event.gained_size(), 1);
  EXPECT_EQ(event.gained(0).key(), KeyText(1));
  EXPECT_EQ(event.gained(0).parent(), KeyText(101));
  EXPECT_EQ(event.gained(0).depth_tokens(), 300);
  EXPECT_EQ(event.load().n_sequences_max(), 8);

  hub_.OnCheckpointsChanged({Checkpoint(2)}, {Key(1)});
  do {
    ASSERT_TRUE(reader->Read(&event));
    EXPECT_FALSE(event.snapshot());
  } while (event.gained_size() == 0);
  EXPECT_EQ(event.gained(0).key(), KeyText(2));
  ASSERT_EQ(event.lost_size(), 1);
  EXPECT_EQ(event.lost(0), KeyText(1));

  engine::Load load;
  load.n_running = 2;
  load.n_steps = 77;
  hub_.OnLoad(load);
  do {
    ASSERT_TRUE(reader->Read(&event));
  } while (event.load().n_steps() != 77);
  EXPECT_EQ(event.load().n_running(), 2);
  context.TryCancel();
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(WatchServiceTest, ASubscriberThatNeverReadsDisturbsNobodyAndIsForgottenWhenItLeaves) {
  Serve(Options());
  const auto sleepy_channel = NewChannel();
  const auto sleepy_stub = v1::Worker::NewStub(sleepy_channel);
  grpc::ClientContext sleepy_context;
  const auto sleepy = sleepy_stub->Watch(&sleepy_context, v1::WatchRequest());
  grpc::ClientContext context;
  const auto reader = stub_->Watch(&context, v1::WatchRequest());
  v1::WatchEvent event;
  ASSERT_TRUE(reader->Read(&event));
  uint32_t n_seen = 0;
  for (uint32_t round = 0; round < 200; ++round) {
    std::vector<engine::CachedCheckpoint> gained(1000);
    for (uint32_t i = 0; i < gained.size(); ++i) {
      const uint32_t id = round * 1000 + i;
      std::memcpy(gained[i].key.data(), &id, sizeof id);
    }
    hub_.OnCheckpointsChanged(gained, {});
    while (n_seen < (round + 1) * 1000) {
      ASSERT_TRUE(reader->Read(&event));
      ASSERT_FALSE(event.snapshot());
      n_seen += static_cast<uint32_t>(event.gained_size());
    }
  }
  EXPECT_EQ(hub_.n_subscribers(), 2);
  sleepy_context.TryCancel();
  context.TryCancel();
  server_->Shutdown(absl::ZeroDuration());
  EXPECT_EQ(hub_.n_subscribers(), 0);
  EXPECT_GE(hub_.n_resyncs(), 1);
  while (sleepy->Read(&event)) {
  }
  sleepy->Finish();
  while (reader->Read(&event)) {
  }
  reader->Finish();
}

TEST_F(WatchServiceTest, StatusSaysWhoThisIs) {
  Serve(Options());
  server_->SetServing(true);
  engine::Load load;
  load.n_blocks_total = 12;
  hub_.OnLoad(load);
  grpc::ClientContext context;
  v1::WorkerStatusReply reply;
  ASSERT_TRUE(stub_->Status(&context, v1::WorkerStatusRequest(), &reply).ok());
  EXPECT_EQ(reply.worker_id(), "w0");
  EXPECT_EQ(reply.model_name(), "demo");
  EXPECT_EQ(reply.fingerprint(), std::string(32, '\x07'));
  EXPECT_EQ(reply.vocab_size(), 1000);
  EXPECT_EQ(reply.block_tokens(), 256);
  EXPECT_EQ(reply.n_context_max(), 512);
  EXPECT_EQ(reply.generation(), 3);
  EXPECT_EQ(reply.kernel_isa(), "test");
  EXPECT_EQ(reply.numerics(), "native");
  EXPECT_EQ(reply.load().n_blocks_total(), 12);
  EXPECT_TRUE(reply.ready());
}

TEST_F(WatchServiceTest, HealthSaysServingOnlyWhenReady) {
  Serve(Options());
  EXPECT_EQ(CheckHealth(channel_, ""), HealthAnswer::kNotServing);
  server_->SetServing(true);
  EXPECT_EQ(CheckHealth(channel_, ""), HealthAnswer::kServing);
  EXPECT_EQ(CheckHealth(channel_, "longshelf.v1.Worker"), HealthAnswer::kServing);
  server_->SetServing(false);
  EXPECT_EQ(CheckHealth(channel_, "longshelf.v1.Worker"), HealthAnswer::kNotServing);
}

TEST_F(WatchServiceTest, EveryMethodWantsTheTokenWhenThereIsOne) {
  WorkerServiceOptions options = Options();
  const std::string token = "0123456789abcdef0123";
  options.callers = *proto::CallerRules::Make(token, /*with_tls=*/false, {});
  Serve(options);
  using Call = std::function<grpc::Status(grpc::ClientContext&)>;
  const std::vector<std::pair<std::string, Call>> calls = {
      {"Generate",
       [this](grpc::ClientContext& context) {
         v1::WorkerGenerateRequest bad;  // past the token it is refused for its content
         const auto reader = stub_->Generate(&context, bad);
         v1::WorkerGenerateEvent event;
         while (reader->Read(&event)) {
         }
         return reader->Finish();
       }},
      {"Watch",
       [this](grpc::ClientContext& context) {
         const auto reader = stub_->Watch(&context, v1::WatchRequest());
         v1::WatchEvent event;
         if (reader->Read(&event)) context.TryCancel();
         while (reader->Read(&event)) {
         }
         return reader->Finish();
       }},
      {"Park",
       [this](grpc::ClientContext& context) {
         v1::ParkReply reply;
         return stub_->Park(&context, v1::ParkRequest(), &reply);
       }},
      {"Status",
       [this](grpc::ClientContext& context) {
         v1::WorkerStatusReply reply;
         return stub_->Status(&context, v1::WorkerStatusRequest(), &reply);
       }},
      {"Drain",
       [this](grpc::ClientContext& context) {
         v1::DrainReply reply;
         return stub_->Drain(&context, v1::DrainRequest(), &reply);
       }},
  };
  ASSERT_EQ(static_cast<int>(calls.size()),
            v1::WorkerGenerateRequest::descriptor()->file()->FindServiceByName("Worker")->method_count())
      << "a method is missing in this table";
  for (const auto& [name, call] : calls) {
    for (const std::string& presented : {std::string(), std::string("0123456789abcdef0124")}) {
      grpc::ClientContext context;
      proto::AddToken(context, presented);
      EXPECT_EQ(call(context).error_code(), grpc::StatusCode::UNAUTHENTICATED) << name;
    }
    grpc::ClientContext context;
    proto::AddToken(context, token);
    EXPECT_NE(call(context).error_code(), grpc::StatusCode::UNAUTHENTICATED) << name;
  }
}

}  // namespace
}  // namespace longshelf::worker
