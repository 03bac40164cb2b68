#include "engine/group_digests.h"

#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace longshelf::engine {
namespace {

// layout | n flags, 1 for a digest that follows | digests
std::string Pack(const Digest& layout, std::span<const std::optional<Digest>> digests) {
  std::string out(reinterpret_cast<const char*>(layout.data()), layout.size());
  for (const auto& digest : digests) out.push_back(digest.has_value() ? 1 : 0);
  for (const auto& digest : digests) {
    if (digest.has_value()) out.append(reinterpret_cast<const char*>(digest->data()), digest->size());
  }
  return out;
}

// Adds what one shard has read; `readers` says who was first.
absl::Status Merge(size_t shard, std::string_view packed, std::span<const std::string_view> names,
                   std::span<std::optional<Digest>> digests, std::span<size_t> readers) {
  const std::string_view flags = packed.substr(sizeof(Digest), names.size());
  std::string_view rest = packed.substr(sizeof(Digest) + flags.size());
  for (size_t i = 0; i < names.size(); ++i) {
    if (flags[i] == 0) continue;
    Digest digest;
    if (rest.size() < digest.size()) break;
    std::memcpy(digest.data(), rest.data(), digest.size());
    rest.remove_prefix(digest.size());
    if (digests[i].has_value() && *digests[i] != digest) {
      return absl::FailedPreconditionError(absl::StrCat("shards ", readers[i], " and ", shard,
                                                        " cannot form a group: they have read other bytes of tensor ",
                                                        std::string(names[i]), "; give all hosts the same checkpoint"));
    }
    if (!digests[i].has_value()) readers[i] = shard;
    digests[i] = digest;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status GroupDigests::Exchange(const Digest& layout, std::span<const std::string_view> names,
                                    std::span<std::optional<Digest>> digests) {
  ASSIGN_OR_RETURN(const std::vector<std::string> all, AllGather(communicator_, Pack(layout, digests)));
  for (size_t shard = 0; shard < all.size(); ++shard) {
    if (all[shard].size() < sizeof(Digest) + names.size() ||
        std::memcmp(all[shard].data(), layout.data(), sizeof(Digest)) != 0) {
      return absl::FailedPreconditionError(
          absl::StrCat("shards ", communicator_.rank(), " and ", shard,
                       " cannot form a group: their checkpoints differ in config.json or in names, dtypes or shapes of "
                       "tensors; give all hosts the same checkpoint"));
    }
  }
  std::vector<std::optional<Digest>> merged(names.size());
  std::vector<size_t> readers(names.size());
  for (size_t shard = 0; shard < all.size(); ++shard) {
    RETURN_IF_ERROR(Merge(shard, all[shard], names, merged, readers));
  }
  std::copy(merged.begin(), merged.end(), digests.begin());
  for (size_t i = 0; i < names.size(); ++i) {
    const bool of_expert = names[i].find(".ffn.experts.") != std::string_view::npos;
    if (of_expert && merged[i].has_value()) of_experts_.emplace(names[i], *merged[i]);
  }
  return absl::OkStatus();
}

}  // namespace longshelf::engine
