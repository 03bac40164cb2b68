#pragma once

#include <vector>

#include "tokenizer/chat.h"

namespace longshelf::router {

// Clients send messages of the system in the middle of a conversation, too, and at its end. The encoding has a place
// for them at its beginning only: elsewhere no turn of the assistant would follow. There they are read in the user's
// turn.
inline bool MayBeSystem(const std::vector<tokenizer::ChatMessage>& before) {
  return before.empty() || before.back().role == "system";
}

// What has nothing but messages of the system ends with one of the user all the same.
inline void EndWithATurn(std::vector<tokenizer::ChatMessage>& messages) {
  if (messages.back().role == "system") messages.back().role = "user";
}

}  // namespace longshelf::router
