#include "put_service.h"

#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "frame_service.h"
#include "kvstore/wire_service.h"
#include "proto/grpc_status.h"

namespace longshelf::kvstore {
namespace {

constexpr int kQueuedRepliesMax = 128;
// A full payload, opens, and what a newer writer may add.
constexpr size_t kFrameBytesMax = kMaxFrameBytes + (64 << 10);

std::span<const std::byte> AsBytes(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

}  // namespace

PutStream::PutStream(Edge& edge) : edge_(edge), slot_(std::in_place, edge) {}

PutStream* PutStream::Start(Edge& edge, const grpc::CallbackServerContext& context) {
  auto stream = std::make_shared<PutStream>(edge);
  stream->self_ = stream;
  absl::Status status = edge.CheckStream(context);
  if (status.ok()) status = stream->slot_->Check();
  if (status.ok()) {
    stream->StartRead(&stream->frame_);
  } else {
    stream->finished_ = true;
    stream->Finish(proto::ToGrpc(status));
  }
  return stream.get();
}

void PutStream::OnReadDone(bool ok) {
  if (!ok) return End(absl::OkStatus());
  if (const absl::Status status = Handle(); !status.ok()) return End(status);
  std::lock_guard lock(mutex_);
  if (finished_) return;
  // First: what comes next is taken while the replies are written.
  if (writing_ && replies_.replies_size() >= kQueuedRepliesMax) {
    read_paused_ = true;
  } else {
    StartRead(&frame_);
  }
  WriteReplies();
}

void PutStream::OnWriteDone(bool ok) {
  std::lock_guard lock(mutex_);
  writing_ = false;
  if (finished_) return;
  if (!ok) {
    replies_.Clear();
    end_ = absl::CancelledError("the stream broke");
  }
  WriteReplies();
  if (read_paused_ && !end_.has_value()) {
    read_paused_ = false;
    StartRead(&frame_);
  }
  MaybeFinish();
}

// Reservations go back before gRPC has wound down the call.
void PutStream::OnCancel() { End(absl::CancelledError("the stream broke")); }

void PutStream::OnDone() {
  FreeOpen();
  slot_.reset();
  const std::shared_ptr<PutStream> last = std::move(self_);
}

void PutStream::FreeOpen() {
  std::map<uint32_t, OpenObject> abandoned;
  {
    std::lock_guard lock(mutex_);
    abandoned.swap(open_);
  }
  edge_.counters.put_broken.Increment(static_cast<double>(abandoned.size()));
}

void PutStream::End(const absl::Status& status) {
  FreeOpen();
  std::lock_guard lock(mutex_);
  if (!end_.has_value() || end_->ok()) end_ = status;
  if (end_->ok()) WriteReplies();
  MaybeFinish();
}

void PutStream::MaybeFinish() {
  if (!end_.has_value() || finished_) return;
  // A failed stream does not wait for replies the client may never take.
  if (end_->ok() && (writing_ || !awaited_.empty())) return;
  finished_ = true;
  Finish(proto::ToGrpc(*end_));
}

void PutStream::Reply(v1::PutReply reply) {
  std::lock_guard lock(mutex_);
  ReplyLocked(std::move(reply));
}

void PutStream::ReplyLocked(v1::PutReply reply) { *replies_.add_replies() = std::move(reply); }

void PutStream::WriteReplies() {
  if (finished_ || writing_ || replies_.replies_size() == 0) return;
  written_ = SerializeFrame(replies_);
  replies_.Clear();
  writing_ = true;
  StartWrite(&written_);
}

Store::Durable PutStream::AwaitDisk(uint32_t object_id, bool durable) {
  if (!durable) return nullptr;
  std::lock_guard lock(mutex_);
  awaited_.emplace(object_id, Awaited());
  return [weak = weak_from_this(), object_id](const absl::Status& status) {
    if (const std::shared_ptr<PutStream> self = weak.lock(); self != nullptr) self->OnDisk(object_id, status);
  };
}

void PutStream::ForgetDisk(uint32_t object_id) {
  std::lock_guard lock(mutex_);
  awaited_.erase(object_id);
}

void PutStream::ReplyWhenDurable(v1::PutReply reply) {
  std::lock_guard lock(mutex_);
  const uint32_t object_id = reply.object_id();
  const auto it = awaited_.find(object_id);
  if (it == awaited_.end()) return ReplyLocked(std::move(reply));
  it->second.reply = std::move(reply);
  MaybeReplyDurable(object_id);
}

void PutStream::OnDisk(uint32_t object_id, const absl::Status& status) {
  std::lock_guard lock(mutex_);
  const auto it = awaited_.find(object_id);
  if (it == awaited_.end()) return;
  it->second.disk = status;
  MaybeReplyDurable(object_id);
  WriteReplies();
  MaybeFinish();
}

void PutStream::MaybeReplyDurable(uint32_t object_id) {
  const auto it = awaited_.find(object_id);
  if (!it->second.reply.has_value() || !it->second.disk.has_value()) return;
  v1::PutReply reply = *std::move(it->second.reply);
  if (!it->second.disk->ok()) ErrorToWire(*it->second.disk, reply.mutable_error());
  awaited_.erase(it);
  ReplyLocked(std::move(reply));
}

void PutStream::ReplyError(uint32_t object_id, const absl::Status& status) {
  v1::PutReply reply;
  reply.set_object_id(object_id);
  ErrorToWire(status, reply.mutable_error());
  Reply(std::move(reply));
}

void PutStream::ReplyOpenFailure(uint32_t object_id, const absl::Status& status) {
  if (status.code() != absl::StatusCode::kUnavailable) {
    edge_.counters.put_refused.Increment();
    return ReplyError(object_id, status);
  }
  edge_.counters.put_busy.Increment();
  v1::PutReply reply;
  reply.set_object_id(object_id);
  reply.mutable_busy()->set_retry_after_ms(kBusyRetryMs);
  Reply(std::move(reply));
}

absl::Status PutStream::Handle() {
  const size_t n_bytes = frame_.Length();
  if (n_bytes > kFrameBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("frame: ", n_bytes, " bytes, at most ", kFrameBytesMax));
  }
  {
    grpc::ByteBuffer frame(frame_);  // shares the slices: what is no plain data frame is read again
    grpc::ProtoBufferReader slices(&frame);
    if (!slices.status().ok()) return absl::InvalidArgumentError("frame: not readable");
    google::protobuf::io::CodedInputStream in(&slices);
    PutOpens opens;
    if (const auto head = ReadPutDataHead(in, n_bytes, &opens); head.has_value()) {
      RETURN_IF_ERROR(HandleOpens(opens));
      return TakePayload(*head, in);
    }
  }
  v1::PutFrame parsed;
  grpc::ProtoBufferReader slices(&frame_);
  if (!slices.status().ok() || !parsed.ParseFromZeroCopyStream(&slices)) {
    return absl::InvalidArgumentError("frame: not a PutFrame");
  }
  return HandleParsed(parsed);
}

absl::Status PutStream::HandleParsed(const v1::PutFrame& frame) {
  if (frame.opens().empty() && !frame.has_data() && !frame.has_abort()) {
    return absl::InvalidArgumentError("frame: nothing is set");
  }
  RETURN_IF_ERROR(HandleOpens(frame.opens()));
  if (frame.has_data()) RETURN_IF_ERROR(HandleData(frame.data()));
  return frame.has_abort() ? HandleAbort(frame.abort().object_id()) : absl::OkStatus();
}

absl::Status PutStream::HandleOpens(const PutOpens& opens) {
  if (opens.size() > kMaxOpensPerFrame) {
    return absl::InvalidArgumentError(
        absl::StrCat("opens: ", opens.size(), ", at most ", kMaxOpensPerFrame, " in a frame"));
  }
  for (const v1::PutOpen& open : opens) RETURN_IF_ERROR(HandleOpen(open));
  return absl::OkStatus();
}

absl::Status PutStream::HandleOpen(const v1::PutOpen& open) {
  const uint32_t id = open.object_id();
  if (++n_opened_ > kMaxKeysPerCall) {
    return absl::InvalidArgumentError(absl::StrCat("at most ", kMaxKeysPerCall, " objects per stream"));
  }
  size_t n_open = 0;
  {
    std::lock_guard lock(mutex_);
    if (open_.contains(id) || awaited_.contains(id))
      return absl::InvalidArgumentError(absl::StrCat("object_id: ", id, " is already open"));
    n_open = open_.size();
  }
  const absl::StatusOr<ObjectHead> head = OpenedHeadFromWire(open.head());
  if (!head.ok()) {
    ReplyOpenFailure(id, head.status());
    return absl::OkStatus();
  }
  if (n_open >= static_cast<size_t>(edge_.options.open_objects_max)) {
    ReplyOpenFailure(id, absl::UnavailableError("too many open objects"));
    return absl::OkStatus();
  }
  if (open.durable() && head->object_class != ObjectClass::kParked) {
    ReplyOpenFailure(id, absl::InvalidArgumentError("durable: only what is parked is"));
    return absl::OkStatus();
  }
  auto opened = edge_.store.Open(*head, edge_.clock.WallNow(), AwaitDisk(id, open.durable()));
  if (!opened.ok()) {
    ForgetDisk(id);
    ReplyOpenFailure(id, opened.status());
    return absl::OkStatus();
  }
  v1::PutReply reply;
  reply.set_object_id(id);
  if (const auto* exists = std::get_if<Store::Exists>(&*opened); exists != nullptr) {
    edge_.counters.put_existed.Increment();
    reply.mutable_exists()->set_xxh3_128(exists->digest.data(), exists->digest.size());
    ReplyWhenDurable(std::move(reply));
    return absl::OkStatus();
  }
  reply.mutable_credit()->set_bytes(head->payload_bytes);
  std::lock_guard lock(mutex_);
  awaited_.erase(id);  // again when it is committed
  // A cancelled stream has freed its reservations already and must not get new ones.
  if (end_.has_value()) return *end_;
  open_.emplace(id, OpenObject{std::get<Store::Reservation>(*std::move(opened)), open.durable()});
  ReplyLocked(std::move(reply));
  return absl::OkStatus();
}

absl::StatusOr<Store::Reservation*> PutStream::TargetOf(uint32_t object_id, size_t n_payload) {
  if (n_payload == 0 || n_payload > kMaxFrameBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("payload: ", n_payload, " bytes in a frame, must be 1 .. ", kMaxFrameBytes));
  }
  if (end_.has_value()) return *end_;
  const auto it = open_.find(object_id);
  if (it == open_.end()) {
    return absl::InvalidArgumentError(absl::StrCat("object_id: ", object_id, " has no credit"));
  }
  edge_.counters.bytes_in.Increment(static_cast<double>(n_payload));
  return &it->second.reservation;
}

absl::Status PutStream::TakePayload(const PutDataHead& head, google::protobuf::io::CodedInputStream& in) {
  RETURN_IF_ERROR(CopyPayload(head, in));
  return head.digest.has_value() ? HandleCommit(head.object_id, *head.digest) : absl::OkStatus();
}

// Copied under the lock, as in HandleData: OnCancel may free the pages at any moment. Nobody else waits for it.
absl::Status PutStream::CopyPayload(const PutDataHead& head, google::protobuf::io::CodedInputStream& in) {
  std::lock_guard lock(mutex_);
  ASSIGN_OR_RETURN(Store::Reservation * target, TargetOf(head.object_id, head.n_payload));
  uint64_t offset = head.offset;
  for (size_t n_left = head.n_payload; n_left > 0;) {
    const void* data = nullptr;
    int n_there = 0;
    if (!in.GetDirectBufferPointer(&data, &n_there)) return absl::InvalidArgumentError("payload: cut short");
    const size_t n = std::min(n_left, static_cast<size_t>(n_there));
    RETURN_IF_ERROR(target->Append(offset, {static_cast<const std::byte*>(data), n}));
    in.Skip(static_cast<int>(n));
    offset += n;
    n_left -= n;
  }
  return absl::OkStatus();
}

absl::Status PutStream::HandleData(const v1::PutData& data) {
  {
    std::lock_guard lock(mutex_);
    ASSIGN_OR_RETURN(Store::Reservation * target, TargetOf(data.object_id(), data.payload().size()));
    RETURN_IF_ERROR(target->Append(data.offset(), AsBytes(data.payload())));
  }
  if (data.xxh3_128().empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Digest digest, DigestFromWire(data.xxh3_128()));
  return HandleCommit(data.object_id(), digest);
}

absl::Status PutStream::HandleCommit(uint32_t object_id, const Digest& digest) {
  std::optional<OpenObject> open;
  {
    std::lock_guard lock(mutex_);
    const auto it = open_.find(object_id);
    if (it == open_.end()) return absl::InvalidArgumentError(absl::StrCat("object_id: ", object_id, " is not open"));
    open = std::move(it->second);
    open_.erase(it);
  }
  open->reservation.Announce(digest);
  auto committed =
      edge_.store.Commit(std::move(open->reservation), edge_.clock.WallNow(), AwaitDisk(object_id, open->durable));
  if (!committed.ok()) {
    ForgetDisk(object_id);
    if (committed.status().code() == absl::StatusCode::kDataLoss) edge_.counters.put_corrupt.Increment();
    ReplyError(object_id, committed.status());
    return absl::OkStatus();
  }
  v1::PutReply reply;
  reply.set_object_id(object_id);
  if (const auto* exists = std::get_if<Store::Exists>(&*committed); exists != nullptr) {
    edge_.counters.put_existed.Increment();
    reply.mutable_exists()->set_xxh3_128(exists->digest.data(), exists->digest.size());
  } else {
    edge_.counters.put_committed.Increment();
    reply.mutable_committed();
  }
  ReplyWhenDurable(std::move(reply));
  return absl::OkStatus();
}

absl::Status PutStream::HandleAbort(uint32_t object_id) {
  std::lock_guard lock(mutex_);
  if (open_.erase(object_id) == 0) {
    return absl::InvalidArgumentError(absl::StrCat("object_id: ", object_id, " is not open"));
  }
  return absl::OkStatus();
}

}  // namespace longshelf::kvstore
