#pragma once

#include <nlohmann/json.hpp>
#include <random>

namespace longshelf::grammar::testing {

// A schema of the keywords that PlainChecker knows; small numbers and few names, so that they meet. `budget` bounds how
// many schemas are in it. With "$defs": {"d0": ..., "d1": ...} that they refer to.
nlohmann::ordered_json RandomSchema(std::mt19937_64& random, int budget = 12);

}  // namespace longshelf::grammar::testing
