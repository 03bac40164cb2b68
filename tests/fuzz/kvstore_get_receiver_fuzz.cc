// Frames of one Get call in any order, number and shape. However the store errs, each object that was asked for is
// answered once and in order, and what is handed over is what its head promised: key, size, digest.
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/stubs/logging.h>
#include <grpcpp/support/byte_buffer.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/check.h"
#include "frame_service.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "get_client_receiver.h"
#include "kvstore/wire_service.h"
#include "objects.h"

namespace longshelf::kvstore {
namespace {

// What the store has and what is asked for.
const std::vector<Object>& Stored() {
  static const std::vector<Object> objects = {MakeObject(1, 0, 256, 40), MakeObject(2, 1, 512, 700),
                                              MakeObject(3, 2, 600, 1, ObjectKind::kCheckpoint)};
  return objects;
}

std::vector<GetItem> Items() {
  std::vector<GetItem> items;
  for (const Object& object : Stored()) items.push_back({object.head.key, object.head.payload_bytes});
  return items;
}

void CheckFetched(const FetchedObject& fetched, const GetItem& item) {
  LONGSHELF_CHECK(fetched.head.key == item.key && fetched.head.fingerprint == FingerprintOf(1));
  LONGSHELF_CHECK(fetched.head.payload_bytes == item.expected_bytes);
  LONGSHELF_CHECK(fetched.payload.size() == item.expected_bytes && DigestOf(fetched.payload) == fetched.head.digest);
}

// One call: the receiver, and what it was made to answer.
class Call {
 public:
  // Whether the call goes on.
  bool Frame(std::string_view bytes, size_t n_each) {
    std::vector<grpc::Slice> slices;
    for (size_t at = 0; at < bytes.size(); at += n_each) {
      const std::string_view part = bytes.substr(at, n_each);
      slices.emplace_back(part.data(), part.size());
    }
    grpc::ByteBuffer frame(slices.data(), slices.size());
    const size_t due = n_answered_;
    const absl::Status status = receiver_.OnFrame(frame);
    LONGSHELF_CHECK(n_answered_ <= due + 1);
    LONGSHELF_CHECK(receiver_.complete() == (n_answered_ == items_.size()));
    LONGSHELF_CHECK(receiver_.next_bytes() == 0 || receiver_.next_bytes() == items_[n_answered_].expected_bytes);
    if (status.ok()) CheckAgreement(bytes, due);
    return status.ok();
  }
  void End() {
    receiver_.Fail(absl::UnavailableError("the call ended"));
    LONGSHELF_CHECK(n_answered_ == items_.size() && receiver_.complete());
  }

 private:
  // A frame that was understood is one to protobuf too, and says the same.
  static void CheckAgreement(std::string_view bytes, size_t due) {
    v1::GetFrame frame;
    LONGSHELF_CHECK(frame.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())));
    LONGSHELF_CHECK(frame.index() == due && (frame.has_head() || frame.has_data() || frame.has_error()));
  }
  void OnObject(size_t index, absl::StatusOr<FetchedObject> object) {
    LONGSHELF_CHECK(index == n_answered_ && index < items_.size());
    ++n_answered_;
    if (object.ok()) CheckFetched(*object, items_[index]);
  }

  const std::vector<GetItem> items_ = Items();
  size_t n_answered_ = 0;
  GetReceiver receiver_{FingerprintOf(1), items_, [this](size_t index, absl::StatusOr<FetchedObject> object) {
                          OnObject(index, std::move(object));
                        }};
};

std::string Text(const grpc::Slice& slice) { return {reinterpret_cast<const char*>(slice.begin()), slice.size()}; }

std::string DataFrame(uint32_t index, const Object& object, size_t begin, size_t end) {
  v1::ObjectHead head;
  HeadToWire(object.head, &head);
  const bool last = end == object.payload.size();
  const grpc::Slice prefix = MakeGetDataPrefix(index, begin == 0 ? &head : nullptr, begin, last, end - begin);
  return Text(prefix).append(reinterpret_cast<const char*>(object.payload.data()) + begin, end - begin);
}

// The frames of a store that does all right, with payloads in pieces of n_piece bytes.
std::vector<std::string> Frames(size_t n_piece) {
  std::vector<std::string> frames;
  for (uint32_t index = 0; index < Stored().size(); ++index) {
    const Object& object = Stored()[index];
    for (size_t at = 0; at < object.payload.size(); at += n_piece) {
      frames.push_back(DataFrame(index, object, at, std::min(at + n_piece, object.payload.size())));
    }
  }
  return frames;
}

std::string Input(char n_each, const std::vector<std::string>& frames) {
  std::string input(1, n_each);
  for (const std::string& frame : frames) fuzz::AppendPart(frame, input);
  return input;
}

std::string ErrorFrame(uint32_t index) {
  v1::GetFrame frame;
  frame.set_index(index);
  ErrorToWire(absl::NotFoundError("evicted"), frame.mutable_error());
  return frame.SerializeAsString();
}

}  // namespace
}  // namespace longshelf::kvstore

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  google::protobuf::SetLogHandler(nullptr);  // it reports what it refuses
  using namespace kvstore;                   // all of the input is of the store
  Seeds seeds;
  for (const size_t n_piece : {size_t{16}, size_t{300}, size_t{1000}}) {
    seeds.inputs.push_back(Input(static_cast<char>(n_piece / 4), Frames(n_piece)));
  }
  seeds.inputs.push_back(Input('\x20', {ErrorFrame(0), ErrorFrame(1), ErrorFrame(2)}));
  std::vector<std::string> mixed = Frames(300);
  mixed[2] = ErrorFrame(1);  // in the middle of an object
  seeds.inputs.push_back(Input('\x20', mixed));
  for (const std::string& frame : Frames(16)) {
    seeds.words.emplace_back();
    AppendPart(frame, seeds.words.back());
  }
  return seeds;
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longshelf::kvstore;  // the entry point has no namespace of its own
  longshelf::fuzz::FuzzInput input(data, size);
  const size_t n_each = std::max<size_t>(input.Byte(), 1);
  Call call;
  while (!input.empty() && call.Frame(input.Part(), n_each)) {
  }
  call.End();
  return 0;
}
