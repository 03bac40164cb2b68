#include "proto/credentials.h"

#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <spdlog/spdlog.h>

#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/check.h"
#include "net/log_gate.h"

namespace longshelf::proto {
namespace {

namespace tls_api = grpc::experimental;

constexpr unsigned kRefreshSeconds = 1;

// One for all that use the identity: it has a thread, and reads the files by itself. It is given the identity's own
// ones, never the original ones: a key that does not fit its certificate makes this gRPC (1.51) free what it still
// uses.
std::shared_ptr<tls_api::CertificateProviderInterface> ProviderOf(net::TlsIdentity& tls) {
  return std::static_pointer_cast<tls_api::CertificateProviderInterface>(
      tls.Attachment([&tls]() -> std::shared_ptr<tls_api::CertificateProviderInterface> {
        return std::make_shared<tls_api::FileWatcherCertificateProvider>(tls.pair_path(), tls.pair_path(),
                                                                         tls.authority_path(), kRefreshSeconds);
      }));
}

// Whether the server is who is meant, after the handshake has shown that an authority of ours has signed for it.
class ServerVerifier final : public tls_api::ExternalCertificateVerifier {
 public:
  explicit ServerVerifier(net::Role role) : role_(role) {}

  bool Verify(tls_api::TlsCustomVerificationCheckRequest* request, std::function<void(grpc::Status)> callback,
              grpc::Status* sync_status) override {
    const bool done = host_.Verify(request, std::move(callback), sync_status);
    LONGSHELF_CHECK(done);  // it compares names
    const grpc::string_ref target = request->target_name();
    const std::string host(target.data(), target.size());
    if (!sync_status->ok()) {
      Refuse(absl::StrCat("the certificate of ", host, " is not for that name or address"), sync_status);
    } else if (!HasRole(request)) {
      Refuse(absl::StrCat("the certificate of ", host, " is not that of a ", net::RoleName(role_)), sync_status);
    }
    return true;
  }
  void Cancel(tls_api::TlsCustomVerificationCheckRequest*) override {}

 private:
  bool HasRole(tls_api::TlsCustomVerificationCheckRequest* request) const {
    for (const grpc::string_ref& uri : request->uri_names()) {
      if (net::RoleOfUri({uri.data(), uri.size()}) == role_) return true;
    }
    return false;
  }

  // Callers see a server that cannot be reached, and ask again every second.
  void Refuse(const std::string& why, grpc::Status* status) {
    *status = {grpc::StatusCode::UNAUTHENTICATED, why};
    if (const auto n_passed_over = gate_.Open(absl::Now())) {
      spdlog::warn("not connected: {} ({} more since the last)", why, *n_passed_over);
    }
  }

  const net::Role role_;
  tls_api::HostNameCertificateVerifier host_;
  net::LogGate gate_;
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> ListenerCredentials(const TlsIdentityPtr& tls, net::PeerCertificate peer) {
  if (tls == nullptr) return grpc::InsecureServerCredentials();
  tls_api::TlsServerCredentialsOptions options(ProviderOf(*tls));
  options.watch_identity_key_cert_pairs();
  if (peer != net::PeerCertificate::kNone) options.watch_root_certs();
  options.set_cert_request_type(peer == net::PeerCertificate::kNone ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                : peer == net::PeerCertificate::kAsked
                                    ? GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY
                                    : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  return tls_api::TlsServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> ChannelCredentials(const TlsIdentityPtr& tls, net::Role server) {
  if (tls == nullptr) return grpc::InsecureChannelCredentials();
  tls_api::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(ProviderOf(*tls));
  options.watch_identity_key_cert_pairs();
  options.watch_root_certs();
  options.set_certificate_verifier(tls_api::ExternalCertificateVerifier::Create<ServerVerifier>(server));
  // Of the host that is named in a call: ours name the channel's, which the verifier has seen.
  options.set_check_call_host(false);
  return tls_api::TlsCredentials(options);
}

void ExpectServerName(grpc::ChannelArguments& args, const std::string& name) {
  if (!name.empty()) args.SetSslTargetNameOverride(name);
}

}  // namespace longshelf::proto
