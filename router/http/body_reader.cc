#include "body_reader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace longshelf::router {
namespace {

constexpr size_t kSpareBytes = 64;  // what a JSON parser wants behind the text
constexpr uint64_t kFirstBytes = uint64_t{16} << 10;

}  // namespace

std::string BodyTooLarge(uint64_t n_bytes_max) {
  return absl::StrCat("the request body is larger than ", n_bytes_max,
                      " bytes, the server's limit: send less, or start the router with a larger --body-max");
}

uint64_t BodyReader::LeaseBytes(const RequestHead& head) {
  if (!head.has_body()) return 0;
  return kSpareBytes + (head.chunked ? kFirstBytes : *head.content_length);
}

BodyReader::BodyReader(const RequestHead& head, uint64_t n_bytes_max, std::shared_ptr<BodyBudget::Lease> lease)
    : n_bytes_max_(n_bytes_max),
      lease_(std::move(lease)),
      n_left_(head.content_length.value_or(0)),
      is_done_(!head.has_body()) {
  if (head.chunked) chunks_.emplace();
  if (!is_done_) body_.reserve(LeaseBytes(head));
}

bool BodyReader::Append(std::string_view data) {
  if (data.size() > n_bytes_max_ - body_.size()) {
    fault_ = {413, BodyTooLarge(n_bytes_max_)};
    return false;
  }
  const uint64_t n_needed = body_.size() + data.size() + kSpareBytes;
  if (n_needed > body_.capacity()) {
    const uint64_t n_wanted = std::max(n_needed, std::min<uint64_t>(2 * n_needed, n_bytes_max_ + kSpareBytes));
    if (!lease_->Resize(n_wanted)) {
      fault_ = {503, "too many request bodies are here at once: retry later"};
      return false;
    }
    body_.reserve(n_wanted);
  }
  body_.append(data);
  return true;
}

BodyReader::State BodyReader::Push(std::string_view bytes, size_t& n_used) {
  n_used = 0;
  if (is_done_) return State::kDone;
  if (!chunks_) {
    n_used = static_cast<size_t>(std::min<uint64_t>(n_left_, bytes.size()));
    if (!Append(bytes.substr(0, n_used))) return State::kFault;
    n_left_ -= n_used;
    is_done_ = n_left_ == 0;
    return is_done_ ? State::kDone : State::kMore;
  }
  switch (chunks_->Push(
      bytes, [this](std::string_view data) { return Append(data); }, n_used)) {
    case ChunkedDecoder::State::kMore:
      return State::kMore;
    case ChunkedDecoder::State::kDone:
      is_done_ = true;
      return State::kDone;
    case ChunkedDecoder::State::kRefused:
      return State::kFault;
    case ChunkedDecoder::State::kMalformed:
      fault_ = {400, absl::StrCat("the request body is malformed: it has ", chunks_->why())};
      return State::kFault;
    case ChunkedDecoder::State::kTooLarge:
      fault_ = {431, "the request body has chunk extensions or a trailer of more than 16384 bytes"};
      return State::kFault;
  }
  return State::kFault;
}

}  // namespace longshelf::router
