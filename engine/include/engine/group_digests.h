#pragma once

#include "engine/comm/communicator.h"
#include "engine/model/weights.h"

namespace longshelf::engine {

// The digests of what the shards of a group have read each for itself, over their communicator. Engine thread.
class GroupDigests final : public DigestExchange {
 public:
  explicit GroupDigests(Communicator& communicator) : communicator_(communicator) {}
  absl::Status Exchange(const Digest& layout, std::span<const std::string_view> names,
                        std::span<std::optional<Digest>> digests) override;

 private:
  Communicator& communicator_;
};

}  // namespace longshelf::engine
