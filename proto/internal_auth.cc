#include "proto/internal_auth.h"

#include <arpa/inet.h>
#include <grpc/grpc_security_constants.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <spdlog/spdlog.h>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

namespace longshelf::proto {
namespace {

constexpr size_t kMinTokenChars = 16;
constexpr size_t kMaxTokenChars = 4096;

std::array<uint8_t, 32> Sha256(std::string_view text) {
  std::array<uint8_t, 32> out;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), out.data());
  return out;
}

// "host:port" or "[v6]:port" to host.
std::string HostOf(std::string_view address) {
  const size_t colon = address.rfind(':');
  absl::string_view host(address.data(), colon == std::string_view::npos ? address.size() : colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  return std::string(host);
}

}  // namespace

absl::StatusOr<SharedToken> SharedToken::FromString(std::string_view token) {
  if (token.size() < kMinTokenChars || token.size() > kMaxTokenChars) {
    return absl::InvalidArgumentError(absl::StrCat("a token needs ", kMinTokenChars, " to ", kMaxTokenChars,
                                                   " characters, this one has ", token.size()));
  }
  for (const char c : token) {
    if (!absl::ascii_isgraph(static_cast<unsigned char>(c))) {
      return absl::InvalidArgumentError("a token may hold printable ASCII without spaces only");
    }
  }
  SharedToken shared;
  shared.sha256_ = Sha256(token);
  return shared;
}

bool SharedToken::Matches(std::string_view presented) const {
  const std::array<uint8_t, 32> theirs = Sha256(presented);
  return CRYPTO_memcmp(theirs.data(), sha256_.data(), sha256_.size()) == 0;
}

grpc::Status SharedToken::Check(const grpc::ServerContextBase& context) const {
  const auto& metadata = context.client_metadata();
  if (metadata.count(kAuthorizationKey) == 1) {
    const grpc::string_ref value = metadata.find(kAuthorizationKey)->second;
    absl::string_view text(value.data(), value.size());
    if (absl::ConsumePrefix(&text, "Bearer ") && Matches({text.data(), text.size()})) return grpc::Status::OK;
  }
  return {grpc::StatusCode::UNAUTHENTICATED, "the call needs the shared token of this endpoint"};
}

absl::StatusOr<CallerRules> CallerRules::Make(std::string_view token, bool with_tls, net::RoleSet roles) {
  CallerRules rules;
  if (!token.empty()) {
    auto shared = SharedToken::FromString(token);
    if (!shared.ok()) return shared.status();
    rules.token_ = *shared;
  }
  if (with_tls) rules.roles_ = roles;
  return rules;
}

grpc::Status CallerRules::Check(const grpc::ServerContextBase& context) const {
  if (!roles_.empty()) {
    // A certificate that the authority has not signed never gets here.
    std::string uris;
    for (const grpc::string_ref& uri : context.auth_context()->FindPropertyValues(GRPC_PEER_URI_PROPERTY_NAME)) {
      const auto role = net::RoleOfUri({uri.data(), uri.size()});
      if (role && roles_.Has(*role)) return CheckToken(context);
      absl::StrAppend(&uris, uris.empty() ? "" : ", ", absl::string_view(uri.data(), uri.size()));
    }
    if (uris.empty()) uris = "no role";
    if (const auto n_passed_over = gate_->Open(absl::Now())) {
      spdlog::warn("refused a call: the certificate of {} is of {}, not of {} ({} more since the last)", context.peer(),
                   uris, roles_.ToString(), *n_passed_over);
    }
    return {grpc::StatusCode::PERMISSION_DENIED,
            absl::StrCat("this endpoint is for the certificate of a ", roles_.ToString(), ", this one is of ", uris)};
  }
  return CheckToken(context);
}

grpc::Status CallerRules::CheckToken(const grpc::ServerContextBase& context) const {
  return token_ ? token_->Check(context) : grpc::Status::OK;
}

void AddToken(grpc::ClientContext& context, std::string_view token) {
  if (!token.empty()) context.AddMetadata(kAuthorizationKey, absl::StrCat("Bearer ", std::string(token)));
}

bool IsLoopback(std::string_view address) {
  if (address.starts_with("unix:")) return true;
  const std::string host = HostOf(address);
  if (host == "localhost") return true;
  in_addr v4;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6;
  if (inet_pton(AF_INET6, host.c_str(), &v6) == 1) {
    if (IN6_IS_ADDR_V4MAPPED(&v6)) return v6.s6_addr[12] == 127;
    return IN6_IS_ADDR_LOOPBACK(&v6) != 0;
  }
  return false;
}

absl::Status CheckListenAddress(std::string_view address, bool asks_callers, bool insecure_internal) {
  if (IsLoopback(address) || asks_callers || insecure_internal) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("refusing to listen on ", std::string(address),
                   " without authentication: set --tls-cert, --tls-key and --tls-ca, or --token-file, listen on "
                   "127.0.0.1, or accept the risk with --insecure-internal"));
}

}  // namespace longshelf::proto
