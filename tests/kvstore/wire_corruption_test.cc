// Bits flipped between store and reader: first in the messages, where nothing but our digests can see it, then in the
// TCP stream, where HTTP/2 often falls over first. The outcome may be any error, never other bytes.
#include <grpcpp/grpcpp.h>

#include <functional>
#include <random>
#include <thread>

#include "longshelf/v1/kvstore.grpc.pb.h"
#include "service_fixture.h"
#include "tcp_relay.h"

namespace longshelf::kvstore {
namespace {

constexpr uint64_t kRoot = 1 << 20;

// Forwards Put and Get to a real node and lets `spoil` at every serialized message on its way to the receiver.
class SpoilingProxy final : public v1::KvStore::Service {
 public:
  explicit SpoilingProxy(const std::string& upstream)
      : stub_(v1::KvStore::NewStub(grpc::CreateChannel(upstream, grpc::InsecureChannelCredentials()))) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

  grpc::Status Get(grpc::ServerContext* context, const v1::GetRequest* request,
                   grpc::ServerWriter<v1::GetFrame>* writer) override {
    const auto upstream_context = grpc::ClientContext::FromServerContext(*context);
    const auto reader = stub_->Get(upstream_context.get(), *request);
    v1::GetFrame frame;
    int n_frames = 0;
    while (reader->Read(&frame)) {
      if (!writer->Write(Spoiled(frame, n_frames++))) upstream_context->TryCancel();
    }
    return reader->Finish();
  }

  grpc::Status Put(grpc::ServerContext* context,
                   grpc::ServerReaderWriter<v1::PutReplies, v1::PutFrame>* stream) override {
    const auto upstream_context = grpc::ClientContext::FromServerContext(*context);
    const auto upstream = stub_->Put(upstream_context.get());
    // Replies on a thread of their own.
    std::thread replies([&] {
      v1::PutReplies some;
      while (upstream->Read(&some)) stream->Write(some);
    });
    v1::PutFrame frame;
    int n_frames = 0;
    while (stream->Read(&frame)) {
      if (!upstream->Write(Spoiled(frame, n_frames++))) break;
    }
    upstream->WritesDone();
    replies.join();
    return upstream->Finish();
  }

  // (frame number, serialized bytes): may change the bytes.
  std::function<void(int, std::string&)> spoil;

 private:
  template <typename Message>
  Message Spoiled(const Message& message, int number) {
    std::string bytes = message.SerializeAsString();
    spoil(number, bytes);
    Message out;
    // What no longer parses would be dropped by gRPC itself; pass on the part that does.
    (void)out.ParsePartialFromString(bytes);
    return out;
  }

  std::unique_ptr<v1::KvStore::Stub> stub_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

class WireCorruptionTest : public ServiceFixture {};

TEST_F(WireCorruptionTest, AFlippedBitInAnyGetFrameNeverReachesTheReader) {
  Start(16 << 20);
  const Object a = MakeObject(1, kRoot, 256, 3000);
  const Object b = MakeObject(2, kRoot, 256, kMaxFrameBytes + 5000);
  ASSERT_TRUE(Put(a).ok());
  ASSERT_TRUE(Put(b).ok());
  SpoilingProxy proxy(address_);
  const Connection client({.address = proxy.address()});
  const GetItem items[] = {WantOf(a), WantOf(b)};
  std::mt19937_64 random(3);
  int n_refused = 0;
  constexpr int kFrames = 3;  // head and data; head and data, data
  constexpr int kRounds = 60;
  for (int round = 0; round < kRounds; ++round) {
    const int target = round % kFrames;
    bool flipped = false;
    proxy.spoil = [&](int number, std::string& bytes) {
      if (number != target) return;
      // Half of the time in the fields, which come first.
      const size_t range = random() % 2 == 0 ? std::min<size_t>(bytes.size(), 160) : bytes.size();
      const size_t bit = random() % (range * 8);
      bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
      flipped = true;
    };
    const auto got = client->GetMany(FingerprintOf(1), items, kTimeout);
    ASSERT_TRUE(flipped);
    ASSERT_TRUE(!got[0].ok() || *got[0] == a.payload) << round;
    ASSERT_TRUE(!got[1].ok() || *got[1] == b.payload) << round;
    n_refused += !got[0].ok() || !got[1].ok();
  }
  EXPECT_GT(n_refused, kRounds / 2) << "the flips must have been seen at all";
}

TEST_F(WireCorruptionTest, EveryPayloadBitFlippedOnTheWayOutIsDataLoss) {
  Start(16 << 20);
  const Object object = MakeObject(1, kRoot, 256, 2 * kMaxFrameBytes);
  ASSERT_TRUE(Put(object).ok());
  SpoilingProxy proxy(address_);
  const Connection client({.address = proxy.address()});
  const GetItem items[] = {WantOf(object)};
  std::mt19937_64 random(4);
  for (int round = 0; round < 20; ++round) {
    proxy.spoil = [&](int number, std::string& bytes) {
      if (number != round % 2) return;
      const size_t at = 512 + random() % (bytes.size() - 512);  // behind the head
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << (random() % 8)));
    };
    EXPECT_EQ(client->GetMany(FingerprintOf(1), items, kTimeout)[0].status().code(), absl::StatusCode::kDataLoss);
  }
}

TEST_F(WireCorruptionTest, AFlippedBitInAnyPutFrameIsNeverServedLater) {
  Start(64 << 20);
  SpoilingProxy proxy(address_);
  const Connection client({.address = proxy.address()});
  std::mt19937_64 random(5);
  int n_refused = 0;
  constexpr int kRounds = 60;
  for (int round = 0; round < kRounds; ++round) {
    const Object object = MakeObject(100 + static_cast<uint64_t>(round), kRoot, 256, kMaxFrameBytes + 9000);
    const int target = round % 3;  // open, data, last data
    proxy.spoil = [&](int number, std::string& bytes) {
      if (number != target || bytes.empty()) return;
      const size_t range = random() % 2 == 0 ? std::min<size_t>(bytes.size(), 200) : bytes.size();
      const size_t bit = random() % (range * 8);
      bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    };
    const PutItem puts[] = {ItemOf(object)};
    // A frame may have become one that waits for nothing, so the put is cut short.
    n_refused += !client->PutMany(puts, absl::Milliseconds(400))[0].ok();
    const auto got = Get(object);
    ASSERT_TRUE(!got.ok() || *got == object.payload) << round;
  }
  EXPECT_GT(n_refused, kRounds / 3);
  const absl::Time deadline = clock_.Now() + absl::Seconds(10);
  while (Stats().n_reservations > 0 && clock_.Now() < deadline) std::this_thread::yield();
  EXPECT_EQ(Stats().n_reservations, 0u);
}

TEST_F(WireCorruptionTest, AFlippedBitAnywhereInTheTcpStreamNeverChangesAnObject) {
  Start(16 << 20);
  const Object object = MakeObject(1, kRoot, 256, 200000);
  ASSERT_TRUE(Put(object).ok());
  const GetItem items[] = {WantOf(object)};
  std::mt19937_64 random(6);
  int n_refused = 0;
  for (int round = 0; round < 40; ++round) {
    // The first kilobyte holds settings, headers and the object's head.
    const size_t flip_at = round < 20 ? random() % 1000 : random() % 200000;
    TcpRelay relay(server_->port(), {.from_upstream = [flip_at](size_t offset, std::span<char> bytes) {
                     if (offset <= flip_at && flip_at < offset + bytes.size()) {
                       bytes[flip_at - offset] = static_cast<char>(bytes[flip_at - offset] ^ 4);
                     }
                     return TcpRelay::Verdict{.n_passed = bytes.size()};
                   }});
    const Connection client({.address = absl::StrCat("127.0.0.1:", relay.port())});
    const auto got = client->GetMany(FingerprintOf(1), items, absl::Seconds(2))[0];
    if (got.ok()) {
      EXPECT_TRUE(*got == object.payload) << round;
    } else {
      ++n_refused;
    }
  }
  EXPECT_GE(n_refused, 20);
}

}  // namespace
}  // namespace longshelf::kvstore
