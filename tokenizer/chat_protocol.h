#pragma once

#include <array>
#include <string_view>
#include <utility>

#include "tokenizer/chat.h"
#include "tokenizer/chat_markup.h"

// The texts of the V4 chat protocol. They are part of the model's interface: byte for byte.
namespace longshelf::tokenizer::protocol {

inline constexpr std::string_view kBos = "<｜begin▁of▁sentence｜>";
inline constexpr std::string_view kUser = "<｜User｜>";
inline constexpr std::string_view kAssistant = "<｜Assistant｜>";
inline constexpr std::string_view kLatestReminder = "<｜latest_reminder｜>";
inline constexpr std::string_view kThinkBegin = "<think>";

inline constexpr std::string_view kActionTask = "action";
inline constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kTaskTokens = {{
    {kActionTask, "<｜action｜>"},
    {"query", "<｜query｜>"},
    {"authority", "<｜authority｜>"},
    {"domain", "<｜domain｜>"},
    {"title", "<｜title｜>"},
    {"read_url", "<｜read_url｜>"},
}};

inline constexpr std::string_view kResponseFormat =
    "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";

// Around the tool schemas, one JSON object per line.
extern const std::string_view kToolsHead;
extern const std::string_view kToolsTail;

// What stands before the first message in thinking mode.
struct Effort {
  ChatDialect dialect;
  std::string_view name;
  std::string_view text;
};
// Every effort each dialect knows; another one is refused.
extern const std::array<Effort, 7> kEfforts;

}  // namespace longshelf::tokenizer::protocol
