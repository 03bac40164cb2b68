#pragma once

#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/mailbox.h"
#include "common/metrics.h"
#include "proto/channel_settings.h"
#include "proto/credentials.h"
#include "worker/worker_service.h"

namespace longshelf::worker {

// A served worker without an engine: the test takes messages from the inbox and plays the engine thread itself.
class ServiceFixture : public ::testing::Test {
 protected:
  static constexpr auto kPatience = std::chrono::seconds(20);

  static WorkerServiceOptions Options() {
    WorkerServiceOptions options;
    options.worker_id = "w0";
    options.model_name = "demo";
    options.fingerprint.fill(7);
    options.vocab_size = 1000;
    options.n_context_max = 512;
    options.n_sequences_max = 8;
    options.generation = 3;
    options.kernel_isa = "test";
    options.numerics = "native";
    options.version = "0.1.0";
    return options;
  }

  void Serve(WorkerServiceOptions options, PrefixSource* prefixes = nullptr,
             const std::shared_ptr<net::TlsIdentity>& tls = nullptr) {
    service_ = std::make_unique<WorkerService>(std::move(options), clock_, inbox_, hub_, worker_metrics_, prefixes);
    auto server = WorkerServer::Start("127.0.0.1:0", *service_, tls);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(server).value();
    channel_ = NewChannel();
    stub_ = v1::Worker::NewStub(channel_);
  }

  // With TLS by `tls`, to whom has the certificate of a `server`.
  std::shared_ptr<grpc::Channel> NewChannel(const std::shared_ptr<net::TlsIdentity>& tls = nullptr,
                                            net::Role server = net::Role::kWorker) const {
    grpc::ChannelArguments args = proto::InternalChannelArguments();
    args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()),
                                     proto::ChannelCredentials(tls, server), args);
  }

  void TearDown() override {
    inbox_.Close();
    inbox_.Drain(std::chrono::milliseconds(0));
    if (server_ != nullptr) server_->Shutdown(absl::ZeroDuration());
    server_.reset();
    service_.reset();
  }

  static v1::WorkerGenerateRequest GoodRequest() {
    v1::WorkerGenerateRequest request;
    request.set_request_id("r1");
    request.set_epoch(5);
    for (uint32_t i = 0; i < 3; ++i) request.add_prompt_tokens(i + 1);
    request.set_max_tokens(16);
    return request;
  }

  // The next message of type M, which must be next.
  template <typename M>
  M Take() {
    if (taken_.empty()) {
      for (auto& message : inbox_.Drain(kPatience)) taken_.push_back(std::move(message));
    }
    EXPECT_FALSE(taken_.empty()) << "the engine was told nothing";
    if (taken_.empty()) return M{};
    engine::EngineMessage message = std::move(taken_.front());
    taken_.erase(taken_.begin());
    EXPECT_TRUE(std::holds_alternative<M>(message)) << "message of kind " << message.index();
    return std::holds_alternative<M>(message) ? std::get<M>(std::move(message)) : M{};
  }

  bool EngineWasToldNothing() { return taken_.empty() && inbox_.size() == 0; }

  static engine::OutputToken TokenEvent(uint32_t index, uint32_t token, size_t n_logits = 0) {
    engine::OutputToken out;
    out.index = index;
    out.token.token = token;
    out.token.logits.assign(n_logits, 0.5F);
    return out;
  }

  SystemClock clock_;
  Mailbox<engine::EngineMessage> inbox_{8};
  std::vector<engine::EngineMessage> taken_;
  WatchHub hub_;
  Metrics metrics_{"worker_test"};
  WorkerMetrics worker_metrics_{metrics_};
  std::unique_ptr<WorkerService> service_;
  std::unique_ptr<WorkerServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Worker::Stub> stub_;
};

}  // namespace longshelf::worker
