#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "simdjson.h"

namespace longshelf::engine {

// The members of one JSON object. Keys and values point into the parser that made them.
using JsonFields = std::map<std::string_view, simdjson::dom::element>;

// Parses one JSON text whose nesting is at most `max_depth`. INVALID_ARGUMENT, starting with `what`: not UTF-8, not
// JSON, nested too deep. A byte-order mark before it is
// passed over. The result is valid until the parser is used again.
absl::StatusOr<simdjson::dom::element> ParseJson(simdjson::dom::parser& parser, std::string_view text, size_t max_depth,
                                                 std::string_view what);

// The integer that an element is. 65536.0 counts, as some writers put it; 65536.5, or more than a double holds exactly,
// does not.
std::optional<int64_t> WholeNumber(simdjson::dom::element element);

// INVALID_ARGUMENT, starting with `what`: not an object, or a key given twice.
absl::StatusOr<JsonFields> UniqueFields(simdjson::dom::element element, std::string_view what);

// A name from a file made fit for a message: quoted, escaped, at most 160 bytes of it.
std::string QuotedName(std::string_view name);

}  // namespace longshelf::engine
