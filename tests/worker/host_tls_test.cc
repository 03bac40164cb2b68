// longshelf-host with TLS: which callers may have something run here.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>

#include "hosts/host_client.h"
#include "hosts/host_service.h"
#include "hosts/launch_request.h"
#include "proto/channel_settings.h"
#include "proto/credentials.h"
#include "test_authority.h"
#include "testing/fixtures.h"

namespace longshelf::worker {
namespace {

using net::Role;
using ::testing::HasSubstr;

class HostTlsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    keeper_ = *HostKeeper::Create({.work_dir = longshelf::testing::MakeTempDir("host").string(), .environment = {}});
    HostServerOptions options;
    options.listen = "127.0.0.1:0";
    options.tls = authority_.Identity("host", Role::kWorker);
    server_ = *HostServer::Start(options, *keeper_);
  }
  // What becomes of a request that is wrong, which is seen once its caller is let in.
  grpc::Status RunAs(const std::shared_ptr<net::TlsIdentity>& caller) {
    const auto channel =
        grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", server_->port()),
                                  proto::ChannelCredentials(caller, Role::kWorker), proto::InternalChannelArguments());
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    v1::HostRunReply reply;
    return v1::Host::NewStub(channel)->Run(&context, v1::HostRunRequest(), &reply);
  }

  net::TestAuthority authority_;
  std::unique_ptr<HostKeeper> keeper_;
  std::unique_ptr<HostServer> server_;
};

TEST_F(HostTlsTest, WorkersAndOperatorsAreLetIn) {
  for (const Role role : {Role::kWorker, Role::kOperator}) {
    const grpc::Status status = RunAs(authority_.Identity("caller", role));
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << net::RoleName(role);
    EXPECT_THAT(status.error_message(), HasSubstr("n_shards"));
  }
}

TEST_F(HostTlsTest, OthersAreTold) {
  for (const Role role : {Role::kRouter, Role::kKvstore, Role::kClient}) {
    EXPECT_EQ(RunAs(authority_.Identity("caller", role)).error_code(), grpc::StatusCode::PERMISSION_DENIED)
        << net::RoleName(role);
  }
  EXPECT_EQ(RunAs(nullptr).error_code(), grpc::StatusCode::UNAVAILABLE) << "without TLS";
  EXPECT_FALSE(keeper_->runs());
}

TEST_F(HostTlsTest, TheFirstHostOfAGroupCallsWithItsCertificate) {
  const std::filesystem::path directory = longshelf::testing::MakeTempDir("run");
  const auto connect_as = [&](Role role) {
    const net::TlsFiles files = authority_.Write("caller", role);
    LaunchRequest request;
    request.hosts = request.names = {"127.0.0.1"};
    request.run_dir = directory.string();
    request.port = server_->port();
    request.tls_cert = files.certificate;
    request.tls_key = files.key;
    request.tls_ca = files.authority;
    request.wait_seconds = 10;
    request.silence_ms = 5000;
    request.shards_per_host = 65;  // more than a host takes: nothing is started
    EXPECT_TRUE(WriteLaunchRequest(directory / "request", request).ok());
    return std::string(ConnectHost(directory / "request", "127.0.0.1", {"orted", "-mca", "ess", "env"}).message());
  };
  EXPECT_THAT(connect_as(Role::kWorker), HasSubstr("n_shards is 65"));
  EXPECT_THAT(connect_as(Role::kKvstore), HasSubstr("for the certificate of a worker or operator"));
}

}  // namespace
}  // namespace longshelf::worker
