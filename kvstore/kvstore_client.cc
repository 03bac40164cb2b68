// The gRPC side of kvstore/client.h.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "get_client.h"
#include "kvstore/client.h"
#include "longshelf/v1/kvstore.grpc.pb.h"
#include "proto/channel_settings.h"
#include "proto/grpc_status.h"
#include "proto/internal_auth.h"
#include "wire_service.h"

namespace longshelf::kvstore {
namespace {

constexpr absl::Duration kLongestTimeout = absl::Minutes(10);
// A dead node is given up after this and asked again at most this often.
constexpr int kConnectTimeoutMs = 1000;
// Objects whose answer to open is awaited or whose bytes are on their way, per PutMany.
constexpr size_t kPutWindow = 8;

absl::Status CheckCount(size_t n) {
  if (n <= kMaxKeysPerCall) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(n, " objects in one call, at most ", kMaxKeysPerCall));
}

// One PutMany: opens up to a window of objects, sends what gets credit, collects the answers.
class PutSender {
 public:
  using Stream = grpc::ClientReaderWriter<v1::PutFrame, v1::PutReply>;

  PutSender(std::span<const PutItem> items, std::vector<absl::StatusOr<PutOutcome>>& results)
      : items_(items), results_(results) {}

  // False when the stream broke, or the server broke the protocol.
  bool Run(Stream& stream) {
    while (next_ < items_.size() || n_open_ > 0) {
      while (next_ < items_.size() && n_open_ < kPutWindow) {
        if (!Open(stream, next_++)) return false;
      }
      if (n_open_ == 0) continue;
      v1::PutReply reply;
      if (!stream.Read(&reply)) return false;
      broke_protocol_ = true;
      if (!OnReply(stream, reply)) return false;
      broke_protocol_ = false;
    }
    return true;
  }

  bool broke_protocol() const { return broke_protocol_; }

 private:
  bool Open(Stream& stream, size_t index) {
    const PutItem& item = items_[index];
    if (item.payload.empty() || item.payload.size() > kMaxPayloadBytes) {
      results_[index] = absl::InvalidArgumentError(
          absl::StrCat("payload: ", item.payload.size(), " bytes, must be 1 .. ", kMaxPayloadBytes));
      return true;
    }
    ObjectHead head = item.head;
    head.payload_bytes = item.payload.size();
    head.digest = DigestOf(item.payload);
    digests_[index] = head.digest;
    v1::PutFrame frame;
    frame.mutable_open()->set_object_id(static_cast<uint32_t>(index));
    HeadToWire(head, frame.mutable_open()->mutable_head());
    ++n_open_;
    return Write(stream, frame);
  }

  bool OnReply(Stream& stream, const v1::PutReply& reply) {
    const auto digest = digests_.find(reply.object_id());
    if (digest == digests_.end()) return false;
    const size_t index = digest->first;
    switch (reply.reply_case()) {
      case v1::PutReply::kCredit:
        return SendPayload(stream, index);
      case v1::PutReply::kCommitted:
        Close(index, PutOutcome{.existed = false, .digest = digest->second});
        return true;
      case v1::PutReply::kExists: {
        PutOutcome outcome{.existed = true, .digest = {}};
        if (reply.exists().xxh3_128().size() != outcome.digest.size()) return false;
        std::memcpy(outcome.digest.data(), reply.exists().xxh3_128().data(), outcome.digest.size());
        Close(index, outcome);
        return true;
      }
      case v1::PutReply::kBusy:
        Close(index, absl::UnavailableError("the store has no memory now"));
        return true;
      case v1::PutReply::kError:
        Close(index, FromError(reply.error()));
        return true;
      case v1::PutReply::REPLY_NOT_SET:
        break;
    }
    return false;
  }

  bool Write(Stream& stream, const v1::PutFrame& frame) {
    if (stream.Write(frame)) return true;
    broke_protocol_ = false;
    return false;
  }

  bool SendPayload(Stream& stream, size_t index) {
    const std::span<const std::byte> payload = items_[index].payload;
    v1::PutFrame frame;
    for (size_t at = 0; at < payload.size(); at += kMaxFrameBytes) {
      const size_t n = std::min(kMaxFrameBytes, payload.size() - at);
      v1::PutData* data = frame.mutable_data();
      data->set_object_id(static_cast<uint32_t>(index));
      data->set_offset(at);
      data->set_payload(payload.data() + at, n);
      if (!Write(stream, frame)) return false;
    }
    frame.mutable_commit()->set_object_id(static_cast<uint32_t>(index));
    return Write(stream, frame);
  }

  void Close(size_t index, absl::StatusOr<PutOutcome> outcome) {
    results_[index] = std::move(outcome);
    digests_.erase(index);
    --n_open_;
  }

  const std::span<const PutItem> items_;
  std::vector<absl::StatusOr<PutOutcome>>& results_;
  std::map<size_t, Digest> digests_;  // of open objects
  size_t next_ = 0;
  size_t n_open_ = 0;
  bool broke_protocol_ = false;
};

class GrpcClient final : public Client {
 public:
  explicit GrpcClient(const ClientOptions& options) : token_(options.token) {
    grpc::ChannelArguments args = proto::InternalChannelArguments();
    args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectTimeoutMs);
    args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kConnectTimeoutMs);
    args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_ = grpc::CreateCustomChannel(options.address, grpc::InsecureChannelCredentials(), args);
    stub_ = v1::KvStore::NewStub(channel_);
  }

  absl::StatusOr<LookupResult> Lookup(const LookupQuery& query, absl::Duration timeout) override {
    v1::LookupRequest request;
    QueryToWire(query, &request);
    v1::LookupReply reply;
    RETURN_IF_ERROR(Unary(&v1::KvStore::Stub::Lookup, request, reply, timeout));
    if (reply.n_present() > query.chain.size()) return absl::InternalError("the store found more than was asked for");
    return ResultFromWire(reply);
  }

  absl::Status Get(const Fingerprint& fingerprint, std::span<const GetItem> items, absl::Duration timeout,
                   const OnObject& on_object) override {
    GetReceiver receiver(fingerprint, items, on_object);
    const absl::Status status = RunGet(fingerprint, items, timeout, receiver);
    receiver.Fail(status);
    return status;
  }

  std::vector<absl::StatusOr<PutOutcome>> PutMany(std::span<const PutItem> items, absl::Duration timeout) override {
    std::vector<absl::StatusOr<PutOutcome>> results(items.size(), absl::UnknownError(""));
    const absl::Status status = RunPut(items, timeout, results);
    for (auto& result : results) {
      if (result.status().code() != absl::StatusCode::kUnknown) continue;
      result = status.ok() ? absl::InternalError("the store gave no reason") : status;
    }
    return results;
  }

  absl::StatusOr<TouchResult> Touch(std::span<const ObjectKey> keys, absl::Time retain_until,
                                    absl::Duration timeout) override {
    RETURN_IF_ERROR(CheckCount(keys.size()));
    v1::TouchRequest request;
    for (const ObjectKey& key : keys) request.add_keys(KeyToWire(key));
    request.set_retain_until_unix_ms(RetentionToWire(retain_until));
    v1::TouchReply reply;
    RETURN_IF_ERROR(Unary(&v1::KvStore::Stub::Touch, request, reply, timeout));
    return TouchResult{.n_present = reply.n_present(), .n_refused = reply.n_refused()};
  }

  absl::StatusOr<DropResult> Drop(std::span<const ObjectKey> keys, absl::Duration timeout) override {
    RETURN_IF_ERROR(CheckCount(keys.size()));
    v1::DropRequest request;
    for (const ObjectKey& key : keys) request.add_keys(KeyToWire(key));
    return RunDrop(request, timeout);
  }

  absl::StatusOr<DropResult> DropNamespace(std::string_view namespace_id, absl::Duration timeout) override {
    if (namespace_id.empty()) return absl::InvalidArgumentError("namespace_id: empty");
    v1::DropRequest request;
    request.set_namespace_id(namespace_id.data(), namespace_id.size());
    return RunDrop(request, timeout);
  }

  absl::StatusOr<StoreStats> Stats(absl::Duration timeout) override {
    v1::StatsReply reply;
    RETURN_IF_ERROR(Unary(&v1::KvStore::Stub::Stats, v1::StatsRequest(), reply, timeout));
    return StatsFromWire(reply);
  }

 private:
  void Prepare(grpc::ClientContext& context, absl::Duration timeout) const {
    const absl::Duration bounded = std::clamp(timeout, absl::ZeroDuration(), kLongestTimeout);
    context.set_deadline(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                      gpr_time_from_micros(absl::ToInt64Microseconds(bounded), GPR_TIMESPAN)));
    proto::AddToken(context, token_);
  }

  template <typename Method, typename Request, typename Reply>
  absl::Status Unary(Method method, const Request& request, Reply& reply, absl::Duration timeout) {
    grpc::ClientContext context;
    Prepare(context, timeout);
    return proto::FromGrpc(((*stub_).*method)(&context, request, &reply));
  }

  absl::StatusOr<DropResult> RunDrop(const v1::DropRequest& request, absl::Duration timeout) {
    v1::DropReply reply;
    RETURN_IF_ERROR(Unary(&v1::KvStore::Stub::Drop, request, reply, timeout));
    return DropResult{.n_dropped = reply.n_dropped(), .bytes_dropped = reply.bytes_dropped()};
  }

  absl::Status RunGet(const Fingerprint& fingerprint, std::span<const GetItem> items, absl::Duration timeout,
                      GetReceiver& receiver) {
    RETURN_IF_ERROR(CheckCount(items.size()));
    v1::GetRequest request;
    request.set_fingerprint(HashToWire(fingerprint));
    for (const GetItem& item : items) request.add_keys(KeyToWire(item.key));
    grpc::ClientContext context;
    Prepare(context, timeout);
    // What the generated Get does, with frames left as they came.
    const grpc::internal::RpcMethod method("/longshelf.v1.KvStore/Get", grpc::internal::RpcMethod::SERVER_STREAMING);
    const std::unique_ptr<grpc::ClientReader<grpc::ByteBuffer>> reader(
        grpc::internal::ClientReaderFactory<grpc::ByteBuffer>::Create(channel_.get(), method, &context, request));
    grpc::ByteBuffer frame;
    absl::Status broken;
    while (broken.ok() && reader->Read(&frame)) {
      broken = receiver.OnFrame(frame);
    }
    if (!broken.ok()) context.TryCancel();
    const absl::Status finished = proto::FromGrpc(reader->Finish());
    RETURN_IF_ERROR(broken);
    RETURN_IF_ERROR(finished);
    if (!receiver.complete()) return absl::InternalError("the store answered for fewer objects than were asked for");
    return absl::OkStatus();
  }

  absl::Status RunPut(std::span<const PutItem> items, absl::Duration timeout,
                      std::vector<absl::StatusOr<PutOutcome>>& results) {
    RETURN_IF_ERROR(CheckCount(items.size()));
    grpc::ClientContext context;
    Prepare(context, timeout);
    const auto stream = stub_->Put(&context);
    PutSender sender(items, results);
    const bool complete = sender.Run(*stream);
    if (complete) {
      stream->WritesDone();
    } else if (sender.broke_protocol()) {
      context.TryCancel();
    } else {
      // The status comes after the last reply.
      v1::PutReply unread;
      while (stream->Read(&unread)) {
      }
    }
    const absl::Status finished = proto::FromGrpc(stream->Finish());
    if (complete) return absl::OkStatus();
    if (sender.broke_protocol()) return absl::InternalError("the store answered a put out of turn");
    return finished.ok() ? absl::UnavailableError("the store ended a put early") : finished;
  }

  const std::string token_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::KvStore::Stub> stub_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> MakeClient(const ClientOptions& options) {
  const size_t colon = options.address.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == options.address.size()) {
    return absl::InvalidArgumentError(absl::StrCat("store address ", options.address, ": must be host:port"));
  }
  if (!options.token.empty()) {
    RETURN_IF_ERROR(proto::SharedToken::FromString(options.token).status());
  }
  return std::make_unique<GrpcClient>(options);
}

}  // namespace longshelf::kvstore
