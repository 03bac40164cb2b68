#include "chunks.h"

#include <algorithm>

#include "head.h"
#include "router/limits.h"

namespace longshelf::router {
namespace {

constexpr size_t kMaxSizeDigits = 15;  // fits, with room to add

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool IsText(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return (byte >= 0x20 && byte != 0x7F) || c == '\t';
}

}  // namespace

ChunkedDecoder::State ChunkedDecoder::Malformed(const char* why) {
  why_ = why;
  return State::kMalformed;
}

ChunkedDecoder::State ChunkedDecoder::Push(std::string_view bytes, const std::function<bool(std::string_view)>& take,
                                           size_t& n_used) {
  n_used = 0;
  while (n_used < bytes.size()) {
    if (place_ == Place::kData) {
      const auto n = static_cast<size_t>(std::min<uint64_t>(n_left_, bytes.size() - n_used));
      if (!take(bytes.substr(n_used, n))) return State::kRefused;
      n_used += n;
      n_left_ -= n;
      if (n_left_ == 0) place_ = Place::kDataCr;
      continue;
    }
    if (const State state = TakeByte(bytes[n_used++]); state != State::kMore) return state;
  }
  return State::kMore;
}

ChunkedDecoder::State ChunkedDecoder::TakeByte(char c) {
  switch (place_) {
    case Place::kSize:
    case Place::kExtension:
      return TakeSizeByte(c);
    case Place::kSizeEnd:
      if (c != '\n') return Malformed("a chunk size that does not end with CRLF");
      place_ = n_left_ > 0 ? Place::kData : Place::kTrailer;
      n_digits_ = 0;
      return State::kMore;
    case Place::kDataCr:
      if (c != '\r') return Malformed("a chunk that is longer than its size");
      place_ = Place::kDataLf;
      return State::kMore;
    case Place::kDataLf:
      if (c != '\n') return Malformed("a chunk that is longer than its size");
      place_ = Place::kSize;
      return State::kMore;
    default:
      return TakeTrailerByte(c);
  }
}

ChunkedDecoder::State ChunkedDecoder::TakeSizeByte(char c) {
  if (c == '\r') {
    if (n_digits_ == 0) return Malformed("a chunk without a size");
    if (place_ == Place::kExtension && !has_extension_) return Malformed("blanks behind a chunk size");
    place_ = Place::kSizeEnd;
    return State::kMore;
  }
  const int digit = place_ == Place::kSize ? HexDigit(c) : -1;
  if (digit >= 0) {
    if (++n_digits_ > kMaxSizeDigits) return Malformed("a chunk size that is too large");
    n_left_ = n_left_ * 16 + static_cast<uint64_t>(digit);
    return State::kMore;
  }
  const bool is_blank = c == ' ' || c == '\t';
  if (place_ == Place::kSize) {
    if (n_digits_ == 0) return Malformed("a malformed chunk size");
    place_ = Place::kExtension;
    has_extension_ = false;
  }
  has_extension_ = has_extension_ || c == ';';
  if (has_extension_ ? !IsText(c) : !is_blank) return Malformed("a malformed chunk size");
  return ++n_extension_bytes_ > kSizeLimits.header_bytes ? State::kTooLarge : State::kMore;
}

ChunkedDecoder::State ChunkedDecoder::TakeTrailerByte(char c) {
  if (++n_trailer_bytes_ > kSizeLimits.header_bytes) return State::kTooLarge;
  if (after_cr_) {
    after_cr_ = false;
    return c == '\n' ? EndTrailerLine() : Malformed("a bare CR behind its chunks");
  }
  if (c == '\r') {
    after_cr_ = true;
  } else if (c == '\n') {
    return Malformed("a bare LF behind its chunks");
  } else {
    line_ += c;
  }
  return State::kMore;
}

ChunkedDecoder::State ChunkedDecoder::EndTrailerLine() {
  if (line_.empty()) return State::kDone;
  const std::string what = CheckFieldLine(line_);
  line_.clear();
  if (what.empty()) return State::kMore;
  why_ = what;
  return State::kMalformed;
}

}  // namespace longshelf::router
