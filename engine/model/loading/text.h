#pragma once

#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace longshelf::engine {

// Debian builds absl with a string_view of its own, which std::string_view does not convert to.
inline absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }

// absl::StrCat that takes std::string_view too.
template <typename... Args>
std::string Cat(const Args&... args) {
  const auto adapt = []<typename T>(const T& value) -> decltype(auto) {
    if constexpr (std::is_same_v<T, std::string_view>) {
      return ToAbsl(value);
    } else {
      return (value);
    }
  };
  return absl::StrCat(adapt(args)...);
}

inline std::vector<std::string> SplitText(std::string_view text, char separator) {
  return absl::StrSplit(ToAbsl(text), separator);
}

inline bool ContainsText(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

}  // namespace longshelf::engine
