#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

// The chunked transfer coding (RFC 9112, 7.1), from bytes that come in pieces.
namespace longshelf::router {

class ChunkedDecoder {
 public:
  enum class State : uint8_t {
    kMore,       // all was taken, and more is needed
    kDone,       // behind the trailer
    kRefused,    // by `take`
    kMalformed,  // see why()
    kTooLarge,   // the trailer, or the extensions of all chunks together
  };

  // Takes what belongs to the body: its data go to `take`, which returns false to stop. Extensions and trailers are
  // checked and dropped. Sets `n_used`.
  State Push(std::string_view bytes, const std::function<bool(std::string_view)>& take, size_t& n_used);
  const std::string& why() const { return why_; }

 private:
  enum class Place : uint8_t { kSize, kExtension, kSizeEnd, kData, kDataCr, kDataLf, kTrailer };

  State TakeByte(char c);
  State TakeSizeByte(char c);
  State TakeTrailerByte(char c);
  State EndTrailerLine();
  State Malformed(const char* why);

  Place place_ = Place::kSize;
  uint64_t n_left_ = 0;  // of the chunk
  size_t n_digits_ = 0;  // of its size
  bool has_extension_ = false;
  size_t n_extension_bytes_ = 0;
  size_t n_trailer_bytes_ = 0;
  std::string line_;  // of the trailer
  bool after_cr_ = false;
  std::string why_;
};

}  // namespace longshelf::router
