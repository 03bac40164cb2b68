#pragma once

#include <cstdint>
#include <iosfwd>

#include "tokenizer/tokenizer.h"

// What `longshelf tokenize` and `longshelf render` do: JSON lines in, JSON lines out, with the code that the router
// runs. One line out for each line in, flushed; a line that fails gives {"error": "..."} and the rest goes on. Blank
// lines are skipped. Text is written as UTF-8, not escaped.
namespace longshelf::cli {

struct LineCounts {
  uint64_t lines = 0;
  uint64_t failed = 0;
};

// {"text": "..."} -> {"ids": [...]}. Added tokens in the text are tokens; no BOS is added.
LineCounts EncodeLines(const tokenizer::Tokenizer& tokenizer, std::istream& in, std::ostream& out);
// {"ids": [...]} -> {"text": "..."}. An id that the vocabulary does not have is an error.
LineCounts DecodeLines(const tokenizer::Tokenizer& tokenizer, std::istream& in, std::ostream& out);
// {"messages": [...], "thinking_mode": "thinking"|"chat", "drop_thinking": true|false, "reasoning_effort": "..."|null,
// "dialect": "preview"|"0731", "tools": [...]} -> {"prompt": "...", "ids": [...]}. All but messages may be missing:
// thinking, true, null, preview, none.
LineCounts RenderLines(const tokenizer::Tokenizer& tokenizer, std::istream& in, std::ostream& out);
// {"completion": "...", "thinking_mode": "thinking"|"chat"} -> {"message": {...}}, strictly as the reference parses.
LineCounts ParseLines(std::istream& in, std::ostream& out);

}  // namespace longshelf::cli
