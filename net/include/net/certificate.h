#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace longshelf::net {

// What the holder of a certificate may be, as a URI among the certificate's names: "longshelf://role/worker".
enum class Role : uint8_t {
  kRouter,
  kWorker,
  kKvstore,
  kOperator,  // people and their tools
  kClient,    // users of the public door
};

std::string RoleName(Role role);
std::optional<Role> RoleOfName(std::string_view name);
std::string RoleUri(Role role);
std::optional<Role> RoleOfUri(std::string_view uri);

// Some of the roles.
class RoleSet {
 public:
  RoleSet() = default;
  RoleSet(std::initializer_list<Role> roles) {
    for (const Role role : roles) Add(role);
  }
  void Add(Role role) { bits_ = static_cast<uint8_t>(bits_ | BitOf(role)); }
  bool Has(Role role) const { return (bits_ & BitOf(role)) != 0; }
  bool empty() const { return bits_ == 0; }
  std::string ToString() const;  // "router or operator"

 private:
  static uint8_t BitOf(Role role) { return static_cast<uint8_t>(1u << static_cast<unsigned>(role)); }
  uint8_t bits_ = 0;
};

// Who may call whom inside a cluster.
inline const RoleSet kCallersOfKvstore = {Role::kRouter, Role::kWorker, Role::kKvstore, Role::kOperator};
inline const RoleSet kCallersOfWorker = {Role::kRouter, Role::kOperator};
// longshelf-host, which is part of a worker and has its role.
inline const RoleSet kCallersOfHost = {Role::kWorker, Role::kOperator};

// What we look at in a certificate.
struct CertificateInfo {
  std::string subject;  // its common name
  std::string serial;   // hexadecimal
  absl::Time not_before;
  absl::Time not_after;
  std::vector<std::string> hosts;  // DNS names and IP addresses
  std::vector<std::string> uris;
};

// The first certificate of `pem`. INVALID_ARGUMENT: there is none.
absl::StatusOr<CertificateInfo> ReadCertificate(std::string_view pem);

}  // namespace longshelf::net
