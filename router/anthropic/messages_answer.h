#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block_answer.h"
#include "router/served_model.h"
#include "thinking_signature.h"

// Answers as the Anthropic Messages API has them.
namespace longshelf::router {

class MessagesAnswer : public BlockAnswer {
 public:
  struct Head {
    std::string id;  // "msg_..."
    std::string model;
    bool context_is_limit = false;  // not max_tokens: less was left
  };
  MessagesAnswer(Head head, ThinkingSigner signer) : head_(std::move(head)), signer_(std::move(signer)) {}

  void Skip(uint32_t, const ChoiceDelta&) override {}  // sessions are of other APIs
  void AnsweredBy(std::string fingerprint, const Usage& usage) override;
  std::string Finished(uint32_t choice, const ChoiceEnd& end) override;

 protected:
  // As those of BlockAnswer. `signature`: of thinking.
  virtual std::string WriteBegin() = 0;
  virtual std::string WriteText(std::string_view text) = 0;
  virtual std::string WriteEnd(const std::string& signature, bool is_complete) = 0;

  const Head head_;
  Usage usage_;  // of the prompt, once a worker has begun
  std::string stop_reason_;
  std::string stop_sequence_;  // empty: none ended it
  Block block_;

 private:
  std::string BeginBlock(const Block& block) final;
  std::string AddToBlock(std::string_view text) final;
  std::string EndBlock(bool is_complete) final;

  const ThinkingSigner signer_;
  std::optional<ThinkingSigner::Signature> signature_;
};

// message_start, then content_block_start, _delta and _stop for each block, message_delta, message_stop.
class MessagesStream final : public MessagesAnswer {
 public:
  using MessagesAnswer::MessagesAnswer;
  std::string Opening() override;
  std::string Done(const Usage& usage) override;
  std::string Error(const ApiError& error) override;
  std::string Progress(const PrefillProgress& progress) override;
  std::string KeepAlive() override;
  bool is_stream() const override { return true; }

 private:
  std::string WriteBegin() override;
  std::string WriteText(std::string_view text) override;
  std::string WriteEnd(const std::string& signature, bool is_complete) override;

  int index_ = -1;
};

class MessagesWhole final : public MessagesAnswer {
 public:
  using MessagesAnswer::MessagesAnswer;
  std::string Opening() override { return ""; }
  std::string Done(const Usage& usage) override;
  std::string Error(const ApiError& error) override;
  std::string Progress(const PrefillProgress&) override { return ""; }
  std::string KeepAlive() override { return "\n"; }
  bool is_stream() const override { return false; }

 private:
  std::string WriteBegin() override;
  std::string WriteText(std::string_view text) override;
  std::string WriteEnd(const std::string& signature, bool is_complete) override;

  std::string text_;     // of the block, or its arguments
  std::string content_;  // JSON of the blocks before, with commas between them
};

// {"input_tokens": N}
std::string TokenCountJson(const PreparedRequest& prepared);

}  // namespace longshelf::router
