#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace longshelf::router {

// Who did what, when, and how it ended. Never text of prompts or answers, nor a key, nor anything else that a client
// wrote but its request id.
struct AuditRecord {
  absl::Time begun_at;       // of Clock::Now
  absl::Time ended_at = {};  // of Clock::WallNow
  absl::Duration elapsed = absl::ZeroDuration();
  std::string request_id;
  std::string tenant = {};  // empty: nobody known
  std::string key = {};     // its label
  std::string route = {};   // of our own tables
  int status = 0;           // of HTTP, or gRPC's code
  bool is_grpc = false;
  uint64_t n_prompt_tokens = 0;
  uint64_t n_output_tokens = 0;
  std::string client = {};  // its address
};
std::string AuditLine(const AuditRecord& record);  // JSON, and a line break

// A file that one line is added to for each request. Lines are written on a thread of its own and are dropped where
// that does not keep up or cannot write (a full disk): no request waits for it. A file that was moved away is begun
// anew.
class AuditLog {
 public:
  // `on_dropped` is told how many lines are lost, on any thread. INVALID_ARGUMENT: the file cannot be written.
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(std::string path, std::function<void(uint64_t n)> on_dropped);
  class Impl;
  explicit AuditLog(std::unique_ptr<Impl> impl);
  ~AuditLog();  // what was given is written by then
  // Any thread.
  void Write(const AuditRecord& record);

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace longshelf::router
