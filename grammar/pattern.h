#pragma once

#include <cstddef>
#include <string_view>

#include "absl/status/statusor.h"
#include "char_dfa.h"

namespace longshelf::grammar {

// The strings in which `pattern` is found: a regular expression of ECMA-262 as JSON Schema uses them, matched on code
// points. Literals, `.`, classes, \d \w \s and their complements, escapes of single characters, groups, alternatives,
// greedy and lazy quantifiers, ^ and $ anywhere. INVALID_ARGUMENT: not such an expression, or with what no finite
// automaton can do (look-around, back references, word boundaries) or that has no tables here (\p). RESOURCE_EXHAUSTED:
// it takes too many states. `n_steps` (may be null) grows by the work that it took.
absl::StatusOr<CharDfa> CompilePattern(std::string_view pattern, size_t* n_steps = nullptr);

}  // namespace longshelf::grammar
