#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "tokenizer/tokenizer.h"

namespace longshelf::tokenizer {

// The prompt that makes the model write what belongs between two texts: begin of sentence, then prefix and suffix, each
// behind its token, and the token that asks for the middle. Control tokens that the texts spell are text.
// FAILED_PRECONDITION: the vocabulary has no such tokens; names those that it lacks. RESOURCE_EXHAUSTED: more than
// max_tokens. INVALID_ARGUMENT: not UTF-8.
absl::StatusOr<std::vector<uint32_t>> EncodeFim(const Tokenizer& tokenizer, std::string_view prefix,
                                                std::string_view suffix, size_t max_tokens);

}  // namespace longshelf::tokenizer
