#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace longshelf::grammar {

// The expression that the strings of a `format` match (pattern.h); nothing for one that is not known. Whatever matches
// is of the format; a few rare forms are left out: seconds of 60, quoted local parts and literal addresses in email and
// uri, labels with two hyphens in a row.
std::optional<std::string> PatternOfFormat(std::string_view format);
// "date, date-time, ..."
std::string FormatNames();

}  // namespace longshelf::grammar
