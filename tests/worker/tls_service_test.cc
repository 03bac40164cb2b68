// A worker's edge with TLS: who is answered.
#include <gmock/gmock.h>

#include <functional>

#include "service_fixture.h"
#include "test_authority.h"

namespace longshelf::worker {
namespace {

using net::Role;
using ::testing::HasSubstr;

class TlsServiceTest : public ServiceFixture {
 protected:
  void ServeWithTls(const std::string& token = "") {
    WorkerServiceOptions options = Options();
    options.callers = *proto::CallerRules::Make(token, /*with_tls=*/true, net::kCallersOfWorker);
    Serve(options, nullptr, server_identity_);
  }
  grpc::Status StatusOver(const std::shared_ptr<grpc::Channel>& channel, const std::string& token = "") {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    proto::AddToken(context, token);
    v1::WorkerStatusReply reply;
    return v1::Worker::NewStub(channel)->Status(&context, {}, &reply);
  }
  grpc::Status StatusAs(Role role) { return StatusOver(NewChannel(authority_.Identity("caller", role))); }

  net::TestAuthority authority_;
  std::shared_ptr<net::TlsIdentity> server_identity_ = authority_.Identity("server", Role::kWorker);
};

TEST_F(TlsServiceTest, AnswersRoutersAndOperatorsOnly) {
  ServeWithTls();
  EXPECT_TRUE(StatusAs(Role::kRouter).ok());
  EXPECT_TRUE(StatusAs(Role::kOperator).ok());
  for (const Role role : {Role::kWorker, Role::kKvstore, Role::kClient}) {
    const grpc::Status refused = StatusAs(role);
    EXPECT_EQ(refused.error_code(), grpc::StatusCode::PERMISSION_DENIED) << net::RoleName(role);
    EXPECT_THAT(refused.error_message(), HasSubstr("for the certificate of a router or operator"));
  }
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("longshelf_worker_auth_refused_total 3\n"));
}

TEST_F(TlsServiceTest, EveryMethodLooksAtTheRoleAndTheEngineHearsOfNoneRefused) {
  ServeWithTls();
  const auto stub = v1::Worker::NewStub(NewChannel(authority_.Identity("caller", Role::kClient)));
  using Call = std::function<grpc::Status(grpc::ClientContext&)>;
  const std::vector<std::pair<std::string, Call>> calls = {
      {"Generate",
       [&](grpc::ClientContext& context) {
         const auto reader = stub->Generate(&context, GoodRequest());
         v1::WorkerGenerateEvent event;
         EXPECT_FALSE(reader->Read(&event));
         return reader->Finish();
       }},
      {"Watch",
       [&](grpc::ClientContext& context) {
         const auto reader = stub->Watch(&context, {});
         v1::WatchEvent event;
         EXPECT_FALSE(reader->Read(&event));
         return reader->Finish();
       }},
      {"Park",
       [&](grpc::ClientContext& context) {
         v1::ParkReply reply;
         return stub->Park(&context, {}, &reply);
       }},
      {"Drain",
       [&](grpc::ClientContext& context) {
         v1::DrainReply reply;
         return stub->Drain(&context, {}, &reply);
       }},
  };
  for (const auto& [name, call] : calls) {
    grpc::ClientContext context;
    EXPECT_EQ(call(context).error_code(), grpc::StatusCode::PERMISSION_DENIED) << name;
  }
  EXPECT_TRUE(EngineWasToldNothing());
}

TEST_F(TlsServiceTest, WithATokenBothAreNeeded) {
  const std::string token = "0123456789abcdef";
  ServeWithTls(token);
  const auto router = NewChannel(authority_.Identity("router", Role::kRouter));
  EXPECT_EQ(StatusOver(router).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(StatusOver(router, token).ok());
  EXPECT_EQ(StatusOver(NewChannel(authority_.Identity("client", Role::kClient)), token).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
}

TEST_F(TlsServiceTest, WithoutACertificateOfOursThereIsNoConnection) {
  ServeWithTls();
  EXPECT_EQ(StatusOver(NewChannel()).error_code(), grpc::StatusCode::UNAVAILABLE) << "plain";
  net::TestAuthority stranger;
  net::TlsFiles files = stranger.Write("caller", Role::kRouter);
  files.authority = authority_.files().authority;
  EXPECT_EQ(StatusOver(NewChannel(authority_.Load(files))).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(TlsServiceTest, ACallerWhoWantsAnotherRoleDoesNotTalkToAWorker) {
  ServeWithTls();
  const grpc::Status refused =
      StatusOver(NewChannel(authority_.Identity("caller", Role::kRouter), /*server=*/Role::kKvstore));
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(refused.error_message(), HasSubstr("is not that of a kvstore"));
}

TEST_F(TlsServiceTest, ARunningStreamOutlivesItsCertificate) {
  ServeWithTls();
  const auto router = authority_.Identity("router", Role::kRouter);
  const auto stub = v1::Worker::NewStub(NewChannel(router));
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, GoodRequest());
  const engine::Submit submit = Take<engine::Submit>();
  submit.request.sink->OnEvent(engine::Started{});
  v1::WorkerGenerateEvent event;
  ASSERT_TRUE(reader->Read(&event));
  const std::string server_serial = server_identity_->certificate().serial;
  const std::string router_serial = router->certificate().serial;
  authority_.Write("server", Role::kWorker);
  authority_.Write("router", Role::kRouter);
  net::AwaitAnother(*server_identity_, server_serial);
  net::AwaitAnother(*router, router_serial);
  submit.request.sink->OnEvent(TokenEvent(0, 42));
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.token().token(), 42u);
  EXPECT_TRUE(StatusOver(NewChannel(router)).ok());
  context.TryCancel();
}

}  // namespace
}  // namespace longshelf::worker
