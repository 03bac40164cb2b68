#pragma once

#include <functional>
#include <map>
#include <string>

#include "engine/comm/communicator.h"
#include "engine/model/weights.h"

namespace longshelf::engine {

// The digests of what the shards of a group have read each for itself, over their communicator. Engine thread.
class GroupDigests final : public DigestExchange {
 public:
  using ByName = std::map<std::string, Digest, std::less<>>;
  explicit GroupDigests(Communicator& communicator) : communicator_(communicator) {}
  absl::Status Exchange(const Digest& layout, std::span<const std::string_view> names,
                        std::span<std::optional<Digest>> digests) override;
  // Of the routed experts' tensors, whoever has read them.
  const ByName& of_experts() const { return of_experts_; }

 private:
  Communicator& communicator_;
  ByName of_experts_;
};

}  // namespace longshelf::engine
