#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/model/config.h"

namespace longshelf::engine {

struct VerifyOptions {
  std::filesystem::path model_dir;
  std::filesystem::path vectors;
  std::optional<Numerics> numerics;           // unset: what the vectors file says
  std::optional<std::filesystem::path> dump;  // write what was computed, in the form of the vectors file
  int n_threads = 1;
  int64_t chunk_tokens = 512;
  std::string kernels;  // empty: the best of this machine
  // Called while weights are read and while a sequence is computed, with the share done (0 to 1). May be null.
  std::function<void(std::string_view stage, double share)> progress;
};

// Compares the engine with a vectors file (logits, taps or kernels, told apart by their tensors) and prints one line
// per check to `out`: name, figures, limits, PASS or FAIL. True when every check passed. INVALID_ARGUMENT: the vectors
// file is malformed or does not fit the model.
absl::StatusOr<bool> Verify(const VerifyOptions& options, std::ostream& out);

}  // namespace longshelf::engine
