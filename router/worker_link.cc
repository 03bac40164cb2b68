#include "router/worker_link.h"

#include "absl/strings/cord.h"

namespace longshelf::router {
namespace {

constexpr char kPayload[] = "longshelf/group-failure";

}  // namespace

absl::Status GroupFailure(std::string_view words) {
  absl::Status status = absl::UnavailableError(absl::string_view(words.data(), words.size()));
  status.SetPayload(kPayload, absl::Cord());
  return status;
}

bool IsGroupFailure(const absl::Status& status) { return status.GetPayload(kPayload).has_value(); }

}  // namespace longshelf::router
