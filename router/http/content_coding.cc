#include "content_coding.h"

#define ZLIB_CONST  // zlib takes what it reads as const only then
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace longshelf::router {
namespace {

constexpr size_t kPieceBytes = size_t{64} << 10;
constexpr size_t kSpareBytes = 64;     // behind the content, so that a JSON parser can read it where it is
constexpr int kGzipWindow = 15 + 16;   // with gzip's header and checksum
constexpr int kZlibWindow = 15;        // with zlib's
constexpr int kRawWindow = -15;        // without either
constexpr int kZstdWindowLogMax = 23;  // 8 MiB (RFC 9659)

HttpFault Malformed(std::string_view coding) {
  return {400, absl::StrCat("the request body is not what its Content-Encoding says: malformed or cut off ",
                            absl::string_view(coding.data(), coding.size()))};
}

// What comes out, within its bounds.
class Output {
 public:
  Output(uint64_t n_bytes_max, const std::function<bool(uint64_t)>& grow) : n_bytes_max_(n_bytes_max), grow_(grow) {}

  // Where the next piece goes.
  char* piece() { return piece_.get(); }
  bool Take(size_t n) {
    if (text_.size() + n > n_bytes_max_) {
      fault_ = HttpFault{413, absl::StrCat("the request body is larger than ", n_bytes_max_,
                                           " bytes when it is decoded, the server's limit: send less, or start the "
                                           "router with a larger --body-max")};
      return false;
    }
    if (text_.size() + n + kSpareBytes > text_.capacity()) {
      const uint64_t n_wanted = std::min<uint64_t>(2 * (text_.size() + n), n_bytes_max_) + kSpareBytes;
      if (!grow_(n_wanted)) {
        fault_ = HttpFault{503, "too many request bodies are here at once: retry later"};
        return false;
      }
      text_.reserve(n_wanted);
    }
    text_.append(piece_.get(), n);
    return true;
  }
  HttpFault fault() { return std::move(fault_); }
  std::string text() { return std::move(text_); }

 private:
  const uint64_t n_bytes_max_;
  const std::function<bool(uint64_t)>& grow_;
  const std::unique_ptr<char[]> piece_ = std::make_unique<char[]>(kPieceBytes);
  std::string text_;
  HttpFault fault_;
};

// "deflate" is zlib's format, and some send what zlib would put into it.
int WindowOf(ContentCoding coding, std::string_view coded) {
  if (coding == ContentCoding::kGzip) return kGzipWindow;
  if (coded.size() < 2) return kZlibWindow;
  const unsigned first = static_cast<unsigned char>(coded[0]);
  const unsigned second = static_cast<unsigned char>(coded[1]);
  const bool has_header = (first & 0x0F) == Z_DEFLATED && (first * 256 + second) % 31 == 0;
  return has_header ? kZlibWindow : kRawWindow;
}

std::variant<std::string, HttpFault> Inflate(ContentCoding coding, std::string_view coded, Output& out) {
  const char* name = coding == ContentCoding::kGzip ? "gzip" : "deflate";
  z_stream stream = {};
  if (inflateInit2(&stream, WindowOf(coding, coded)) != Z_OK) return HttpFault{503, "out of memory: retry later"};
  const std::unique_ptr<z_stream, int (*)(z_stream*)> owner(&stream, inflateEnd);
  stream.next_in = reinterpret_cast<const Bytef*>(coded.data());
  stream.avail_in = static_cast<uInt>(coded.size());
  for (;;) {
    stream.next_out = reinterpret_cast<Bytef*>(out.piece());
    stream.avail_out = kPieceBytes;
    const int state = inflate(&stream, Z_NO_FLUSH);
    if (state != Z_OK && state != Z_STREAM_END) return Malformed(name);
    if (!out.Take(kPieceBytes - stream.avail_out)) return out.fault();
    if (state == Z_OK) continue;
    if (stream.avail_in == 0) return out.text();
    // Several of gzip's members are one text (RFC 1952, 2.2).
    if (coding != ContentCoding::kGzip || inflateReset(&stream) != Z_OK) return Malformed(name);
  }
}

std::variant<std::string, HttpFault> Unzstd(std::string_view coded, Output& out) {
  const std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> context(ZSTD_createDCtx(), ZSTD_freeDCtx);
  if (context == nullptr) return HttpFault{503, "out of memory: retry later"};
  ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, kZstdWindowLogMax);
  ZSTD_inBuffer in = {coded.data(), coded.size(), 0};
  for (;;) {
    ZSTD_outBuffer piece = {out.piece(), kPieceBytes, 0};
    const size_t before = in.pos;
    const size_t n_left = ZSTD_decompressStream(context.get(), &piece, &in);
    if (ZSTD_isError(n_left) != 0) return Malformed("zstd");
    if (!out.Take(piece.pos)) return out.fault();
    if (n_left == 0 && in.pos == in.size) return out.text();
    // It stands still: what would come next is missing.
    if (in.pos == before && piece.pos == 0) return Malformed("zstd");
  }
}

}  // namespace

std::variant<ContentCoding, HttpFault> ContentCodingOf(const HttpFields& fields) {
  ContentCoding coding = ContentCoding::kIdentity;
  for (const std::string_view name : ListOf(fields, "content-encoding")) {
    const auto is = [name](absl::string_view known) {
      return absl::EqualsIgnoreCase(absl::string_view(name.data(), name.size()), known);
    };
    if (is("identity")) continue;
    const bool is_known = is("gzip") || is("x-gzip") || is("deflate") || is("zstd");
    if (!is_known || coding != ContentCoding::kIdentity) {
      return HttpFault{415,
                       "the request body has a Content-Encoding that is not decoded here: send one of gzip, deflate "
                       "and zstd, or none",
                       {{"Accept-Encoding", std::string(kContentCodings)}}};
    }
    coding = is("deflate") ? ContentCoding::kDeflate : is("zstd") ? ContentCoding::kZstd : ContentCoding::kGzip;
  }
  return coding;
}

std::variant<std::string, HttpFault> DecodeContent(ContentCoding coding, std::string_view coded, uint64_t n_bytes_max,
                                                   const std::function<bool(uint64_t)>& grow) {
  if (coding == ContentCoding::kIdentity) return std::string(coded);
  Output out(n_bytes_max, grow);
  if (coding == ContentCoding::kZstd) return Unzstd(coded, out);
  return Inflate(coding, coded, out);
}

}  // namespace longshelf::router
