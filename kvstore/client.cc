#include "kvstore/client.h"

#include <utility>

namespace longshelf::kvstore {

std::vector<absl::StatusOr<std::vector<std::byte>>> Client::GetMany(const Fingerprint& fingerprint,
                                                                    std::span<const GetItem> items,
                                                                    absl::Duration timeout) {
  std::vector<absl::StatusOr<std::vector<std::byte>>> results(items.size(), absl::UnknownError("not answered"));
  const absl::Status call =
      Get(fingerprint, items, timeout, [&results](size_t index, absl::StatusOr<FetchedObject> object) {
        if (object.ok()) {
          results[index] = std::move(object->payload);
        } else {
          results[index] = object.status();
        }
      });
  if (!call.ok()) {
    for (auto& result : results) {
      if (result.status().code() == absl::StatusCode::kUnknown) result = call;
    }
  }
  return results;
}

}  // namespace longshelf::kvstore
