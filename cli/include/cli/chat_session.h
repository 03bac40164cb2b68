#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace longshelf::cli {

// What every request of a conversation carries; unset fields are left to the server.
struct ChatSettings {
  std::string model = {};
  std::string system = {};
  std::string thinking = {};  // "enabled", "disabled" or empty
  std::string effort = {};    // "low" .. "max" or empty
  std::optional<int64_t> max_tokens = {};
  std::optional<double> temperature = {};
  std::optional<double> top_p = {};
  std::optional<int64_t> seed = {};
};

// The turns so far.
class ChatSession {
 public:
  explicit ChatSession(ChatSettings settings) : settings_(std::move(settings)) {}

  // The JSON body that asks for an answer to `user_text` after the turns so far; bytes that are not UTF-8 are replaced.
  std::string RequestBody(const std::string& user_text) const;
  // The answer came: both become turns.
  void AddTurn(std::string user_text, std::string answer);
  void Reset() { turns_.clear(); }
  size_t n_turns() const { return turns_.size(); }

 private:
  struct Turn {
    std::string user;
    std::string assistant;
  };
  ChatSettings settings_;
  std::vector<Turn> turns_;
};

// Reads one streamed answer: server-sent events in pieces of any size.
class AnswerStream {
 public:
  enum class Kind { kReasoning, kContent };

  explicit AnswerStream(std::function<void(Kind kind, const std::string& text)> on_text)
      : on_text_(std::move(on_text)) {}

  void Feed(absl::string_view bytes);

  // What went wrong, by an error event or by events that are none.
  const absl::Status& status() const { return status_; }
  bool done() const { return done_; }  // saw [DONE]
  const std::string& content() const { return content_; }
  const std::string& finish_reason() const { return finish_reason_; }
  // From usage; -1 when the server said nothing.
  int64_t n_prompt_tokens() const { return n_prompt_tokens_; }
  int64_t n_cached_tokens() const { return n_cached_tokens_; }
  int64_t n_completion_tokens() const { return n_completion_tokens_; }

 private:
  void TakeLine(absl::string_view line);
  void TakeEvent(const std::string& data);

  std::function<void(Kind, const std::string&)> on_text_;
  std::string line_;
  std::string data_;
  absl::Status status_;
  bool done_ = false;
  std::string content_;
  std::string finish_reason_;
  int64_t n_prompt_tokens_ = -1;
  int64_t n_cached_tokens_ = -1;
  int64_t n_completion_tokens_ = -1;
};

// The message of an error answer in OpenAI's shape, or the start of the body.
std::string ErrorMessage(const std::string& body);

// The names in the answer of GET /v1/models.
std::vector<std::string> ModelNames(const std::string& body);

// Without control characters other than line break and tab: a model must not drive the terminal.
std::string ForTerminal(absl::string_view text);

}  // namespace longshelf::cli
