#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "json_value_stream.h"

namespace longshelf::tokenizer::internal {

// What stands between <｜DSML｜parameter and </｜DSML｜parameter, as it comes. Takes more than the grammar allows:
// another or no `string` attribute, text that is not the JSON it claims to be.
class ParameterStream {
 public:
  struct Output {
    std::string members;  // of the call's arguments, a comma in front of all but its first
    std::string text;     // what belongs to no member
  };
  // Of a call whose name is known: its values are members, the first of them if `is_first`. Else they are text.
  ParameterStream(bool is_member, bool is_first) : is_member_(is_member), is_first_(is_first) {}

  void Push(std::string_view text, Output& out);
  // `closed`: by its own marker. Otherwise a newline at its end belongs to what follows.
  void Finish(StreamEnd end, bool closed, Output& out);
  bool has_member() const { return has_member_; }

 private:
  enum class State : uint8_t { kHead, kText, kJson };
  bool FindHead(size_t name_at);
  void BeginMember(std::string_view name, Output& out);
  void PushText(std::string_view text, Output& out);
  void FinishLoosely(StreamEnd end, Output& out);

  const bool is_member_;
  const bool is_first_;
  State state_ = State::kHead;
  bool has_member_ = false;
  std::string head_;        // all of it, until the value begins
  size_t searched_ = 0;     // head_ before this holds no end of the attributes
  std::string_view found_;  // that end
  size_t found_at_ = 0;
  bool has_newline_ = false;  // at the end of the text so far, not written
  std::optional<JsonValueStream> json_;
};

}  // namespace longshelf::tokenizer::internal
