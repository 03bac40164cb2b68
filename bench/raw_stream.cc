#include "raw_stream.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <cstring>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "kvstore/object.h"
#include "longshelf/v1/kvstore.grpc.pb.h"
#include "proto/channel_settings.h"

namespace longshelf::kvstore {
namespace {

// All frames of the payloads, where they lie.
std::vector<grpc::Slice> FramesOf(std::span<const std::span<const std::byte>> payloads) {
  std::vector<grpc::Slice> frames;
  for (std::span<const std::byte> payload : payloads) {
    for (; !payload.empty(); payload = payload.subspan(std::min(payload.size(), kMaxFrameBytes))) {
      frames.emplace_back(payload.data(), std::min(payload.size(), kMaxFrameBytes), grpc::Slice::STATIC_SLICE);
    }
  }
  return frames;
}

// Where received frames go.
class Receiver {
 public:
  explicit Receiver(std::span<std::byte> target) : target_(target) {}
  void Take(grpc::ByteBuffer& frame) {
    std::vector<grpc::Slice> slices;
    LONGSHELF_CHECK(frame.Dump(&slices).ok());
    for (const grpc::Slice& slice : slices) {
      if (at_ + slice.size() > target_.size()) at_ = 0;
      std::memcpy(target_.data() + at_, slice.begin(), slice.size());
      at_ += slice.size();
    }
    frame.Clear();
  }

 private:
  const std::span<std::byte> target_;
  size_t at_ = 0;
};

// The service's names, none of its meaning.
class RawService final
    : public v1::KvStore::WithRawCallbackMethod_Get<v1::KvStore::WithRawCallbackMethod_Put<v1::KvStore::Service>> {
 public:
  RawService(const std::vector<grpc::Slice>& frames, std::span<std::byte> target) : frames_(frames), target_(target) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Get(grpc::CallbackServerContext*, const grpc::ByteBuffer*) override {
    auto stream = std::make_shared<Sender>(frames_);
    stream->self = stream;
    stream->Next();
    return stream.get();
  }
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Put(grpc::CallbackServerContext*) override {
    auto stream = std::make_shared<Taker>(target_);
    stream->self = stream;
    stream->Next();
    return stream.get();
  }

 private:
  struct Sender final : grpc::ServerWriteReactor<grpc::ByteBuffer> {
    explicit Sender(const std::vector<grpc::Slice>& all) : frames(all) {}
    void Next() {
      if (next == frames.size()) return Finish(grpc::Status::OK);
      out = grpc::ByteBuffer(&frames[next++], 1);
      StartWrite(&out);
    }
    void OnWriteDone(bool ok) override { ok ? Next() : Finish(grpc::Status::CANCELLED); }
    void OnDone() override { self.reset(); }
    std::shared_ptr<Sender> self;
    const std::vector<grpc::Slice>& frames;
    size_t next = 0;
    grpc::ByteBuffer out;
  };
  struct Taker final : grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
    explicit Taker(std::span<std::byte> target) : receiver(target) {}
    void Next() { StartRead(&frame); }
    void OnReadDone(bool ok) override {
      if (!ok) return Finish(grpc::Status::OK);
      receiver.Take(frame);
      Next();
    }
    void OnDone() override { self.reset(); }
    std::shared_ptr<Taker> self;
    Receiver receiver;
    grpc::ByteBuffer frame;
  };

  const std::vector<grpc::Slice>& frames_;
  const std::span<std::byte> target_;
};

// One call from the calling thread's side: sends these frames, reads whatever comes.
class RawCall final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  RawCall(const std::vector<grpc::Slice>& frames, std::span<std::byte> target) : frames_(frames), receiver_(target) {}

  void Run(grpc::GenericStub& stub, const char* method) {
    stub.PrepareBidiStreamingCall(&context_, method, {}, this);
    StartRead(&in_);
    Next();
    StartCall();
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [this] { return done_; });
  }
  void OnWriteDone(bool ok) override {
    if (ok) Next();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    receiver_.Take(in_);
    StartRead(&in_);
  }
  void OnDone(const grpc::Status& status) override {
    LONGSHELF_CHECK(status.ok());
    std::lock_guard lock(mutex_);
    done_ = true;
    ended_.notify_one();
  }

 private:
  void Next() {
    if (next_ == frames_.size()) return;
    out_ = grpc::ByteBuffer(&frames_[next_++], 1);
    next_ == frames_.size() ? StartWriteLast(&out_, {}) : StartWrite(&out_);
  }

  const std::vector<grpc::Slice>& frames_;
  size_t next_ = 0;
  Receiver receiver_;
  grpc::ClientContext context_;
  grpc::ByteBuffer in_;
  grpc::ByteBuffer out_;
  std::mutex mutex_;  // guards done_: the calling thread sleeps until gRPC's thread is through
  std::condition_variable ended_;
  bool done_ = false;
};

}  // namespace

struct RawStream::State {
  State(std::span<const std::span<const std::byte>> payloads, std::span<std::byte> into)
      : target(into), frames(FramesOf(payloads)), service(frames, into) {
    grpc::ServerBuilder builder;
    proto::ApplyInternalServerSettings(builder);
    proto::ApplyBulkSettings(builder);
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service);
    server = builder.BuildAndStart();
    grpc::ChannelArguments args = proto::InternalChannelArguments();
    proto::ApplyBulkSettings(args);
    stub = std::make_unique<grpc::GenericStub>(
        grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials(), args));
  }

  const std::span<std::byte> target;
  const std::vector<grpc::Slice> frames;
  RawService service;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<grpc::GenericStub> stub;
};

RawStream::RawStream(std::span<const std::span<const std::byte>> payloads, std::span<std::byte> target)
    : state_(std::make_unique<State>(payloads, target)) {}
RawStream::~RawStream() = default;

void RawStream::Get() {
  const std::vector<grpc::Slice> request = {grpc::Slice(std::string(1, 'q'))};
  RawCall(request, state_->target).Run(*state_->stub, "/longshelf.v1.KvStore/Get");
}

void RawStream::Put() { RawCall(state_->frames, state_->target).Run(*state_->stub, "/longshelf.v1.KvStore/Put"); }

}  // namespace longshelf::kvstore
