// What clients do that ours does not: broken streams, malformed frames, readers that stop reading.
#include <grpcpp/grpcpp.h>

#include <functional>
#include <limits>
#include <optional>
#include <thread>

#include "grpc_health.h"
#include "longshelf/v1/kvstore.grpc.pb.h"
#include "proto/channel_settings.h"
#include "resident_bytes.h"
#include "service_fixture.h"
#include "wire_heads.h"

namespace longshelf::kvstore {
namespace {

constexpr uint64_t kRoot = 1 << 20;

v1::PutFrame OpenFrame(uint32_t id, const ObjectHead& head) {
  v1::PutFrame frame;
  v1::PutOpen& open = *frame.add_opens();
  open.set_object_id(id);
  FillOpenedHead(head, open.mutable_head());
  return frame;
}

v1::PutFrame DataFrame(uint32_t id, uint64_t offset, size_t n, char fill = 'x') {
  v1::PutFrame frame;
  frame.mutable_data()->set_object_id(id);
  frame.mutable_data()->set_offset(offset);
  frame.mutable_data()->set_payload(std::string(n, fill));
  return frame;
}

v1::PutFrame LastFrame(uint32_t id, uint64_t offset, size_t n, const Digest& digest = {}) {
  v1::PutFrame frame = DataFrame(id, offset, n);
  frame.mutable_data()->set_xxh3_128(Bytes(digest));
  return frame;
}

v1::PutFrame AbortFrame(uint32_t id) {
  v1::PutFrame frame;
  frame.mutable_abort()->set_object_id(id);
  return frame;
}

v1::PutFrame ManyOpens(const ObjectHead& head, uint32_t n) {
  v1::PutFrame frame;
  for (uint32_t id = 0; id < n; ++id) frame.MergeFrom(OpenFrame(id, head));
  return frame;
}

v1::PutFrame OpenAndData(const ObjectHead& head, uint32_t id, const v1::PutFrame& data) {
  v1::PutFrame frame = OpenFrame(id, head);
  frame.MergeFrom(data);
  return frame;
}

class HostileTest : public ServiceFixture {
 protected:
  using PutCall = grpc::ClientReaderWriter<v1::PutFrame, v1::PutReplies>;

  void Begin(uint64_t capacity, ServerOptions options = {}, double parked_share = 0.5) {
    Start(capacity, options, parked_share);
    stub_ = NewStub();
  }

  std::unique_ptr<v1::KvStore::Stub> NewStub() {
    grpc::ChannelArguments args = proto::InternalChannelArguments();
    args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    // A client whose window does not grow: what is measured is what the server holds.
    args.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    return v1::KvStore::NewStub(grpc::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(), args));
  }

  static void SetDeadline(grpc::ClientContext& context, int seconds = 30) {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(seconds));
  }

  // Waits for what another thread of the server is about to do; false after ten seconds.
  bool Eventually(const std::function<bool()>& holds) {
    const absl::Time deadline = clock_.Now() + absl::Seconds(10);
    while (!holds()) {
      if (clock_.Now() > deadline) return false;
      std::this_thread::yield();
    }
    return true;
  }

  // Sends the frames and returns how the stream ended.
  grpc::Status Play(const std::vector<v1::PutFrame>& frames, std::vector<v1::PutReply>* replies = nullptr) {
    grpc::ClientContext context;
    SetDeadline(context);
    const auto call = stub_->Put(&context);
    for (const v1::PutFrame& frame : frames) {
      if (!call->Write(frame)) break;
    }
    call->WritesDone();
    v1::PutReplies some;
    while (call->Read(&some)) {
      if (replies != nullptr) replies->insert(replies->end(), some.replies().begin(), some.replies().end());
    }
    return call->Finish();
  }

  // The answer to one frame that asks for one.
  static std::optional<v1::PutReply> ReadReply(PutCall& call) {
    v1::PutReplies replies;
    if (!call.Read(&replies) || replies.replies_size() != 1) return std::nullopt;
    return replies.replies(0);
  }

  std::unique_ptr<v1::KvStore::Stub> stub_;
};

TEST_F(HostileTest, MalformedFramesEndTheStreamAndLeaveNothingBehind) {
  Begin(16 << 20);
  const Object object = MakeObject(1, kRoot, 256, 1000);
  const v1::PutFrame open = OpenFrame(1, object.head);
  v1::PutFrame short_digest = LastFrame(1, 0, 1000);
  short_digest.mutable_data()->mutable_xxh3_128()->pop_back();
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  const std::vector<std::pair<const char*, std::vector<v1::PutFrame>>> cases = {
      {"empty frame", {v1::PutFrame()}},
      {"data of an object never opened", {DataFrame(1, 0, 10)}},
      {"the last data of an object never opened", {LastFrame(1, 0, 10)}},
      {"abort of an object never opened", {AbortFrame(1)}},
      {"id opened twice", {open, open}},
      {"empty data", {open, DataFrame(1, 0, 0)}},
      {"data past the end", {open, DataFrame(1, 0, 1001)}},
      {"data at a later offset", {open, DataFrame(1, 1, 10)}},
      {"data at an offset that overflows", {open, DataFrame(1, kMax, 10)}},
      {"data at an offset that wraps to the size", {open, DataFrame(1, kMax - 9, 10)}},
      {"the same data twice", {open, DataFrame(1, 0, 10), DataFrame(1, 0, 10)}},
      {"a frame above the limit",
       {OpenFrame(1, MakeObject(1, kRoot, 256, 1 << 20).head), DataFrame(1, 0, kMaxFrameBytes + 1)}},
      {"data after the last", {open, LastFrame(1, 0, 1000), DataFrame(1, 0, 10)}},
      {"a digest of 15 bytes", {open, short_digest}},
      {"more opens than a frame may have", {ManyOpens(object.head, 65)}},
      {"an open and data of another object", {OpenAndData(object.head, 1, DataFrame(2, 0, 10))}},
      {"data after abort", {open, AbortFrame(1), DataFrame(1, 0, 10)}},
      {"the last data twice", {open, LastFrame(1, 0, 1000), LastFrame(1, 0, 1000)}},
  };
  for (const auto& [name, frames] : cases) {
    EXPECT_EQ(Play(frames).error_code(), grpc::StatusCode::INVALID_ARGUMENT) << name;
    EXPECT_TRUE(Eventually([this] { return Stats().n_reservations == 0; })) << name;
    EXPECT_EQ(Stats().n_objects, 0u) << name;
  }
  EXPECT_TRUE(Put(object).ok()) << "and the node still serves";
}

// What is no plain data frame is parsed like any message: a newer writer may add fields.
TEST_F(HostileTest, FramesWithFieldsThatAreNotKnownAreTakenAsTheyAre) {
  Begin(16 << 20);
  for (const int where : {0, 1, 2}) {
    Object object = MakeObject(10 + static_cast<uint64_t>(where), kRoot, 256, 1000);
    object.payload.assign(1000, std::byte{'x'});
    object.head.digest = DigestOf(object.payload);
    std::vector<v1::PutFrame> frames = {OpenFrame(0, object.head), DataFrame(0, 0, 600),
                                        LastFrame(0, 600, 400, object.head.digest)};
    for (v1::PutFrame& frame : frames) {
      if (where == 1) frame.GetReflection()->MutableUnknownFields(&frame)->AddLengthDelimited(77, "later");
      if (where == 2 && frame.has_data()) {
        v1::PutData& data = *frame.mutable_data();
        data.GetReflection()->MutableUnknownFields(&data)->AddVarint(78, 5);
      }
    }
    std::vector<v1::PutReply> replies;
    EXPECT_TRUE(Play(frames, &replies).ok()) << where;
    ASSERT_EQ(replies.size(), 2u) << where;
    EXPECT_TRUE(replies[1].has_committed()) << where;
    EXPECT_EQ(*Get(object), object.payload);
  }
}

TEST_F(HostileTest, MalformedHeadsAreRefusedOneByOne) {
  Begin(16 << 20);
  const Object good = MakeObject(1, kRoot, 256, 10);
  using Spoil = std::function<void(v1::ObjectHead&)>;
  const std::vector<std::pair<const char*, Spoil>> cases = {
      {"no key", [](auto& h) { h.clear_key(); }},
      {"short key", [](auto& h) { h.set_key("abc"); }},
      {"long key", [](auto& h) { h.set_key(std::string(34, 'k')); }},
      {"kind 0", [](auto& h) { h.mutable_key()->back() = 0; }},
      {"kind 5", [](auto& h) { h.mutable_key()->back() = 5; }},
      {"kind 255", [](auto& h) { h.mutable_key()->back() = static_cast<char>(255); }},
      {"no parent", [](auto& h) { h.clear_parent(); }},
      {"no extent", [](auto& h) { h.clear_extent(); }},
      {"long extent", [](auto& h) { h.set_extent(std::string(33, 'e')); }},
      {"own parent", [](auto& h) { h.set_parent(h.key().substr(0, 32)); }},
      {"short fingerprint", [](auto& h) { h.set_fingerprint(std::string(31, 'f')); }},
      {"a digest before the last data", [](auto& h) { h.set_xxh3_128(std::string(16, 'd')); }},
      {"depth 0", [](auto& h) { h.set_depth_tokens(0); }},
      {"depth 2^32-1", [](auto& h) { h.set_depth_tokens(std::numeric_limits<uint32_t>::max()); }},
      {"no bytes", [](auto& h) { h.set_payload_bytes(0); }},
      {"64 MiB + 1", [](auto& h) { h.set_payload_bytes((64ull << 20) + 1); }},
      {"2^64-1 bytes", [](auto& h) { h.set_payload_bytes(std::numeric_limits<uint64_t>::max()); }},
      {"class 7", [](auto& h) { h.set_object_class(static_cast<v1::ObjectClass>(7)); }},
      {"parked without a time", [](auto& h) { h.set_object_class(v1::OBJECT_CLASS_PARKED); }},
      {"time 2^64-1", [](auto& h) { h.set_retain_until_unix_ms(std::numeric_limits<uint64_t>::max()); }},
      {"no namespace", [](auto& h) { h.clear_namespace_id(); }},
      {"long namespace", [](auto& h) { h.set_namespace_id(std::string(65, 'n')); }},
  };
  std::vector<v1::PutFrame> frames;
  for (const auto& [name, spoil] : cases) {
    frames.push_back(OpenFrame(static_cast<uint32_t>(frames.size()), good.head));
    spoil(*frames.back().mutable_opens(0)->mutable_head());
  }
  frames.emplace_back().add_opens()->set_object_id(1000);  // no head at all
  std::vector<v1::PutReply> replies;
  EXPECT_TRUE(Play(frames, &replies).ok());
  ASSERT_EQ(replies.size(), frames.size());
  for (size_t i = 0; i < replies.size(); ++i) {
    EXPECT_EQ(replies[i].error().code(), static_cast<uint32_t>(grpc::StatusCode::INVALID_ARGUMENT))
        << (i < cases.size() ? cases[i].first : "no head");
  }
  EXPECT_EQ(Stats().used_bytes + Stats().reserved_bytes, 0u);
}

TEST_F(HostileTest, MalformedQueriesAreRefused) {
  Begin(16 << 20);
  const std::string hash(32, 'h');
  const auto get = [&](const v1::GetRequest& request) {
    grpc::ClientContext context;
    SetDeadline(context);
    const auto call = stub_->Get(&context, request);
    v1::GetFrame frame;
    while (call->Read(&frame)) {
    }
    return call->Finish().error_code();
  };
  v1::GetRequest request;
  request.set_fingerprint(hash);
  EXPECT_EQ(get(request), grpc::StatusCode::OK) << "nothing asked, nothing sent";
  request.add_keys("short");
  EXPECT_EQ(get(request), grpc::StatusCode::INVALID_ARGUMENT);
  request.clear_keys();
  for (size_t i = 0; i <= kMaxKeysPerCall; ++i) request.add_keys(hash + '\1' + hash);
  EXPECT_EQ(get(request), grpc::StatusCode::INVALID_ARGUMENT);
  request.clear_keys();
  request.set_fingerprint("f");
  EXPECT_EQ(get(request), grpc::StatusCode::INVALID_ARGUMENT);

  const auto lookup = [&](const v1::LookupRequest& query) {
    grpc::ClientContext context;
    SetDeadline(context);
    v1::LookupReply reply;
    return stub_->Lookup(&context, query, &reply).error_code();
  };
  v1::LookupRequest query;
  EXPECT_EQ(lookup(query), grpc::StatusCode::INVALID_ARGUMENT) << "no fingerprint";
  query.set_fingerprint(hash);
  EXPECT_EQ(lookup(query), grpc::StatusCode::OK);
  query.set_root("r");
  EXPECT_EQ(lookup(query), grpc::StatusCode::INVALID_ARGUMENT);
  query.clear_root();
  query.add_chain(hash + "x");
  EXPECT_EQ(lookup(query), grpc::StatusCode::INVALID_ARGUMENT);
  query.clear_chain();
  for (size_t i = 0; i <= kMaxChainKeys; ++i) query.add_chain(hash);
  EXPECT_EQ(lookup(query), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(HostileTest, StreamsWithoutADeadlineAreRefused) {
  Begin(16 << 20);
  {
    grpc::ClientContext context;
    const auto call = stub_->Put(&context);
    EXPECT_EQ(call->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  {
    grpc::ClientContext context;
    SetDeadline(context, 3600);
    v1::GetRequest request;
    request.set_fingerprint(std::string(32, 'f'));
    const auto call = stub_->Get(&context, request);
    EXPECT_EQ(call->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
}

TEST_F(HostileTest, AbortAndBrokenStreamsFreeTheirReservationsAtOnce) {
  Begin(16 << 20, {}, /*parked_share=*/0);
  const Object object = MakeObject(1, kRoot, 256, 4 << 20);
  grpc::ClientContext context;
  SetDeadline(context);
  const auto call = stub_->Put(&context);
  for (uint32_t id = 1; id <= 3; ++id) {
    ObjectHead head = object.head;
    head.key.hash = Hash(id);
    ASSERT_TRUE(call->Write(OpenFrame(id, head)));
    ASSERT_EQ(ReadReply(*call).value_or(v1::PutReply()).credit().bytes(), object.head.payload_bytes);
  }
  EXPECT_EQ(Stats().n_reservations, 3u);
  // A fourth does not fit, and says so instead of pushing anything out.
  ObjectHead fourth = object.head;
  fourth.key.hash = Hash(4);
  ASSERT_TRUE(call->Write(OpenFrame(4, fourth)));
  EXPECT_TRUE(ReadReply(*call).value_or(v1::PutReply()).has_busy());
  ASSERT_TRUE(call->Write(AbortFrame(2)));
  EXPECT_TRUE(Eventually([this] { return Stats().n_reservations == 2; }));
  ASSERT_TRUE(call->Write(DataFrame(1, 0, 1000)));
  const absl::Time before = clock_.Now();
  context.TryCancel();
  EXPECT_TRUE(Eventually([this] { return Stats().n_reservations == 0; }));
  EXPECT_LT(clock_.Now() - before, absl::Seconds(1));
  EXPECT_EQ(Stats().reserved_bytes, 0u);
  while (ReadReply(*call).has_value()) {
  }
  EXPECT_FALSE(call->Finish().ok());
  ASSERT_TRUE(Put(object).ok());
}

TEST_F(HostileTest, AClientThatVanishesGivesItsMemoryBack) {
  Begin(16 << 20);
  auto context = std::make_unique<grpc::ClientContext>();
  SetDeadline(*context);
  auto gone = NewStub();
  auto call = gone->Put(context.get());
  ASSERT_TRUE(call->Write(OpenFrame(1, MakeObject(1, kRoot, 256, 4 << 20).head)));
  ASSERT_TRUE(ReadReply(*call).has_value());
  EXPECT_EQ(Stats().n_reservations, 1u);
  // The call and its connection go away without a word.
  call.reset();
  context.reset();
  gone.reset();
  EXPECT_TRUE(Eventually([this] { return Stats().n_reservations == 0; }));
}

TEST_F(HostileTest, ADeadlineEndsAStreamThatHoldsMemoryAndDoesNothing) {
  Begin(16 << 20);
  grpc::ClientContext context;
  SetDeadline(context, 1);
  const auto call = stub_->Put(&context);
  ASSERT_TRUE(call->Write(OpenFrame(1, MakeObject(1, kRoot, 256, 4 << 20).head)));
  ASSERT_TRUE(ReadReply(*call).has_value());
  EXPECT_FALSE(ReadReply(*call).has_value());
  EXPECT_EQ(call->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(Eventually([this] { return Stats().n_reservations == 0; }));
}

TEST_F(HostileTest, OneStreamCannotOpenObjectsWithoutEnd) {
  ServerOptions options;
  options.open_objects_max = 4;
  Begin(16 << 20, options);
  std::vector<v1::PutFrame> frames;
  for (uint32_t id = 0; id < 6; ++id) frames.push_back(OpenFrame(id, MakeObject(id, kRoot, 256, 100).head));
  std::vector<v1::PutReply> replies;
  EXPECT_TRUE(Play(frames, &replies).ok());
  ASSERT_EQ(replies.size(), 6u);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(replies[i].has_credit(), i < 4) << i;
  EXPECT_TRUE(Eventually([this] { return Stats().n_reservations == 0; }));
}

TEST_F(HostileTest, StreamsBeyondTheLimitAreRefused) {
  ServerOptions options;
  options.streams_max = 3;
  Begin(16 << 20, options);
  grpc::ClientContext contexts[3];
  std::vector<std::unique_ptr<PutCall>> calls;
  for (uint32_t id = 0; id < 3; ++id) {
    SetDeadline(contexts[id]);
    calls.push_back(stub_->Put(&contexts[id]));
    ASSERT_TRUE(calls.back()->Write(OpenFrame(id, MakeObject(id, kRoot, 256, 100).head)));
    ASSERT_TRUE(ReadReply(*calls.back()).has_value());
  }
  EXPECT_EQ(Play({}).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  for (auto& context : contexts) context.TryCancel();
  calls.clear();
  EXPECT_TRUE(Eventually([&] { return Play({}).ok(); }));
}

TEST_F(HostileTest, ReadersThatStopReadingCostBoundedMemoryAndDoNotStopOthers) {
  ServerOptions options;
  Begin(256 << 20, options);
  const Object object = MakeObject(1, kRoot, 256, 48 << 20);
  ASSERT_TRUE(Put(object).ok());
  const uint64_t before = ResidentBytes();
  constexpr int kSlow = 40;
  std::vector<std::unique_ptr<v1::KvStore::Stub>> stubs;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GetFrame>>> calls;
  v1::GetRequest request;
  request.set_fingerprint(Bytes(FingerprintOf(1)));
  request.add_keys(PlacedKeyBytes(object.head.key));
  v1::GetFrame frame;
  for (int i = 0; i < kSlow; ++i) {
    stubs.push_back(NewStub());
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    SetDeadline(*contexts.back());
    calls.push_back(stubs.back()->Get(contexts.back().get(), request));
    ASSERT_TRUE(calls.back()->Read(&frame));  // the first frame, and nothing after it
  }
  EXPECT_EQ(*Get(object), object.payload) << "a healthy reader is served meanwhile";
  // Both ends of the streams live in this process: a frame and a small window each, beside one payload and its copy
  // for the healthy reader. Forty payloads would be 1.9 GB.
  EXPECT_LT(ResidentBytes() - before, uint64_t{kSlow} * (2 << 20) + (2 * (48 << 20)));
  for (auto& context : contexts) context->TryCancel();
  calls.clear();
  const ObjectKey keys[] = {object.head.key};
  store_->Drop(keys);
  EXPECT_TRUE(Eventually([this] { return Stats().used_bytes == 0; })) << "no reader holds on to it";
}

TEST_F(HostileTest, AFloodOfPutsFromManyStreamsStaysWithinTheLimit) {
  Begin(32 << 20);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 6; ++t) {
    threads.emplace_back([this, t] {
      const auto client = Connect();
      for (uint64_t round = 0; round < 4; ++round) {
        std::vector<Object> objects;
        std::vector<PutItem> puts;
        for (uint64_t i = 0; i < 8; ++i) objects.push_back(MakeObject(t * 1000 + round * 10 + i, kRoot, 256, 2 << 20));
        for (const Object& object : objects) puts.push_back(ItemOf(object));
        for (const auto& outcome : client->PutMany(puts, kTimeout)) {
          EXPECT_TRUE(outcome.ok() || outcome.status().code() == absl::StatusCode::kUnavailable) << outcome.status();
        }
        const StoreStats stats = Stats();
        EXPECT_LE(stats.used_bytes + stats.reserved_bytes, stats.capacity_bytes);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(Stats().n_evicted, 0u);
  EXPECT_TRUE(Eventually([this] { return Stats().n_reservations == 0; }));
}

TEST_F(HostileTest, HealthAndReflectionAnswerWithoutTheTokenAndNothingElseDoes) {
  Begin(16 << 20, {.token = "0123456789abcdef"});
  const auto channel = grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
  EXPECT_EQ(worker::CheckHealth(channel, ""), worker::HealthAnswer::kServing);
  EXPECT_EQ(worker::CheckHealth(channel, "longshelf.v1.KvStore"), worker::HealthAnswer::kServing);

  // ServerReflectionRequest{list_services: ""}.
  const std::string list_services = {7 << 3 | 2, 0};
  const grpc::Slice slice(list_services);
  grpc::ClientContext context;
  SetDeadline(context);
  using Raw = grpc::ByteBuffer;
  const grpc::internal::RpcMethod method("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                                         grpc::internal::RpcMethod::BIDI_STREAMING);
  const std::unique_ptr<grpc::ClientReaderWriter<Raw, Raw>> call(
      grpc::internal::ClientReaderWriterFactory<Raw, Raw>::Create(channel.get(), method, &context));
  ASSERT_TRUE(call->Write(Raw(&slice, 1)));
  Raw answer;
  ASSERT_TRUE(call->Read(&answer));
  grpc::Slice listed;
  ASSERT_TRUE(answer.DumpToSingleSlice(&listed).ok());
  const std::string text(reinterpret_cast<const char*>(listed.begin()), listed.size());
  EXPECT_NE(text.find("longshelf.v1.KvStore"), std::string::npos);
  call->WritesDone();
  while (call->Read(&answer)) {
  }
  EXPECT_TRUE(call->Finish().ok());

  EXPECT_EQ(Play({}).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  server_->SetNotServing();
  EXPECT_EQ(worker::CheckHealth(channel, "longshelf.v1.KvStore"), worker::HealthAnswer::kNotServing);
}

}  // namespace
}  // namespace longshelf::kvstore
