#pragma once

#include <spdlog/spdlog.h>

#include <memory>
#include <string>

#include "common/config.h"

namespace longshelf {

// How a process logs. Code logs with spdlog::info("...") and friends. Never text of prompts or answers, nor keys.
struct LogConfig {
  std::string format = "text";  // or "json": one object per line
  std::string level = "info";
};

// Binds --log-format and --log-level.
void AddLogOptions(ConfigSpec& spec, LogConfig* config);

// Owns the process's log from construction to destruction; main holds the only one. Lines go to standard error through
// a bounded queue that drops its oldest entries, so a full disk or a stopped reader never blocks a serving thread.
// Control characters and broken UTF-8 in a message are escaped: one message is always one line, whatever a client put
// into it.
class Logging {
 public:
  Logging(const LogConfig& config, std::string program);
  // The same into `sink`, for tests.
  Logging(const LogConfig& config, std::string program, std::shared_ptr<spdlog::sinks::sink> sink);
  ~Logging();  // writes what is queued
  Logging(const Logging&) = delete;
  Logging& operator=(const Logging&) = delete;

 private:
  // Held past spdlog's own references, so that the sink ends here, after the writing thread has.
  std::shared_ptr<spdlog::logger> logger_;
};

}  // namespace longshelf
