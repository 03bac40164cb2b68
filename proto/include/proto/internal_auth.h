#pragma once

// Who may listen where, and the shared token between longshelf processes. Include this from *_service.*, *_client.*
// and main.cc only.

#include <grpcpp/client_context.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

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

// Adds the token to a call; nothing when `token` is empty.
void AddToken(grpc::ClientContext& context, std::string_view token);

// OK when every address "host:port" may be listened on: loopback always, anything else only with a token or with the
// explicit override. The message names the flags to set.
absl::Status CheckListenAddress(std::string_view address, bool has_token, bool insecure_internal);

// 127.0.0.0/8, ::1, localhost, unix sockets.
bool IsLoopback(std::string_view address);

}  // namespace longshelf::proto
