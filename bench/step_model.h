#pragma once

#include <iosfwd>
#include <string>

#include "absl/status/status.h"

namespace longshelf::bench {

// Fits the model of steps (simulation/) to what two shards with 1 and 64 tokens each were measured to take, and prints
// the fitted costs, what they predict for everything else in the files, and the errors. `steps` may be empty.
absl::Status RunStepModel(const std::string& exchanges, const std::string& steps, std::ostream& out);

}  // namespace longshelf::bench
