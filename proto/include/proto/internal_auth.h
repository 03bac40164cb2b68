#pragma once

// Who may listen where, and who may call: by the shared token between longshelf processes, and by role. Include this
// from *_service.*, *_client.* and main.cc only.

#include <grpcpp/client_context.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "net/certificate.h"
#include "net/log_gate.h"

namespace longshelf::proto {

// Metadata key that carries "Bearer <token>".
inline constexpr char kAuthorizationKey[] = "authorization";

// A secret that the callers of one internal endpoint share. Immutable; safe from any thread. Only its SHA-256 is kept.
class SharedToken {
 public:
  // INVALID_ARGUMENT: shorter than 16 or longer than 4096 characters, or with characters that cannot travel in
  // metadata.
  static absl::StatusOr<SharedToken> FromString(std::string_view token);
  // True when `presented` is the token; the time taken does not depend on where they differ.
  bool Matches(std::string_view presented) const;
  // UNAUTHENTICATED unless the call carries the token.
  grpc::Status Check(const grpc::ServerContextBase& context) const;

 private:
  std::array<uint8_t, 32> sha256_{};
};

// Whom one internal endpoint answers. Immutable but for the log; safe from any thread.
class CallerRules {
 public:
  // Everybody.
  CallerRules() = default;
  // Who has the token, unless it is empty, and with TLS a certificate of one of the roles. INVALID_ARGUMENT: see
  // SharedToken.
  static absl::StatusOr<CallerRules> Make(std::string_view token, bool with_tls, net::RoleSet roles);
  // UNAUTHENTICATED without the token, PERMISSION_DENIED in another role.
  grpc::Status Check(const grpc::ServerContextBase& context) const;

 private:
  grpc::Status CheckToken(const grpc::ServerContextBase& context) const;

  std::optional<SharedToken> token_;
  net::RoleSet roles_;  // empty: not looked at
  std::shared_ptr<net::LogGate> gate_ = std::make_shared<net::LogGate>();
};

// Adds the token to a call; nothing when `token` is empty.
void AddToken(grpc::ClientContext& context, std::string_view token);

// OK when the address "host:port" may be listened on: loopback always, anything else only with mutual TLS or a token,
// or with the explicit override. The message names the flags to set.
absl::Status CheckListenAddress(std::string_view address, bool asks_callers, bool insecure_internal);

// 127.0.0.0/8, ::1, localhost, unix sockets.
bool IsLoopback(std::string_view address);

}  // namespace longshelf::proto
