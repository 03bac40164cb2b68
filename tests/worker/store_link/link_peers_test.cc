// Who dials in, and what others than our client and our server say.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include <future>

#include "link_fixture.h"
#include "longshelf/v1/store_link.grpc.pb.h"
#include "proto/channel_settings.h"
#include "proto/internal_auth.h"

namespace longshelf::worker {
namespace {

using ::testing::HasSubstr;

// A shard that says what a test wants.
class RawShard {
 public:
  RawShard(uint16_t port, const std::string& key) {
    proto::AddToken(context_, key);
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    grpc::ChannelArguments arguments = proto::InternalChannelArguments();
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stub_ = v1::StoreLink::NewStub(
        grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials(), arguments));
    stream_ = stub_->Attach(&context_);
  }
  void SayHello(uint32_t rank = 1, uint64_t generation = 4) {
    v1::StoreReports hello;
    hello.mutable_hello()->set_rank(rank);
    hello.mutable_hello()->set_generation(generation);
    stream_->Write(hello);
  }
  void Say(const v1::StoreReports& reports) { stream_->Write(reports); }
  // The next of them.
  v1::StoreOrder ReadOrder() {
    while (next_ >= orders_.orders_size()) {
      next_ = 0;
      if (!stream_->Read(&orders_)) {
        ADD_FAILURE() << "the link has ended";
        return {};
      }
    }
    return orders_.orders(next_++);
  }
  grpc::Status ReadEnd() {
    while (stream_->Read(&orders_)) {
    }
    return stream_->Finish();
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<v1::StoreLink::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::StoreReports, v1::StoreOrders>> stream_;
  v1::StoreOrders orders_;
  int next_ = 0;
};

v1::StoreReports OneReport(uint64_t call, const std::function<void(v1::StoreReport&)>& fill) {
  v1::StoreReports reports;
  v1::StoreReport& report = *reports.add_reports();
  report.set_call(call);
  fill(report);
  return reports;
}

v1::StoreReports Done(uint64_t call) {
  return OneReport(call, [](v1::StoreReport& report) { report.mutable_done(); });
}

v1::StoreReports Object(uint64_t call, uint32_t index, size_t n_stamp = engine::kStampBytes) {
  return OneReport(call, [&](v1::StoreReport& report) {
    report.mutable_object()->set_index(index);
    report.mutable_object()->set_stamp(std::string(n_stamp, 's'));
  });
}

v1::StoreReports Outcome(uint64_t call, uint32_t index, size_t n_digest = 16) {
  return OneReport(call, [&](v1::StoreReport& report) {
    report.mutable_outcome()->set_index(index);
    report.mutable_outcome()->mutable_outcome()->set_xxh3_128(std::string(n_digest, 'd'));
  });
}

TEST_F(LinkFixture, WhoIsNoneOfTheGroupIsRefusedWithAReasonAndDisturbsNobody) {
  StartLeader(3);
  const auto shard = Attach(1);
  const auto [record, call] = Get(RequestFor(1));
  const auto there = shard->store.get(0);
  const auto refused = [&](const StoreLinkClientOptions& options) { return Attach(options)->WaitForLoss(); };
  StoreLinkClientOptions options = ClientOptions(2);
  options.key = RandomId();
  EXPECT_EQ(refused(options).code(), absl::StatusCode::kUnauthenticated);
  options = ClientOptions(2);
  options.generation = 3;
  absl::Status status = refused(options);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("of generation 3 of the group, its leader of 4"));
  for (const int rank : {0, 3, -1}) {
    status = refused(ClientOptions(rank));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << rank;
    EXPECT_THAT(std::string(status.message()), HasSubstr("must be 1 .. 2"));
  }
  status = refused(ClientOptions(1));
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(status.message()), HasSubstr("shard 1 is attached already"));
  there->End(absl::OkStatus());
  EXPECT_TRUE(record->WaitForEnd().ok());
  EXPECT_EQ(shard->n_lost(), 0u);
  const auto second = Attach(2);
  const auto [other, other_call] = Get(RequestFor(1), 2);
  second->store.get(0)->End(absl::OkStatus());
  EXPECT_TRUE(other->WaitForEnd().ok()) << "the place was not taken";
}

TEST_F(LinkFixture, AShardThatWasLostDoesNotComeBack) {
  StartLeader();
  auto shard = Attach();
  const auto [record, call] = Get(RequestFor(1));
  shard->store.get(0);
  shard.reset();
  EXPECT_EQ(record->WaitForEnd().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Attach()->WaitForLoss().code(), absl::StatusCode::kUnavailable);
}

TEST_F(LinkFixture, AKeyThatIsNoneIsSaidAtTheStart) {
  StartLeader();
  StoreLinkClientOptions options = ClientOptions(1);
  options.key = "short";
  FakeHomeStore store;
  EXPECT_EQ(StoreLinkClient::Start(options, store, clock_, nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
  for (const char* key : {"", "short"}) {
    options_.key = key;
    EXPECT_EQ(StoreLinkServer::Start(options_, clock_).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(LinkFixture, APortThatIsTakenIsSaidAtTheStart) {
  StartLeader();
  options_.listen = absl::StrCat("127.0.0.1:", server_->loopback_port());
  const auto second = StoreLinkServer::Start(options_, clock_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(options_.listen));
}

TEST_F(LinkFixture, ShardsOfOtherHostsHaveAPortOfTheirOwn) {
  options_.listen = "0.0.0.0:0";
  StartLeader(3);
  StoreLinkClientOptions options = ClientOptions(2);
  options.address = absl::StrCat("127.0.0.1:", server_->listen_port());
  ASSERT_NE(server_->listen_port(), server_->loopback_port());
  const auto near = Attach(1);
  const auto far = Attach(options);
  const auto [record, call] = Get(RequestFor(1), 2);
  far->store.get(0)->End(absl::OkStatus());
  EXPECT_TRUE(record->WaitForEnd().ok());
}

TEST_F(LinkFixture, AFirstMessageThatIsNoHelloIsRefused) {
  StartLeader();
  v1::StoreReports both = Done(1);
  both.mutable_hello()->set_rank(1);
  both.mutable_hello()->set_generation(4);
  for (const v1::StoreReports& first : {v1::StoreReports(), Done(1), both}) {
    RawShard raw(server_->loopback_port(), key_);
    raw.Say(first);
    EXPECT_EQ(raw.ReadEnd().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  const auto shard = Attach();
  const auto [record, call] = Get(RequestFor(1));
  shard->store.get(0)->End(absl::OkStatus());
  EXPECT_TRUE(record->WaitForEnd().ok());
}

TEST_F(LinkFixture, WithoutTheKeyNothingIsRead) {
  StartLeader();
  RawShard raw(server_->loopback_port(), "");
  raw.SayHello();
  EXPECT_EQ(raw.ReadEnd().error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

// Call 1 is a get of 2 objects, call 2 a put with offers 0 and 1.
TEST_F(LinkFixture, AShardThatBreaksTheProtocolIsCutOffWithItsCalls) {
  v1::StoreReports many;
  for (int i = 0; i < 129; ++i) many.MergeFrom(Object(1, 0));
  v1::StoreReports hello = Object(1, 0);
  hello.mutable_hello()->set_rank(1);
  v1::StoreReports twice = Object(1, 0);
  twice.MergeFrom(Object(1, 0));
  v1::StoreReports outcomes = Outcome(2, 1);
  outcomes.MergeFrom(Outcome(2, 1));
  v1::StoreReports beyond = Object(1, 0);
  for (const uint32_t index : {1, 2}) beyond.MergeFrom(Object(1, index));
  const struct {
    const char* what;
    v1::StoreReports reports;
  } cases[] = {
      {"nothing", v1::StoreReports()},
      {"too many", many},
      {"a second hello", hello},
      {"nothing of a call", OneReport(1, [](v1::StoreReport&) {})},
      {"a call that is not", Object(3, 0)},
      {"call 0", Done(0)},
      {"an object out of turn", Object(1, 1)},
      {"an object twice", twice},
      {"one object more", beyond},
      {"a short stamp", Object(1, 0, engine::kStampBytes - 1)},
      {"no stamp", OneReport(1, [](v1::StoreReport& report) { report.mutable_object(); })},
      {"an outcome of a get", Outcome(1, 0)},
      {"an object of a put", Object(2, 0)},
      {"an outcome of nothing", Outcome(2, 2)},
      {"an outcome twice", outcomes},
      {"a short digest", Outcome(2, 0, 15)},
      {"no outcome", OneReport(2, [](v1::StoreReport& report) { report.mutable_outcome(); })},
      {"a get done too early", Done(1)},
      {"a put done too early", Done(2)},
  };
  for (const auto& [what, reports] : cases) {
    SCOPED_TRACE(what);
    StartLeader();
    RawShard raw(server_->loopback_port(), key_);
    raw.SayHello();
    const auto [get, get_call] = Get(RequestFor(2));
    const auto [put, put_call] = Put();
    for (uint64_t id = 1; id <= 2; ++id) put_call->Offer(OfferOf(id));
    std::set<uint64_t> offers;
    while (offers.size() < 2) {
      const v1::StoreOrder order = raw.ReadOrder();
      if (order.has_offer()) offers.insert(order.offer().index());
    }
    raw.Say(reports);
    EXPECT_EQ(raw.ReadEnd().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(get->WaitForEnd().code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(put->WaitForEnd().code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(get->n_answers(), 2u);
    EXPECT_EQ(put->n_answers(), 2u);
  }
}

TEST_F(LinkFixture, AMessageLargerThanAnyOfOursIsNotTaken) {
  StartLeader();
  RawShard raw(server_->loopback_port(), key_);
  raw.SayHello();
  const auto [get, get_call] = Get(RequestFor(2));
  raw.ReadOrder();
  raw.Say(Object(1, 0, 600 << 10));
  EXPECT_NE(raw.ReadEnd().error_code(), grpc::StatusCode::OK);
  EXPECT_EQ(get->WaitForEnd().code(), absl::StatusCode::kUnavailable);
}

TEST_F(LinkFixture, WhatIsOrderedTogetherComesTogetherAndNoMessageIsTooLarge) {
  StartLeader();
  // All of it waits until the shard is there.
  const auto [put, put_call] = Put();
  for (uint64_t id = 1; id <= 4000; ++id) put_call->Offer(OfferOf(id));
  std::vector<std::shared_ptr<GetRecord>> gets;
  for (int i = 0; i < 5; ++i) gets.push_back(Get(RequestFor(kvstore::kMaxKeysPerCall)).first);
  v1::StoreReports hello;
  hello.mutable_hello()->set_rank(1);
  hello.mutable_hello()->set_generation(4);
  grpc::ClientContext context;
  proto::AddToken(context, key_);
  grpc::ChannelArguments arguments = proto::InternalChannelArguments();
  const auto stub = v1::StoreLink::NewStub(grpc::CreateCustomChannel(
      absl::StrCat("127.0.0.1:", server_->loopback_port()), grpc::InsecureChannelCredentials(), arguments));
  const auto stream = stub->Attach(&context);
  ASSERT_TRUE(stream->Write(hello));
  int n_messages = 0;
  int n_orders = 0;
  for (v1::StoreOrders orders; n_orders < 1 + 4000 + 5 && stream->Read(&orders); ++n_messages) {
    n_orders += orders.orders_size();
    EXPECT_LE(orders.orders_size(), 128);
    EXPECT_LE(orders.ByteSizeLong(), size_t{512} << 10);
  }
  EXPECT_EQ(n_orders, 1 + 4000 + 5);
  EXPECT_LT(n_messages, 200);
  context.TryCancel();
  EXPECT_EQ(put->WaitForEnd().code(), absl::StatusCode::kUnavailable);
}

// A leader that says what a test wants.
class RawLeader final : public v1::StoreLink::Service {
 public:
  using Stream = grpc::ServerReaderWriter<v1::StoreOrders, v1::StoreReports>;

  explicit RawLeader(std::function<grpc::Status(Stream&)> serve) : serve_(std::move(serve)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    proto::ApplyInternalServerSettings(builder);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~RawLeader() override { server_->Shutdown(std::chrono::system_clock::now()); }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

  grpc::Status Attach(grpc::ServerContext*, Stream* stream) override {
    v1::StoreReports hello;
    if (!stream->Read(&hello) || !hello.has_hello()) return {grpc::StatusCode::INTERNAL, "no hello"};
    return serve_(*stream);
  }

 private:
  const std::function<grpc::Status(Stream&)> serve_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

v1::StoreOrders OneOrder(uint64_t call, const std::function<void(v1::StoreOrder&)>& fill) {
  v1::StoreOrders orders;
  v1::StoreOrder& order = *orders.add_orders();
  order.set_call(call);
  fill(order);
  return orders;
}

v1::StoreOrders GetOrder(uint64_t call, const std::string& key = std::string(64, 'k') + "e") {
  return OneOrder(call, [&](v1::StoreOrder& order) {
    order.mutable_get()->set_fingerprint(std::string(32, 'f'));
    std::string placed = key;
    placed[32] = 1;  // the kind
    order.mutable_get()->add_items()->set_key(placed);
  });
}

v1::StoreOrders PutOrder(uint64_t call) {
  return OneOrder(call, [](v1::StoreOrder& order) { order.mutable_put(); });
}

v1::StoreOrders OfferOrder(uint64_t call, uint32_t index) {
  return OneOrder(call, [&](v1::StoreOrder& order) {
    v1::StoreOffer& offer = *order.mutable_offer();
    offer.set_index(index);
    offer.set_ack(v1::STORE_ACK_MEMORY_ONE);
    offer.set_n_replicas(1);
    v1::ObjectHead& head = *offer.mutable_head();
    head.set_key(std::string(32, 'k') + '\1');
    for (std::string* hash : {head.mutable_parent(), head.mutable_extent(), head.mutable_fingerprint()}) {
      *hash = std::string(32, 'h');
    }
    head.set_depth_tokens(1);
    head.set_payload_bytes(1);
    head.set_namespace_id("ns");
  });
}

v1::StoreOrders And(v1::StoreOrders a, const v1::StoreOrders& b) {
  a.MergeFrom(b);
  return a;
}

TEST_F(LinkFixture, AShardWhoseLeaderBreaksTheProtocolLeaves) {
  const auto release = OneOrder(1, [](v1::StoreOrder& order) { order.mutable_release()->set_bytes(1); });
  const auto late = OneOrder(1, [](v1::StoreOrder& order) { order.mutable_put()->set_timeout_us(UINT64_MAX); });
  auto bad_ack = OfferOrder(1, 0);
  bad_ack.mutable_orders(0)->mutable_offer()->set_ack(static_cast<v1::StoreAck>(9));
  auto bad_head = OfferOrder(1, 0);
  bad_head.mutable_orders(0)->mutable_offer()->mutable_head()->set_namespace_id("");
  auto many_replicas = OfferOrder(1, 0);
  many_replicas.mutable_orders(0)->mutable_offer()->set_n_replicas(9);
  v1::StoreOrders many;
  for (uint64_t id = 1; id <= 129; ++id) many.MergeFrom(PutOrder(id));
  v1::StoreOrders items = GetOrder(1);
  for (size_t i = 0; i < kvstore::kMaxKeysPerCall; ++i) {
    *items.mutable_orders(0)->mutable_get()->add_items() = items.orders(0).get().items(0);
  }
  items.mutable_orders(0)->mutable_get()->mutable_items(0)->clear_key();
  const struct {
    const char* what;
    v1::StoreOrders orders;
  } cases[] = {
      {"nothing", v1::StoreOrders()},
      {"too many", many},
      {"too many items", items},
      {"nothing of a call", And(PutOrder(1), OneOrder(1, [](v1::StoreOrder&) {}))},
      {"a call that never began", release},
      {"a call twice", And(PutOrder(1), PutOrder(1))},
      {"an older number", And(PutOrder(2), GetOrder(1))},
      {"call 0", PutOrder(0)},
      {"a short key", GetOrder(1, std::string(40, 'k'))},
      {"a timeout without end", late},
      {"an offer to a get", And(GetOrder(1), OfferOrder(1, 0))},
      {"a release of a put", And(PutOrder(1), release)},
      {"an offer twice", And(And(PutOrder(1), OfferOrder(1, 3)), OfferOrder(1, 3))},
      {"an offer too many", And(PutOrder(1), OfferOrder(1, kvstore::kMaxKeysPerCall))},
      {"an ack that is none", And(PutOrder(1), bad_ack)},
      {"a head that is none", And(PutOrder(1), bad_head)},
      {"more replicas than there can be", And(PutOrder(1), many_replicas)},
  };
  for (const auto& [what, orders] : cases) {
    SCOPED_TRACE(what);
    std::atomic<bool> went = false;
    RawLeader leader([&, sent = orders](RawLeader::Stream& stream) {
      stream.Write(sent);
      v1::StoreReports reports;
      while (stream.Read(&reports)) {
      }
      went = true;
      return grpc::Status::OK;
    });
    const auto shard = Attach({.address = leader.address(), .key = key_, .rank = 1, .generation = 4});
    EXPECT_EQ(shard->WaitForLoss().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE(Eventually([&] { return went.load(); }));
  }
}

TEST_F(LinkFixture, OrdersThatCrossWithTheEndOfACallArePassedOver) {
  std::promise<void> ended;
  RawLeader leader([&](RawLeader::Stream& stream) {
    stream.Write(And(PutOrder(1), OfferOrder(1, 7)));
    v1::StoreReports reports;
    bool is_done = false;
    while (!is_done && stream.Read(&reports)) is_done = reports.reports(reports.reports_size() - 1).has_done();
    const auto cancel = OneOrder(1, [](v1::StoreOrder& order) { order.mutable_cancel(); });
    stream.Write(And(And(OfferOrder(1, 8), cancel), GetOrder(2)));
    is_done = false;
    while (!is_done && stream.Read(&reports)) is_done = reports.reports(reports.reports_size() - 1).has_done();
    ended.set_value();
    return grpc::Status::OK;
  });
  const auto shard = Attach({.address = leader.address(), .key = key_, .rank = 1, .generation = 4});
  shard->store.put(0)->End(absl::UnavailableError("gone"));
  shard->store.get(0)->End(absl::OkStatus());
  ended.get_future().wait();
  shard->client.reset();
  EXPECT_EQ(shard->n_lost(), 0u);
}

}  // namespace
}  // namespace longshelf::worker
