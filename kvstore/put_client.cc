#include "put_client.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "frame_service.h"
#include "proto/grpc_status.h"
#include "wire_service.h"

namespace longshelf::kvstore {
namespace {

// Objects whose answer to open is awaited or whose bytes are on their way. Far below what a store lets one stream open.
constexpr size_t kOpenMax = 8;

absl::Status CheckOffer(const PutItem& item, size_t index) {
  if (index >= kMaxKeysPerCall) {
    return absl::InvalidArgumentError(absl::StrCat("more than ", kMaxKeysPerCall, " objects in one call"));
  }
  const size_t n_bytes = item.payload == nullptr ? 0 : item.payload->size();
  if (n_bytes > 0 && n_bytes <= kMaxPayloadBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("payload: ", n_bytes, " bytes, must be 1 .. ", kMaxPayloadBytes));
}

// Bytes of a payload as gRPC wants them, which keep the payload.
grpc::Slice SliceOf(const Payload& payload, size_t offset, size_t n) {
  auto owner = std::make_unique<Payload>(payload);
  // gRPC does not write to what it sends.
  auto* const bytes = const_cast<std::byte*>(payload->data() + offset);
  const auto release = [](void* kept) { std::unique_ptr<Payload>(static_cast<Payload*>(kept)).reset(); };
  return {bytes, n, release, owner.release()};
}

}  // namespace

PutCallReactor::PutCallReactor(std::shared_ptr<CallRegistry> calls, Client::PutEvents events)
    : calls_(std::move(calls)), events_(std::move(events)) {}

void PutCallReactor::Start() {
  AddHold();
  StartRead(&reply_);
  StartCall();
}

void PutCallReactor::Offer(PutItem item) {
  // Outside the lock: the one part of an offer that takes time.
  if (item.payload != nullptr) {
    item.head.payload_bytes = item.payload->size();
    item.head.digest = DigestOf(*item.payload);
  }
  {
    std::lock_guard lock(mutex_);
    if (finish_requested_ || cancelled_ || ended_) return;
    const size_t index = n_offered_++;
    const absl::Status status = CheckOffer(item, index);
    if (status.ok()) {
      const auto id = static_cast<ObjectId>(index);
      objects_.emplace(id, Object{.item = std::move(item)});
      queued_.push_back(id);
      return WriteNext();
    }
    callbacks_.Post([this, index, status] { events_.on_outcome(index, status); });
  }
  callbacks_.Run();
}

void PutCallReactor::FinishOffers() {
  std::lock_guard lock(mutex_);
  if (std::exchange(finish_requested_, true)) return;
  WriteNext();
}

void PutCallReactor::Cancel() {
  std::lock_guard lock(mutex_);
  cancelled_ = true;
  if (context_.has_value()) context_->TryCancel();
  DropHold();
}

void PutCallReactor::DropHold() {
  if (std::exchange(holds_, false)) RemoveHold();
}

void PutCallReactor::OnReadDone(bool ok) {
  {
    std::lock_guard lock(mutex_);
    if (!ok) return DropHold();
    if (!OnReply()) {
      broken_ = absl::InternalError("the store answered a put out of turn");
      context_->TryCancel();
      return DropHold();
    }
    WriteNext();
    StartRead(&reply_);
  }
  callbacks_.Run();
}

void PutCallReactor::OnWriteDone(bool ok) {
  std::lock_guard lock(mutex_);
  writing_ = false;
  frame_.Clear();
  if (!ok) return DropHold();
  WriteNext();
}

bool PutCallReactor::OnReply() {
  const auto object = objects_.find(reply_.object_id());
  if (object == objects_.end()) return false;
  const Stage stage = object->second.stage;
  switch (reply_.reply_case()) {
    case v1::PutReply::kCredit:
      if (stage != Stage::kOpened) return false;
      object->second.stage = Stage::kCredited;
      credited_.push_back(object->first);
      return true;
    case v1::PutReply::kCommitted:
      if (stage != Stage::kSent) return false;
      Answer(object, PutOutcome{.digest = object->second.item.head.digest});
      return true;
    case v1::PutReply::kExists:
      return (stage == Stage::kOpened || stage == Stage::kSent) && OnExists(object);
    case v1::PutReply::kBusy:
      if (stage != Stage::kOpened) return false;
      Answer(object, absl::UnavailableError("the store has no memory now"));
      return true;
    case v1::PutReply::kError:
      if (stage != Stage::kOpened && stage != Stage::kSent) return false;
      Answer(object, ErrorFromWire(reply_.error()));
      return true;
    case v1::PutReply::REPLY_NOT_SET:
      break;
  }
  return false;
}

bool PutCallReactor::OnExists(Objects::iterator object) {
  PutOutcome outcome{.existed = true};
  const std::string& digest = reply_.exists().xxh3_128();
  if (digest.size() != outcome.digest.size()) return false;
  std::memcpy(outcome.digest.data(), digest.data(), digest.size());
  outcome.conflicts = outcome.digest != object->second.item.head.digest;
  Answer(object, outcome);
  return true;
}

void PutCallReactor::Answer(Objects::iterator object, absl::StatusOr<PutOutcome> outcome) {
  // The payload goes with the callback: whatever its end sets off happens outside the lock.
  callbacks_.Post([this, id = object->first, payload = std::move(object->second.item.payload),
                   outcome = std::move(outcome)] { events_.on_outcome(id, outcome); });
  objects_.erase(object);
  --n_open_;
}

void PutCallReactor::WriteNext() {
  if (writing_ || !holds_) return;
  if (!queued_.empty() && n_open_ < kOpenMax) {
    // Before payloads: the store's answer is on its way while they are sent.
    WriteOpen(queued_.front());
  } else if (!credited_.empty()) {
    const ObjectId id = credited_.front();
    const Object& object = objects_.at(id);
    object.n_sent < object.item.payload->size() ? WritePayload(id) : WriteCommit(id);
  } else if (finish_requested_ && objects_.empty()) {
    StartWritesDone();
    return DropHold();
  } else {
    return;
  }
  writing_ = true;
  StartWrite(&frame_);
}

void PutCallReactor::WriteOpen(ObjectId id) {
  queued_.pop_front();
  ++n_open_;
  Object& object = objects_.at(id);
  object.stage = Stage::kOpened;
  v1::PutFrame frame;
  frame.mutable_open()->set_object_id(id);
  frame.mutable_open()->set_durable(IsDurable(object.item.ack));
  HeadToWire(object.item.head, frame.mutable_open()->mutable_head());
  frame_ = SerializeFrame(frame);
}

void PutCallReactor::WritePayload(ObjectId id) {
  Object& object = objects_.at(id);
  const Payload& payload = object.item.payload;
  const size_t n = std::min(kMaxFrameBytes, payload->size() - object.n_sent);
  const grpc::Slice slices[] = {MakePutDataPrefix(id, object.n_sent, n), SliceOf(payload, object.n_sent, n)};
  object.n_sent += n;
  frame_ = grpc::ByteBuffer(slices, 2);
}

void PutCallReactor::WriteCommit(ObjectId id) {
  credited_.pop_front();
  objects_.at(id).stage = Stage::kSent;
  v1::PutFrame frame;
  frame.mutable_commit()->set_object_id(id);
  frame_ = SerializeFrame(frame);
}

void PutCallReactor::OnDone(const grpc::Status& status) {
  absl::Status ended;
  {
    std::lock_guard lock(mutex_);
    ended = broken_;
    const bool complete = finish_requested_ && objects_.empty();
    if (ended.ok() && cancelled_ && !complete) ended = absl::CancelledError("cancelled by its caller");
    if (ended.ok()) ended = proto::FromGrpc(status);
    if (ended.ok() && !complete) ended = absl::UnavailableError("the store ended a put early");
  }
  End(ended);
}

void PutCallReactor::End(const absl::Status& status) {
  const std::shared_ptr<PutCallReactor> self = shared_from_this();
  Objects unanswered;
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
    context_.reset();
    unanswered.swap(objects_);
    for (const auto& [id, object] : unanswered) {
      callbacks_.Post([this, index = id, status] { events_.on_outcome(index, status); });
    }
    callbacks_.Post([this, status] {
      events_.on_done(status);
      events_ = {};
      calls_->Remove(*this);
    });
  }
  callbacks_.Run();
}

}  // namespace longshelf::kvstore
