#include "put_client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "frame_service.h"
#include "kvstore/wire_service.h"
#include "proto/grpc_status.h"

namespace longshelf::kvstore {
namespace {

// Objects whose answer to open is awaited or whose bytes are on their way. Far below what a store lets one stream open.
constexpr size_t kOpenMax = 12;
// When so few are left the next are opened, all in one frame.
constexpr size_t kOpenLow = 8;

absl::Status CheckOffer(const PutItem& item, size_t index) {
  if (index >= kMaxKeysPerCall) {
    return absl::InvalidArgumentError(absl::StrCat("more than ", kMaxKeysPerCall, " objects in one call"));
  }
  const size_t n_bytes = item.payload == nullptr ? 0 : item.payload->size();
  if (n_bytes > 0 && n_bytes <= kMaxPayloadBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("payload: ", n_bytes, " bytes, must be 1 .. ", kMaxPayloadBytes));
}

}  // namespace

PutCallReactor::PutCallReactor(std::shared_ptr<CallRegistry> calls, Client::PutEvents events)
    : calls_(std::move(calls)), events_(std::move(events)) {}

void PutCallReactor::Start() {
  AddHold();
  StartRead(&replies_);
  StartCall();
}

void PutCallReactor::Offer(PutItem item) {
  if (item.payload != nullptr) item.head.payload_bytes = item.payload->size();
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
    if (!OnReplies()) {
      broken_ = absl::InternalError("the store answered a put out of turn");
      context_->TryCancel();
      return DropHold();
    }
    WriteNext();
    StartRead(&replies_);
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

bool PutCallReactor::OnReplies() {
  return replies_.replies_size() > 0 && std::all_of(replies_.replies().begin(), replies_.replies().end(),
                                                    [this](const v1::PutReply& reply) { return OnReply(reply); });
}

bool PutCallReactor::OnReply(const v1::PutReply& reply) {
  const auto object = objects_.find(reply.object_id());
  if (object == objects_.end()) return false;
  const Stage stage = object->second.stage;
  switch (reply.reply_case()) {
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
      return (stage == Stage::kOpened || stage == Stage::kSent) && OnExists(object, reply.exists());
    case v1::PutReply::kBusy:
      if (stage != Stage::kOpened) return false;
      Answer(object, absl::UnavailableError("the store has no memory now"));
      return true;
    case v1::PutReply::kError:
      if (stage != Stage::kOpened && stage != Stage::kSent) return false;
      Answer(object, ErrorFromWire(reply.error()));
      return true;
    case v1::PutReply::REPLY_NOT_SET:
      break;
  }
  return false;
}

bool PutCallReactor::OnExists(Objects::iterator object, const v1::PutExists& exists) {
  const absl::StatusOr<Digest> held = DigestFromWire(exists.xxh3_128());
  if (!held.ok()) return false;
  const PutItem& item = object->second.item;
  const Digest ours = object->second.stage == Stage::kSent ? item.head.digest : DigestOf(*item.payload);
  Answer(object, PutOutcome{.existed = true, .digest = *held, .conflicts = *held != ours});
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
  std::vector<grpc::Slice> parts;
  // Before payloads: the store's answer is on its way while they are sent.
  if (n_open_ <= kOpenLow) AddOpens(parts);
  if (!credited_.empty()) AddPayload(parts);
  if (!parts.empty()) {
    writing_ = true;
    frame_ = grpc::ByteBuffer(parts.data(), parts.size());
    StartWrite(&frame_);
  } else if (finish_requested_ && objects_.empty()) {
    StartWritesDone();
    DropHold();
  }
}

void PutCallReactor::AddOpens(std::vector<grpc::Slice>& parts) {
  v1::PutFrame frame;
  for (; !queued_.empty() && n_open_ < kOpenMax; queued_.pop_front(), ++n_open_) {
    Object& object = objects_.at(queued_.front());
    object.stage = Stage::kOpened;
    v1::PutOpen& open = *frame.add_opens();
    open.set_object_id(queued_.front());
    open.set_durable(IsDurable(object.item.ack));
    OpenedHeadToWire(object.item.head, open.mutable_head());
  }
  if (frame.opens_size() > 0) parts.push_back(SerializeSlice(frame));
}

void PutCallReactor::AddPayload(std::vector<grpc::Slice>& parts) {
  const ObjectId id = credited_.front();
  Object& object = objects_.at(id);
  const Payload& payload = object.item.payload;
  const size_t n = std::min(kMaxFrameBytes, payload->size() - object.n_sent);
  const auto sent = std::span(*payload).subspan(object.n_sent, n);
  const bool last = object.n_sent + n == payload->size();
  if (!hashed_.has_value()) hashed_.emplace();
  hashed_->Add(sent);
  if (last) object.item.head.digest = hashed_->Finish();
  parts.push_back(MakePutDataPrefix(id, object.n_sent, last ? &object.item.head.digest : nullptr, n));
  parts.push_back(SliceOf(sent, payload));
  object.n_sent += n;
  if (!last) return;
  hashed_.reset();
  credited_.pop_front();
  object.stage = Stage::kSent;
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
