#include "get_service.h"

#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "frame_service.h"
#include "kvstore/wire_service.h"
#include "proto/grpc_status.h"

namespace longshelf::kvstore {

GetStream::GetStream(Edge& edge) : edge_(edge), slot_(edge) {}

GetStream* GetStream::Start(Edge& edge, const grpc::CallbackServerContext& context, const grpc::ByteBuffer& request) {
  auto stream = std::make_shared<GetStream>(edge);
  stream->self_ = stream;
  absl::Status status = edge.CheckStream(context);
  if (status.ok()) status = stream->slot_.Check();
  if (status.ok()) status = stream->Parse(request);
  if (status.ok()) {
    stream->WriteNext();
  } else {
    stream->Finish(proto::ToGrpc(status));
  }
  return stream.get();
}

absl::Status GetStream::Parse(const grpc::ByteBuffer& request) {
  grpc::ByteBuffer copy(request);  // shares the slices; the reader consumes its buffer
  grpc::ProtoBufferReader reader(&copy);
  v1::GetRequest parsed;
  if (!parsed.ParseFromZeroCopyStream(&reader)) return absl::InvalidArgumentError("not a GetRequest");
  if (static_cast<size_t>(parsed.keys_size()) > kMaxKeysPerCall) {
    return absl::InvalidArgumentError(absl::StrCat("keys: ", parsed.keys_size(), ", at most ", kMaxKeysPerCall));
  }
  ASSIGN_OR_RETURN(fingerprint_, HashFromWire(parsed.fingerprint(), "fingerprint"));
  keys_.reserve(static_cast<size_t>(parsed.keys_size()));
  for (const std::string& bytes : parsed.keys()) {
    ASSIGN_OR_RETURN(const PlacedKey placed, PlacedKeyFromWire(bytes));
    keys_.push_back(placed.key);
  }
  return absl::OkStatus();
}

void GetStream::OnWriteDone(bool ok) {
  if (ok) return WriteNext();
  reader_.reset();
  Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the stream broke"));
}

void GetStream::OnDone() {
  reader_.reset();
  const std::shared_ptr<GetStream> last = std::move(self_);
}

void GetStream::WriteNext() {
  if (reader_.has_value()) return WriteData();
  if (index_ == keys_.size()) return Finish(grpc::Status::OK);
  // Nothing else happens to the stream until this is answered: what it waits for is the next write.
  edge_.store.Fetch(keys_[index_], fingerprint_,
                    [this](absl::StatusOr<Store::Reader> found) { WriteFound(std::move(found)); });
}

void GetStream::WriteFound(absl::StatusOr<Store::Reader> found) {
  if (!found.ok()) return WriteError(found.status());
  reader_ = *std::move(found);
  WriteData();
}

void GetStream::WriteData() {
  const uint64_t offset = reader_->offset();
  const uint64_t left = reader_->head().payload_bytes - offset;
  const size_t n_payload = std::min<uint64_t>(left, kMaxFrameBytes);
  const bool last = n_payload == left;
  v1::ObjectHead head;
  if (offset == 0) HeadToWire(reader_->head(), &head);
  std::vector<grpc::Slice> frame = {MakeGetDataPrefix(index_, offset == 0 ? &head : nullptr, offset, last, n_payload)};
  Store::Reader::Runs runs;
  if (const absl::Status status = reader_->Lend(n_payload, runs); !status.ok()) {
    edge_.counters.get_corrupt.Increment();
    return WriteError(status);
  }
  // Their digest was checked before the last of them goes out; a bit that flips on the way the receiver finds by it.
  for (const auto& run : runs) frame.push_back(SliceOf(run, reader_->keeper()));
  edge_.counters.bytes_out.Increment(static_cast<double>(n_payload));
  if (last) {
    reader_.reset();
    ++index_;
  }
  frame_ = grpc::ByteBuffer(frame.data(), frame.size());
  StartWrite(&frame_);
}

void GetStream::WriteError(const absl::Status& status) {
  v1::GetFrame frame;
  frame.set_index(index_);
  ErrorToWire(status, frame.mutable_error());
  reader_.reset();
  ++index_;
  WriteMessage(frame);
}

void GetStream::WriteMessage(const v1::GetFrame& frame) {
  frame_ = SerializeFrame(frame);
  StartWrite(&frame_);
}

}  // namespace longshelf::kvstore
