#pragma once

// The credentials of every gRPC listener and channel of ours: the one place where TLS meets gRPC. Include this from
// *_service.*, *_client.* and main.cc only.

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <memory>
#include <string>

#include "net/certificate.h"
#include "net/tls_identity.h"

namespace longshelf::proto {

using TlsIdentityPtr = std::shared_ptr<net::TlsIdentity>;

// Plain when `tls` is null. Follows the identity's files; must not outlive it.
std::shared_ptr<grpc::ServerCredentials> ListenerCredentials(const TlsIdentityPtr& tls, net::PeerCertificate peer);

// The same. The server's certificate must be signed by the identity's authority, be for the host that is called (see
// ExpectServerName), and name `server` as its role.
std::shared_ptr<grpc::ChannelCredentials> ChannelCredentials(const TlsIdentityPtr& tls, net::Role server);

// The server's certificate is for this name, not for the address that the channel is given: of an address that a name
// resolved to. Nothing when `name` is empty.
void ExpectServerName(grpc::ChannelArguments& args, const std::string& name);

}  // namespace longshelf::proto
