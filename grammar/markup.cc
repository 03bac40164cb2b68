#include "markup.h"

#include <string>

#include "common/check.h"
#include "pattern.h"
#include "tokenizer/chat_markup.h"

namespace longshelf::grammar {

CharDfa WritableStrings() {
  namespace protocol = tokenizer::protocol;
  const auto spelled = CompilePattern(std::string(protocol::kDsml) + "|" + std::string(protocol::kEos));
  LONGSHELF_CHECK(spelled.ok());
  return CharDfa::Complement(*spelled);
}

}  // namespace longshelf::grammar
