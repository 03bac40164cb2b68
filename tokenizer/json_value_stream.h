#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tokenizer/completion_parser.h"

namespace longshelf::tokenizer::internal {

// One JSON value that a model writes, passed on as it comes. What is JSON comes out byte for byte; what is not is made
// JSON in place: text without quotes gets them, a control character in a string is escaped, a comma too many is left
// out, what does not fit becomes a string, what is open at the end is closed.
class JsonValueStream {
 public:
  void Push(std::string_view text, std::string& out);
  void Finish(StreamEnd end, std::string& out);

 private:
  // What the bytes to come are part of.
  enum class Mode : uint8_t {
    kStart,
    kWholeScalar,  // the value is neither string, object nor array: kept to its end
    kContainer,
    kScalar,  // in a container
    kString,
    kEscape,  // token_ holds it from its backslash on
    kTail,    // the value is complete but for token_, which is written at the end
    kRest,    // of what did not fit: a string
  };
  enum class Expect : uint8_t { kValue, kValueOrEnd, kKey, kKeyOrEnd, kColon, kCommaOrEnd };

  bool Take(char c, std::string& out);  // false: look at this byte again
  void Start(char c, std::string& out);
  bool TakeInContainer(char c, std::string& out);
  bool TakeInString(char c, std::string& out);
  bool TakeInEscape(char c, std::string& out);
  void Close(char c, std::string& out);
  void EndScalar(std::string& out);
  void WriteComma(std::string& out);
  // Writes `text` and all that follows as one string at this place.
  void BeginRest(std::string_view text, std::string& out);
  void CloseContainers(std::string& out);

  Mode mode_ = Mode::kStart;
  Expect expect_ = Expect::kValue;
  std::string open_;   // brackets of the containers around this place
  std::string token_;  // not written yet
  std::string comma_;  // likewise, with the blanks behind it
  bool is_key_ = false;
};

}  // namespace longshelf::tokenizer::internal
