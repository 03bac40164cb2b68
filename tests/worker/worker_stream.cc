#include "worker_stream.h"

#include <grpcpp/create_channel.h>

#include <chrono>
#include <thread>

#include "proto/channel_settings.h"
#include "proto/internal_auth.h"

namespace longshelf::testing {
namespace {

using std::chrono::seconds;
using Steady = std::chrono::steady_clock;

constexpr uint32_t kVocab = 4000;

}  // namespace

std::string ServingAddress(const SupervisedWorker& worker, int generation, const std::string& host) {
  const std::string before = " on port ";
  const auto deadline = Steady::now() + seconds(10);
  while (Steady::now() < deadline) {
    const std::string log = worker.log();
    size_t at = 0;
    for (int i = 0; i < generation && at != std::string::npos; ++i) at = log.find(before, at + 1);
    if (at != std::string::npos) {
      const size_t begin = at + before.size();
      return host + ":" + log.substr(begin, log.find(':', begin) - begin);
    }
    std::this_thread::yield();
  }
  return "";
}

Stream::Stream(const std::string& address, size_t n_prompt, uint32_t max_tokens, const std::string& token,
               size_t seed) {
  grpc::ChannelArguments args = proto::InternalChannelArguments();
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  stub_ = v1::Worker::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), args));
  context_.set_wait_for_ready(true);
  context_.set_deadline(std::chrono::system_clock::now() + seconds(120));
  proto::AddToken(context_, token);
  v1::WorkerGenerateRequest request;
  request.set_request_id("r");
  request.set_max_tokens(max_tokens);
  for (size_t i = 0; i < n_prompt; ++i) {
    request.add_prompt_tokens(static_cast<uint32_t>((i * 7919 + i * i + seed * 104729) % kVocab));
  }
  reader_ = stub_->Generate(&context_, request);
}

bool Stream::WaitBegun() {
  v1::WorkerGenerateEvent event;
  while (reader_->Read(&event)) {
    if (event.has_progress() || event.has_token()) return true;
  }
  return false;
}

Outcome Stream::Finish() {
  Outcome outcome;
  v1::WorkerGenerateEvent event;
  while (reader_->Read(&event)) {
    if (event.has_token()) outcome.tokens.push_back(event.token().token());
    if (event.has_started()) outcome.n_cached_store = event.started().n_cached_store();
    if (event.has_finished()) outcome.finished = true;
  }
  outcome.status = reader_->Finish();
  return outcome;
}

Outcome Generate(const std::string& address, const std::string& token) {
  return Stream(address, 300, 40, token).Finish();
}

}  // namespace longshelf::testing
