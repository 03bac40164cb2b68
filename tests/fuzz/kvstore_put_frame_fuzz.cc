// The frames of Put that are read by hand. What the hand-read parser accepts, protobuf's own accepts too and
// understands the same. It may refuse more: fields out of order, given twice, or behind the payload.
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/stubs/logging.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/check.h"
#include "frame_service.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "longshelf/v1/kvstore.pb.h"
#include "put_frame_service.h"

namespace longshelf::kvstore {
namespace {

struct HandRead {
  PutOpens opens;
  PutDataHead head;
  std::string payload;
};

std::optional<HandRead> ReadByHand(grpc::ByteBuffer frame) {
  const size_t n_bytes = frame.Length();
  grpc::ProtoBufferReader slices(&frame);
  google::protobuf::io::CodedInputStream in(&slices);
  PutOpens opens;
  const std::optional<PutDataHead> head = ReadPutDataHead(in, n_bytes, &opens);
  if (!head.has_value()) return std::nullopt;
  // The payload is the rest: the service takes it without another look at its length.
  LONGSHELF_CHECK(head->n_payload == n_bytes - static_cast<size_t>(in.CurrentPosition()));
  HandRead read{opens, *head, {}};
  LONGSHELF_CHECK(in.ReadString(&read.payload, static_cast<int>(head->n_payload)));
  return read;
}

// As the bytes may arrive: in slices of n_each.
grpc::ByteBuffer InSlices(std::string_view bytes, size_t n_each) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size(); at += n_each) {
    const std::string_view part = bytes.substr(at, n_each);
    slices.emplace_back(part.data(), part.size());
  }
  return {slices.data(), slices.size()};
}

void Parse(std::string_view bytes, size_t n_each) {
  const auto read = ReadByHand(InSlices(bytes, n_each));
  if (!read.has_value()) return;
  v1::PutFrame frame;
  LONGSHELF_CHECK(frame.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())));
  LONGSHELF_CHECK(frame.has_data() && !frame.has_abort());
  LONGSHELF_CHECK(std::equal(
      frame.opens().begin(), frame.opens().end(), read->opens.begin(), read->opens.end(),
      [](const v1::PutOpen& a, const v1::PutOpen& b) { return a.SerializeAsString() == b.SerializeAsString(); }));
  const auto& digest = read->head.digest;
  LONGSHELF_CHECK(frame.data().xxh3_128() == (digest.has_value() ? std::string(digest->begin(), digest->end()) : ""));
  LONGSHELF_CHECK(frame.data().object_id() == read->head.object_id);
  LONGSHELF_CHECK(frame.data().offset() == read->head.offset);
  LONGSHELF_CHECK(frame.data().payload() == read->payload);
}

// What clients send is read by hand, in whatever slices it comes.
void SendAndRead(uint32_t object_id, uint64_t offset, std::string_view payload, size_t n_each) {
  std::optional<Digest> digest;
  if (offset % 2 == 0) digest = DigestOf(std::as_bytes(std::span(payload)));
  const grpc::Slice prefix =
      MakePutDataPrefix(object_id, offset, digest.has_value() ? &*digest : nullptr, payload.size());
  v1::PutFrame opens;
  opens.add_opens()->set_object_id(object_id);
  opens.add_opens()->set_durable(digest.has_value());
  const std::string sent =
      opens.SerializeAsString().append(reinterpret_cast<const char*>(prefix.begin()), prefix.size()).append(payload);
  const auto read = ReadByHand(InSlices(sent, n_each));
  LONGSHELF_CHECK(read.has_value() && read->payload == payload);
  LONGSHELF_CHECK(read->head.object_id == object_id && read->head.offset == offset && read->head.digest == digest);
  LONGSHELF_CHECK(read->opens.size() == 2 && read->opens[0].object_id() == object_id);
  Parse(sent, n_each);
}

std::string Input(char n_each, const std::string& bytes) { return n_each + bytes; }

}  // namespace
}  // namespace longshelf::kvstore

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  google::protobuf::SetLogHandler(nullptr);  // it reports what it refuses
  using kvstore::Input;
  Seeds seeds;
  for (const bool has_numbers : {false, true}) {
    v1::PutFrame frame;
    v1::PutData& data = *frame.mutable_data();
    if (has_numbers) {
      frame.add_opens()->set_object_id(301);
      data.set_xxh3_128(std::string(sizeof(kvstore::Digest), 'd'));
      data.set_object_id(300);
      data.set_offset(uint64_t{1} << 40);
    }
    data.set_payload(std::string(20, 'p'));
    seeds.inputs.push_back(Input('\x05', frame.SerializeAsString()));
    data.set_payload(std::string(300, 'p'));
    seeds.inputs.push_back(Input('\xff', frame.SerializeAsString()));
  }
  v1::PutFrame other;
  other.add_opens()->set_object_id(1);
  seeds.inputs.push_back(Input('\x05', other.SerializeAsString()));
  other.mutable_abort()->set_object_id(1);
  seeds.inputs.push_back(Input('\x05', other.SerializeAsString()));
  // Lengths and tags with more bytes than they need, or more bits than they may have.
  seeds.words = {std::string("\x92\x00", 2),
                 std::string("\x80\x00", 2),
                 "\xff\xff\xff\xff\x0f",
                 "\x80\x80\x80\x80\x10",
                 "\xff\xff\xff\xff\xff\xff\xff\xff",
                 "\x08",
                 "\x10",
                 "\x18",
                 "\x22",
                 "\x0a",
                 "\x12"};
  return seeds;
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longshelf::kvstore;  // the entry point has no namespace of its own
  longshelf::fuzz::FuzzInput input(data, size);
  const size_t n_each = std::max<size_t>(input.Byte(), 1);
  longshelf::fuzz::FuzzInput numbers = input;
  Parse(input.Rest(), n_each);
  const uint32_t object_id = numbers.Short() * uint32_t{numbers.Short()};
  const uint64_t offset = uint64_t{numbers.Short()} << (numbers.Byte() % 48);
  SendAndRead(object_id, offset, numbers.Rest(), n_each);
  return 0;
}
