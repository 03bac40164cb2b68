#include "net/authority.h"

#include <arpa/inet.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rand.h>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status.h"
#include "openssl_owners.h"

namespace longshelf::net {
namespace {

constexpr absl::Duration kClocksDiffer = absl::Minutes(5);

absl::Status Failed(const char* what) { return absl::InternalError(absl::StrCat(what, ": ", TakeOpensslError())); }

bool IsAddress(const std::string& host) {
  in6_addr address;
  return inet_pton(AF_INET, host.c_str(), &address) == 1 || inet_pton(AF_INET6, host.c_str(), &address) == 1;
}

bool IsName(absl::string_view host) {
  if (host.substr(0, 2) == "*.") host.remove_prefix(2);
  if (host.empty() || host.size() > 253) return false;
  for (const char c : host) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '.' && c != '_') return false;
  }
  return host.front() != '.' && host.back() != '.' && host.front() != '-';
}

// As OpenSSL's configuration writes subject alternative names.
absl::StatusOr<std::string> NamesOf(const CertificateRequest& request) {
  std::vector<std::string> names = {absl::StrCat("URI:", RoleUri(request.role))};
  for (const std::string& host : request.hosts) {
    if (IsAddress(host)) {
      names.push_back(absl::StrCat("IP:", host));
    } else if (IsName(host)) {
      names.push_back(absl::StrCat("DNS:", host));
    } else {
      return absl::InvalidArgumentError(absl::StrCat("`", host, "` is neither a DNS name nor an IP address"));
    }
  }
  return absl::StrJoin(names, ",");
}

// A certificate that is being made.
class Draft {
 public:
  static absl::StatusOr<Draft> Begin(const std::string& common_name, absl::Time now, absl::Duration valid_for) {
    Draft draft;
    draft.key_.reset(EVP_EC_gen("P-256"));
    draft.certificate_.reset(X509_new());
    if (draft.key_ == nullptr || draft.certificate_ == nullptr) return Failed("a new key");
    X509* certificate = draft.certificate_.get();
    const Owned<BIGNUM> serial(BN_new());
    // 127 bits: positive in 16 bytes.
    if (serial == nullptr || BN_rand(serial.get(), 127, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) != 1 ||
        BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(certificate)) == nullptr) {
      return Failed("a serial number");
    }
    X509_NAME* subject = X509_get_subject_name(certificate);
    const auto* name = reinterpret_cast<const unsigned char*>(common_name.c_str());
    if (X509_set_version(certificate, X509_VERSION_3) != 1 ||
        X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>("longshelf"), -1,
                                   -1, 0) != 1 ||
        X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, name, -1, -1, 0) != 1 ||
        ASN1_TIME_set(X509_getm_notBefore(certificate), absl::ToTimeT(now - kClocksDiffer)) == nullptr ||
        ASN1_TIME_set(X509_getm_notAfter(certificate), absl::ToTimeT(now + valid_for)) == nullptr ||
        X509_set_pubkey(certificate, draft.key_.get()) != 1) {
      return Failed("a new certificate");
    }
    return draft;
  }

  // `text` as in OpenSSL's configuration; `issuer` for those that speak of it.
  absl::Status Add(int nid, const std::string& text, X509* issuer) {
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate_.get(), nullptr, nullptr, 0);
    const Owned<X509_EXTENSION> extension(X509V3_EXT_conf_nid(nullptr, &context, nid, text.c_str()));
    if (extension == nullptr || X509_add_ext(certificate_.get(), extension.get(), -1) != 1) {
      return Failed("an extension of a certificate");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<CertifiedKey> Sign(const X509& issuer, EVP_PKEY* issuer_key) {
    if (X509_set_issuer_name(certificate_.get(), X509_get_subject_name(&issuer)) != 1 ||
        X509_sign(certificate_.get(), issuer_key, EVP_sha256()) == 0) {
      return Failed("signing");
    }
    const Owned<BIO> certificate(BIO_new(BIO_s_mem()));
    const Owned<BIO> key(BIO_new(BIO_s_mem()));
    if (PEM_write_bio_X509(certificate.get(), certificate_.get()) != 1 ||
        PEM_write_bio_PrivateKey(key.get(), key_.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1) {
      return Failed("writing");
    }
    return CertifiedKey{TextOf(certificate.get()), TextOf(key.get())};
  }
  absl::StatusOr<CertifiedKey> SignForItself() { return Sign(*certificate_, key_.get()); }
  X509* certificate() { return certificate_.get(); }

 private:
  static std::string TextOf(BIO* memory) {
    char* bytes = nullptr;
    const long n = BIO_get_mem_data(memory, &bytes);
    return {bytes, static_cast<size_t>(n)};
  }

  Owned<EVP_PKEY> key_;
  Owned<X509> certificate_;
};

}  // namespace

absl::StatusOr<CertifiedKey> MakeAuthority(const std::string& name, absl::Time now, absl::Duration valid_for) {
  ASSIGN_OR_RETURN(Draft draft, Draft::Begin(name, now, valid_for));
  RETURN_IF_ERROR(draft.Add(NID_basic_constraints, "critical,CA:TRUE,pathlen:0", nullptr));
  RETURN_IF_ERROR(draft.Add(NID_key_usage, "critical,keyCertSign,cRLSign", nullptr));
  RETURN_IF_ERROR(draft.Add(NID_subject_key_identifier, "hash", draft.certificate()));
  return draft.SignForItself();
}

absl::StatusOr<CertifiedKey> IssueCertificate(const CertifiedKey& authority, const CertificateRequest& request,
                                              absl::Time now) {
  const Owned<X509> issuer(PEM_read_bio_X509(ReaderOf(authority.certificate).get(), nullptr, nullptr, nullptr));
  const Owned<EVP_PKEY> issuer_key(PEM_read_bio_PrivateKey(ReaderOf(authority.key).get(), nullptr, nullptr, nullptr));
  if (issuer == nullptr || issuer_key == nullptr || X509_check_private_key(issuer.get(), issuer_key.get()) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("the authority's certificate and key do not belong together: ", TakeOpensslError()));
  }
  ASSIGN_OR_RETURN(const std::string names, NamesOf(request));
  ASSIGN_OR_RETURN(Draft draft,
                   Draft::Begin(absl::StrCat("longshelf ", RoleName(request.role)), now, request.valid_for));
  const bool serves = request.role != Role::kOperator && request.role != Role::kClient;
  RETURN_IF_ERROR(draft.Add(NID_basic_constraints, "critical,CA:FALSE", issuer.get()));
  RETURN_IF_ERROR(draft.Add(NID_key_usage, "critical,digitalSignature", issuer.get()));
  RETURN_IF_ERROR(draft.Add(NID_ext_key_usage, serves ? "serverAuth,clientAuth" : "clientAuth", issuer.get()));
  RETURN_IF_ERROR(draft.Add(NID_subject_key_identifier, "hash", issuer.get()));
  RETURN_IF_ERROR(draft.Add(NID_authority_key_identifier, "keyid", issuer.get()));
  RETURN_IF_ERROR(draft.Add(NID_subject_alt_name, names, issuer.get()));
  return draft.Sign(*issuer, issuer_key.get());
}

}  // namespace longshelf::net
