#include "net/certificate.h"

#include <arpa/inet.h>

#include <array>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "openssl_owners.h"

namespace longshelf::net {
namespace {

constexpr std::string_view kRolePrefix = "longshelf://role/";
constexpr std::array<std::string_view, 5> kRoleNames = {"router", "worker", "kvstore", "operator", "client"};

absl::Time TimeOf(const ASN1_TIME* time) {
  tm parts = {};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return absl::InfinitePast();
  return absl::FromTM(parts, absl::UTCTimeZone());
}

std::string TextOf(const ASN1_STRING* string) {
  return {reinterpret_cast<const char*>(ASN1_STRING_get0_data(string)),
          static_cast<size_t>(ASN1_STRING_length(string))};
}

std::string AddressOf(const ASN1_OCTET_STRING* bytes) {
  char text[INET6_ADDRSTRLEN] = "";
  const int family = ASN1_STRING_length(bytes) == 4 ? AF_INET : AF_INET6;
  if (family == AF_INET6 && ASN1_STRING_length(bytes) != 16) return "";
  inet_ntop(family, ASN1_STRING_get0_data(bytes), text, sizeof text);
  return text;
}

void ReadNames(const X509& certificate, CertificateInfo* info) {
  const Owned<GENERAL_NAMES> names(
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(&certificate, NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type == GEN_DNS) info->hosts.push_back(TextOf(name->d.dNSName));
    if (name->type == GEN_IPADD) info->hosts.push_back(AddressOf(name->d.iPAddress));
    if (name->type == GEN_URI) info->uris.push_back(TextOf(name->d.uniformResourceIdentifier));
  }
}

std::string CommonNameOf(const X509& certificate) {
  const X509_NAME* subject = X509_get_subject_name(&certificate);
  const int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  if (at < 0) return "";
  return TextOf(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
}

std::string SerialOf(const X509& certificate) {
  const Owned<BIGNUM> number(ASN1_INTEGER_to_BN(X509_get0_serialNumber(&certificate), nullptr));
  if (number == nullptr) return "";
  char* hex = BN_bn2hex(number.get());
  std::string text = hex == nullptr ? "" : hex;
  OPENSSL_free(hex);
  return text;
}

}  // namespace

std::string RoleName(Role role) { return std::string(kRoleNames[static_cast<size_t>(role)]); }

std::optional<Role> RoleOfName(std::string_view name) {
  for (size_t i = 0; i < kRoleNames.size(); ++i) {
    if (kRoleNames[i] == name) return static_cast<Role>(i);
  }
  return std::nullopt;
}

std::string RoleUri(Role role) { return std::string(kRolePrefix) + RoleName(role); }

std::optional<Role> RoleOfUri(std::string_view uri) {
  if (!uri.starts_with(kRolePrefix)) return std::nullopt;
  return RoleOfName(uri.substr(kRolePrefix.size()));
}

std::string RoleSet::ToString() const {
  std::vector<std::string> names;
  for (size_t i = 0; i < kRoleNames.size(); ++i) {
    if (Has(static_cast<Role>(i))) names.emplace_back(kRoleNames[i]);
  }
  return absl::StrJoin(names, " or ");
}

RoleSet RolesOf(const X509* certificate) {
  RoleSet roles;
  if (certificate == nullptr) return roles;
  CertificateInfo info;
  ReadNames(*certificate, &info);
  for (const std::string& uri : info.uris) {
    if (const auto role = RoleOfUri(uri)) roles.Add(*role);
  }
  return roles;
}

absl::StatusOr<CertificateInfo> ReadCertificate(std::string_view pem) {
  const Owned<X509> certificate(PEM_read_bio_X509_AUX(ReaderOf(pem).get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("no certificate in PEM form in it (", TakeOpensslError(), ")"));
  }
  CertificateInfo info;
  info.subject = CommonNameOf(*certificate);
  info.serial = SerialOf(*certificate);
  info.not_before = TimeOf(X509_get0_notBefore(certificate.get()));
  info.not_after = TimeOf(X509_get0_notAfter(certificate.get()));
  ReadNames(*certificate, &info);
  return info;
}

}  // namespace longshelf::net
