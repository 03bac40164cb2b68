#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "head.h"

// Content codings (RFC 9110, 8.4) that a request's body may have.
namespace longshelf::router {

enum class ContentCoding : uint8_t { kIdentity, kGzip, kDeflate, kZstd };

inline constexpr std::string_view kContentCodings = "gzip, deflate, zstd";  // for Accept-Encoding

// Of the header; 415 for a coding that is not known here, and for one on top of another.
std::variant<ContentCoding, HttpFault> ContentCodingOf(const HttpFields& fields);

// The content as it was before it was coded. `grow` is asked before more than `n` bytes are kept; when it says no, the
// answer is 503. 413 beyond `n_bytes_max`, 400 for what is malformed or cut. Takes time by what comes out: not for the
// loop's thread.
std::variant<std::string, HttpFault> DecodeContent(ContentCoding coding, std::string_view coded, uint64_t n_bytes_max,
                                                   const std::function<bool(uint64_t n)>& grow);

}  // namespace longshelf::router
