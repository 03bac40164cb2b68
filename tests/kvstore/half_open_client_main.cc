// A client that opens streams, tells on standard error how many, and then does nothing until it is killed:
//   half_open_client PORT puts FIRST N BYTES    Put streams that have credit for an object and send none of it
//   half_open_client PORT gets N OBJECT...      Get streams whose reader takes one frame
//   half_open_client PORT requests N BYTES      Get calls whose request does not end
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "half_open_requests.h"
#include "longshelf/v1/kvstore.grpc.pb.h"
#include "objects.h"
#include "proto/channel_settings.h"
#include "wire_heads.h"

namespace longshelf::kvstore {
namespace {

using PutCall = grpc::ClientReaderWriter<v1::PutFrame, v1::PutReplies>;
using GetCall = grpc::ClientReader<v1::GetFrame>;

constexpr uint64_t kStreamsPerConnection = 100;

uint64_t NumberOf(const char* text) { return std::strtoull(text, nullptr, 10); }

template <typename Call>
class Streams {
 public:
  explicit Streams(const std::string& port) : address_("127.0.0.1:" + port) {}

  // `open` makes the call, `is_held` waits for the first answer.
  template <typename Open, typename IsHeld>
  void Add(Open open, IsHeld is_held) {
    if (n_added_++ % kStreamsPerConnection == 0) {
      grpc::ChannelArguments args = proto::InternalChannelArguments();
      args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      args.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
      stubs_.push_back(
          v1::KvStore::NewStub(grpc::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(), args)));
    }
    auto context = std::make_unique<grpc::ClientContext>();
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(5));
    std::unique_ptr<Call> call = open(*stubs_.back(), *context);
    if (is_held(*call, *context)) {
      held_.emplace_back(std::move(context), std::move(call));
      return;
    }
    ++n_refused_;
    status_ = call->Finish();
  }

  void Report() const {
    std::fprintf(stderr, "held %zu refused %zu code %d message %s\n", held_.size(), n_refused_, status_.error_code(),
                 status_.error_message().c_str());
  }

 private:
  const std::string address_;
  uint64_t n_added_ = 0;
  std::vector<std::unique_ptr<v1::KvStore::Stub>> stubs_;
  std::vector<std::pair<std::unique_ptr<grpc::ClientContext>, std::unique_ptr<Call>>> held_;
  size_t n_refused_ = 0;
  grpc::Status status_;  // of the last that was refused
};

Streams<PutCall> HoldPuts(const std::string& port, uint64_t first, uint64_t n, uint64_t n_bytes) {
  Streams<PutCall> streams(port);
  ObjectHead head = MakeObject(0, uint64_t{1} << 40, 256, 1).head;
  head.payload_bytes = n_bytes;
  for (uint64_t id = first; id < first + n; ++id) {
    head.key.hash = Hash(id);
    v1::PutFrame frame;
    FillOpenedHead(head, frame.add_opens()->mutable_head());
    streams.Add([](auto& stub, auto& context) { return stub.Put(&context); },
                [&](PutCall& call, grpc::ClientContext& context) {
                  v1::PutReplies replies;
                  if (!call.Write(frame) || !call.Read(&replies)) return false;
                  if (!replies.replies(0).has_credit()) context.TryCancel();  // busy
                  return replies.replies(0).has_credit();
                });
  }
  return streams;
}

Streams<GetCall> HoldGets(const std::string& port, uint64_t n, std::span<char* const> objects) {
  Streams<GetCall> streams(port);
  v1::GetRequest request;
  request.set_fingerprint(Bytes(FingerprintOf(1)));
  for (const char* object : objects) request.add_keys(PlacedKeyBytes(BlockKeyOf(NumberOf(object))));
  for (uint64_t i = 0; i < n; ++i) {
    streams.Add([&](auto& stub, auto& context) { return stub.Get(&context, request); },
                [](GetCall& call, grpc::ClientContext&) {
                  v1::GetFrame frame;
                  return call.Read(&frame) && frame.has_data();
                });
  }
  return streams;
}

void HoldRequests(const std::string& port, uint64_t n, uint64_t n_bytes) {
  HalfOpenRequests requests(static_cast<uint16_t>(NumberOf(port.c_str())));
  for (uint64_t i = 0; i < n; ++i) {
    requests.Begin("/longshelf.v1.KvStore/Get", static_cast<uint32_t>(n_bytes) + 1, n_bytes);
  }
  std::fprintf(stderr, "begun %lu reset %d\n", static_cast<unsigned long>(n), requests.n_reset());
  requests.Hold();
}

[[noreturn]] void HoldUntilKilled() {
  while (true) pause();
}

}  // namespace
}  // namespace longshelf::kvstore

int main(int argc, char** argv) {
  using namespace longshelf::kvstore;  // NOLINT
  if (argc < 5) return 64;
  const std::string port = argv[1];
  const std::string mode = argv[2];
  if (mode == "requests") HoldRequests(port, NumberOf(argv[3]), NumberOf(argv[4]));
  if (mode == "puts" && argc == 6) {
    const auto streams = HoldPuts(port, NumberOf(argv[3]), NumberOf(argv[4]), NumberOf(argv[5]));
    streams.Report();
    HoldUntilKilled();
  }
  if (mode == "gets") {
    const auto streams = HoldGets(port, NumberOf(argv[3]), std::span(argv + 4, static_cast<size_t>(argc - 4)));
    streams.Report();
    HoldUntilKilled();
  }
  return 64;
}
