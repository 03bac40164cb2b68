#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "longshelf/v1/worker.grpc.pb.h"
#include "supervised.h"

namespace longshelf::testing {

// Where a generation (1 is the first in the log) serves: `host` and the port that its log line names; "" when it does
// not say so within ten seconds, as the line is written behind the event.
std::string ServingAddress(const SupervisedWorker& worker, int generation, const std::string& host = "127.0.0.1");

struct Outcome {
  std::vector<uint32_t> tokens;
  grpc::Status status;
  uint32_t n_cached_store = 0;  // prompt tokens that came from the KV store
  bool finished = false;
};

// One Generate call to a worker whose beginning can be waited for.
class Stream {
 public:
  // Prompts of one `seed` begin alike, others differ.
  Stream(const std::string& address, size_t n_prompt, uint32_t max_tokens, const std::string& token = "",
         size_t seed = 0);
  // Something of the prompt has been computed.
  bool WaitBegun();
  Outcome Finish();

 private:
  std::unique_ptr<v1::Worker::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::WorkerGenerateEvent>> reader_;
};

// The same prompt every time.
Outcome Generate(const std::string& address, const std::string& token = "");

}  // namespace longshelf::testing
