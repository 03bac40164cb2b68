#include <array>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/build_info.h"
#include "engine/model/model.h"
#include "engine/shard_group.h"

namespace longshelf::engine {
namespace {

std::string Hex(const std::array<uint8_t, 32>& digest) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

}  // namespace

std::vector<IdentityField> GroupIdentity(const Model& model, const GroupShape& shape, int64_t n_context_max) {
  const BuildInfo build = GetBuildInfo();
  return {{"version", build.version},
          {"build", absl::StrCat(build.compiler, " ", build.preset)},
          {"weights digest", Hex(model.weights().digest)},
          {"fingerprint of weights, layout, numerics and kernels", Hex(model.fingerprint())},
          {"numerics", model.layout().numerics() == Numerics::kNative ? "native" : "fp32"},
          {"numerics revision", std::to_string(kNumericsRevision)},
          {"kernels", std::string(model.kernels())},
          {"block layout", model.layout().Describe()},
          {"slots per shard", std::to_string(shape.n_slots_per_shard)},
          {"KV blocks per shard", std::to_string(shape.n_blocks_per_shard)},
          {"context", std::to_string(n_context_max)}};
}

}  // namespace longshelf::engine
