#pragma once

#include <string_view>

// The parts of the V4 chat protocol that stand in completions. They are part of the model's interface: byte for byte.
namespace longshelf::tokenizer::protocol {

inline constexpr std::string_view kEos = "<｜end▁of▁sentence｜>";
inline constexpr std::string_view kThinkEnd = "</think>";
inline constexpr std::string_view kDsml = "｜DSML｜";

inline constexpr std::string_view kToolCallsBegin = "<｜DSML｜tool_calls";  // closed by ">"
inline constexpr std::string_view kToolCallsEnd = "</｜DSML｜tool_calls>";
inline constexpr std::string_view kInvokeBegin = "<｜DSML｜invoke";
inline constexpr std::string_view kInvokeEnd = "</｜DSML｜invoke";  // closed by ">"
inline constexpr std::string_view kParameterBegin = "<｜DSML｜parameter";
inline constexpr std::string_view kParameterEnd = "</｜DSML｜parameter";  // closed by ">"

}  // namespace longshelf::tokenizer::protocol
