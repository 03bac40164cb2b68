#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/chat.h"

// What a model writes, read while it is sampled.
namespace longshelf::tokenizer {

// A piece of an answer. Pieces come in the order in which the model wrote them.
struct AnswerPiece {
  enum class Kind : uint8_t {
    kReasoning,
    kContent,
    kCallBegin,      // text is the name of the tool; pieces of its arguments follow, up to kCallEnd
    kCallArguments,  // text is JSON: all of a call's pieces together are one object
    kCallEnd,        // the call is complete
  };
  Kind kind;
  std::string text;
};

// Ends of a stream.
enum class StreamEnd : uint8_t {
  kComplete,  // the model ended it: what is open is closed
  kCutOff,    // by a length or a stop string: what is open stays open, and has no kCallEnd
};

// Reads a completion, stops at stop strings, and mends what the model got wrong. What ParseCompletion accepts gives the
// same message, but for three repairs: a parameter value that is not the JSON it claims to be is made JSON (what does
// not fit becomes text in it), markup inside a value closes the value, and a call that the model ends without closing
// it is closed.
//
// Arguments leave as they are written: of a string everything but what may still become markup, of an object or array
// every byte that is JSON so far, of numbers and words the whole value at its end.
//
// Markup is never text. What stands outside the grammar becomes content, without the markup around it; markup that is
// cut off is dropped, and so is the head of a call that no argument follows. Names inside such markup are all that is
// lost, and what stands between the arguments of a call that is cut off. The concatenated pieces do not depend on how
// the input was split. Linear time. One per output stream.
class CompletionParser {
 public:
  // `stops` apply to everything behind the reasoning, markup included. Empty ones are ignored.
  explicit CompletionParser(ThinkingMode mode, const std::vector<std::string>& stops = {});
  ~CompletionParser();
  CompletionParser(CompletionParser&&) noexcept;

  void Push(std::string_view text, std::vector<AnswerPiece>& pieces);
  // Last call; a stop string that was found before makes it kCutOff.
  void Finish(StreamEnd end, std::vector<AnswerPiece>& pieces);

  // A stop string was found: nothing more is read.
  bool stopped() const;
  std::string_view stopped_by() const;  // empty while none was
  // True until </think> was seen, or tool calls began without it (thinking mode).
  bool in_reasoning() const;
  // A call was begun and is not complete.
  bool in_call() const;
  // Bytes looked at so far; tests prove with it that time is linear.
  uint64_t work() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace longshelf::tokenizer
