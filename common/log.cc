#include "common/log.h"

#include <fmt/chrono.h>
#include <spdlog/async.h>
#include <spdlog/formatter.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <chrono>
#include <utility>

#include "absl/strings/string_view.h"

namespace longshelf {
namespace {

constexpr size_t kQueuedLinesMax = 8192;

// Length of the valid UTF-8 sequence at the start of `text`, or 0.
size_t Utf8Length(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  const size_t n = lead < 0x80 ? 1 : lead >= 0xC2 && lead < 0xE0 ? 2 : lead < 0xF0 && lead >= 0xE0 ? 3 : 4;
  if (lead > 0xF4 || (lead >= 0x80 && lead < 0xC2) || text.size() < n) return 0;
  for (size_t i = 1; i < n; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  if (n == 3 && ((lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xED && byte(1) >= 0xA0))) return 0;
  if (n == 4 && ((lead == 0xF0 && byte(1) < 0x90) || (lead == 0xF4 && byte(1) >= 0x90))) return 0;
  return n;
}

// The text without anything that could end a line or a JSON string early. U+0085, U+2028 and U+2029 end lines for some
// readers, and C1 controls drive terminals.
void AppendEscaped(absl::string_view text, bool json, spdlog::memory_buf_t& out) {
  const auto append = [&out](absl::string_view piece) { out.append(piece.data(), piece.data() + piece.size()); };
  while (!text.empty()) {
    const size_t n = Utf8Length(text);
    const auto lead = static_cast<unsigned char>(text[0]);
    const absl::string_view piece = text.substr(0, std::max<size_t>(n, 1));
    if (n == 0) {
      append("\xEF\xBF\xBD");  // U+FFFD
    } else if (lead == '\n') {
      append("\\n");
    } else if (lead < 0x20 || lead == 0x7F) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", lead);
    } else if (n == 2 && lead == 0xC2 && static_cast<unsigned char>(text[1]) < 0xA0) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned char>(text[1]));
    } else if (piece == "\xE2\x80\xA8" || piece == "\xE2\x80\xA9") {
      append(piece == "\xE2\x80\xA8" ? "\\u2028" : "\\u2029");
    } else if (json && (lead == '"' || lead == '\\')) {
      append(lead == '"' ? "\\\"" : "\\\\");
    } else {
      append(piece);
    }
    text.remove_prefix(piece.size());
  }
}

class LineFormatter final : public spdlog::formatter {
 public:
  LineFormatter(bool json, std::string program) : json_(json), program_(std::move(program)) {}

  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const auto seconds = std::chrono::floor<std::chrono::seconds>(message.time);
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(message.time - seconds).count();
    const std::string time =
        fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(std::chrono::system_clock::to_time_t(seconds)), ms);
    const auto level = spdlog::level::to_string_view(message.level);
    const auto it = std::back_inserter(out);
    if (json_) {
      fmt::format_to(it, R"({{"time":"{}","level":"{}","program":"{}","thread":{},"message":")", time, level, program_,
                     message.thread_id);
    } else {
      fmt::format_to(it, "{} {:<8} {} ", time, level, program_);
    }
    AppendEscaped({message.payload.data(), message.payload.size()}, json_, out);
    const absl::string_view end = json_ ? "\"}\n" : "\n";
    out.append(end.data(), end.data() + end.size());
  }

  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<LineFormatter>(json_, program_); }

 private:
  const bool json_;
  const std::string program_;
};

}  // namespace

void AddLogOptions(ConfigSpec& spec, LogConfig* config) {
  spec.Group("Logging");
  spec.AddChoice(&config->format, "log-format", "form of log lines", {"text", "json"});
  spec.AddChoice(&config->level, "log-level", "least severity that is logged",
                 {"trace", "debug", "info", "warning", "error"});
}

Logging::Logging(const LogConfig& config, std::string program)
    : Logging(config, std::move(program), std::make_shared<spdlog::sinks::stderr_sink_mt>()) {}

Logging::Logging(const LogConfig& config, std::string program, std::shared_ptr<spdlog::sinks::sink> sink) {
  spdlog::init_thread_pool(kQueuedLinesMax, 1);
  auto logger = std::make_shared<spdlog::async_logger>(program, std::move(sink), spdlog::thread_pool(),
                                                       spdlog::async_overflow_policy::overrun_oldest);
  logger->set_formatter(std::make_unique<LineFormatter>(config.format == "json", program));
  logger->set_level(spdlog::level::from_str(config.level));
  logger_ = logger;
  spdlog::set_default_logger(std::move(logger));
}

Logging::~Logging() { spdlog::shutdown(); }

}  // namespace longshelf
