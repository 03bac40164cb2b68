#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace longshelf::tokenizer::internal {

// Rebuilds the JSON arguments of a call from its DSML parameters.
class ArgumentsBuilder {
 public:
  // `value` of a string parameter is text; of any other it is pasted as it is.
  void Add(std::string_view name, bool is_string, std::string_view value);
  // What stands between <｜DSML｜parameter and </｜DSML｜parameter. Takes more than the grammar allows: another or no
  // `string` attribute, text that is not the JSON it claims to be. False if there is no name or no value.
  bool AddLenient(std::string_view parameter);
  std::string Build() const { return "{" + members_ + "}"; }

 private:
  std::string members_;
};

}  // namespace longshelf::tokenizer::internal
