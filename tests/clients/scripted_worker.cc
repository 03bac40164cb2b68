// A worker that answers agents as a file says: for tests of real clients against the real router.
//
// Usage: scripted_worker LISTEN MODEL SCRIPT. The script has answers, "\n=====\n" between them. A prompt with tools
// gets the answer whose place is the number of tool results in it, the last one if there are more; any other prompt
// gets "Fine.". For every prompt with tools a line of JSON tells how much of it was in the one before ("shared" of
// "last"), and how much in the one before with its answer ("kept" of "written").
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_split.h"
#include "longshelf/v1/worker.grpc.pb.h"
#include "tokenizer/tokenizer.h"

namespace longshelf {
namespace {

constexpr uint32_t kContext = 1u << 20;
constexpr uint32_t kVocabulary = 4224;  // of the demo model
constexpr char kEnd[] = "<｜end▁of▁sentence｜>";

size_t CountOf(const std::string& text, std::string_view part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

class ScriptedWorker final : public v1::Worker::Service {
 public:
  ScriptedWorker(std::shared_ptr<const tokenizer::Tokenizer> tokenizer, std::vector<std::string> answers)
      : tokenizer_(std::move(tokenizer)), answers_(std::move(answers)) {}

  grpc::Status Generate(grpc::ServerContext*, const v1::WorkerGenerateRequest* request,
                        grpc::ServerWriter<v1::WorkerGenerateEvent>* writer) override {
    const std::vector<uint32_t> prompt(request->prompt_tokens().begin(), request->prompt_tokens().end());
    const std::vector<uint32_t> answer = tokenizer_->Encode(AnswerTo(prompt)).value();
    v1::WorkerGenerateEvent event;
    event.set_epoch(request->epoch());
    event.mutable_started()->set_n_prompt_tokens(static_cast<uint32_t>(prompt.size()));
    writer->Write(event);
    auto next = static_cast<uint32_t>(request->committed_tokens_size());
    for (; next < answer.size() && next < request->max_tokens(); ++next) {
      event.mutable_token()->set_index(next);
      event.mutable_token()->set_token(answer[next]);
      if (!writer->Write(event)) return grpc::Status::CANCELLED;
    }
    event.mutable_finished()->set_reason(next == answer.size() ? v1::Finished::REASON_STOP
                                                               : v1::Finished::REASON_LENGTH);
    event.mutable_finished()->set_n_output_tokens(next);
    writer->Write(event);
    return grpc::Status::OK;
  }

  grpc::Status Watch(grpc::ServerContext* context, const v1::WatchRequest*,
                     grpc::ServerWriter<v1::WatchEvent>* writer) override {
    v1::WatchEvent event;
    event.set_generation(1);
    event.mutable_load()->set_n_sequences_max(16);
    for (bool snapshot = true; !context->IsCancelled(); snapshot = false) {
      event.set_snapshot(snapshot);
      event.mutable_load()->set_n_steps(event.load().n_steps() + 1);
      if (!writer->Write(event)) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return grpc::Status::OK;
  }

  grpc::Status Status(grpc::ServerContext*, const v1::WorkerStatusRequest*, v1::WorkerStatusReply* reply) override {
    reply->set_worker_id("scripted");
    reply->set_model_name("demo");
    reply->set_fingerprint(std::string(32, '\1'));
    reply->set_vocab_size(kVocabulary);
    reply->set_block_tokens(256);
    reply->set_n_context_max(kContext);
    reply->set_generation(1);
    reply->set_ready(true);
    return grpc::Status::OK;
  }

 private:
  std::string AnswerTo(const std::vector<uint32_t>& prompt) {
    const std::string text = tokenizer_->Decode(prompt);
    const bool thinks = text.ends_with("<think>");
    if (text.find("## Tools") == std::string::npos) return std::string(thinks ? "Hm.</think>" : "") + "Fine." + kEnd;
    const size_t turn = CountOf(text, "<tool_result>");
    std::string answer =
        std::string(thinks ? "I know what to do.</think>" : "") + answers_[std::min(turn, answers_.size() - 1)] + kEnd;
    const std::vector<uint32_t> written = tokenizer_->Encode(answer).value();
    const std::lock_guard lock(mutex_);
    const auto same = static_cast<size_t>(std::ranges::mismatch(prompt, written_).in1 - prompt.begin());
    std::cout << "{\"turn\": " << turn << ", \"tokens\": " << prompt.size() << ", \"last\": " << n_last_
              << ", \"shared\": " << std::min(same, n_last_) << ", \"written\": " << written_.size()
              << ", \"kept\": " << same << "}" << std::endl;
    n_last_ = prompt.size();
    written_ = prompt;
    written_.insert(written_.end(), written.begin(), written.end());
    return answer;
  }

  const std::shared_ptr<const tokenizer::Tokenizer> tokenizer_;
  const std::vector<std::string> answers_;
  std::mutex mutex_;  // guards the last prompt, which calls of several threads compare theirs with
  size_t n_last_ = 0;
  std::vector<uint32_t> written_;  // that prompt, and its answer
};

}  // namespace
}  // namespace longshelf

int main(int argc, char** argv) {
  using namespace longshelf;  // main has no namespace of its own
  if (argc != 4) {
    std::cerr << "usage: scripted_worker LISTEN MODEL SCRIPT\n";
    return 64;
  }
  const auto tokenizer = tokenizer::Tokenizer::Load(argv[2]);
  std::ifstream file(argv[3]);
  std::stringstream script;
  script << file.rdbuf();
  if (!tokenizer.ok() || !file) {
    std::cerr << "scripted_worker: cannot read " << argv[2] << " or " << argv[3] << "\n";
    return 78;
  }
  ScriptedWorker worker(*tokenizer, absl::StrSplit(script.str(), "\n=====\n"));
  grpc::ServerBuilder builder;
  builder.AddListeningPort(argv[1], grpc::InsecureServerCredentials());
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 100);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.RegisterService(&worker);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return 69;
  server->Wait();
  return 0;
}
