#include "engine/comm/communicator.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace longshelf::engine {
namespace {

void AppendText(std::string& out, std::string_view text) {
  const auto n = static_cast<uint32_t>(text.size());
  out.append(reinterpret_cast<const char*>(&n), sizeof(n));
  out.append(text);
}

// False when `bytes` does not begin with a text; else takes it off.
bool TakeText(std::string_view& bytes, std::string& text) {
  uint32_t n = 0;
  if (bytes.size() < sizeof(n)) return false;
  std::memcpy(&n, bytes.data(), sizeof(n));
  bytes.remove_prefix(sizeof(n));
  if (bytes.size() < n) return false;
  text.assign(bytes.substr(0, n));
  bytes.remove_prefix(n);
  return true;
}

bool ParseTexts(std::string_view bytes, std::vector<std::string>& texts) {
  texts.clear();
  while (!bytes.empty()) {
    if (!TakeText(bytes, texts.emplace_back())) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> AllGather(Communicator& communicator, std::string_view bytes) {
  ASSIGN_OR_RETURN(const std::vector<std::string> gathered, communicator.Gather(bytes));
  std::string all;
  for (const std::string& one : gathered) AppendText(all, one);
  RETURN_IF_ERROR(communicator.Broadcast(all));
  std::vector<std::string> out;
  if (!ParseTexts(all, out) || out.size() != static_cast<size_t>(communicator.size())) {
    return absl::InternalError("all-gather: malformed reply from shard 0");
  }
  return out;
}

absl::StatusOr<double> MeasureBarrier(Communicator& communicator) {
  constexpr int kBarriers = 15;
  // The first one may wait for a member that was still busy.
  RETURN_IF_ERROR(communicator.Barrier());
  std::vector<double> seconds;
  for (int n = 0; n < kBarriers; ++n) {
    const auto start = std::chrono::steady_clock::now();
    RETURN_IF_ERROR(communicator.Barrier());
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[kBarriers / 2];
  ASSIGN_OR_RETURN(const auto all, AllGather(communicator, {reinterpret_cast<const char*>(&median), sizeof(median)}));
  double slowest = 0;
  for (const std::string& one : all) {
    double seconds_there = 0;
    if (one.size() != sizeof(seconds_there)) return absl::InternalError("a shard did not say how long a barrier took");
    std::memcpy(&seconds_there, one.data(), sizeof(seconds_there));
    slowest = std::max(slowest, seconds_there);
  }
  return slowest;
}

absl::Status AgreeOnIdentity(Communicator& communicator, std::span<const IdentityField> fields) {
  std::string mine;
  for (const IdentityField& field : fields) {
    AppendText(mine, field.name);
    AppendText(mine, field.value);
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> all, AllGather(communicator, mine));
  std::vector<std::string> first;
  std::vector<std::string> other;
  if (!ParseTexts(all[0], first)) return absl::FailedPreconditionError("hello of shard 0 is malformed");
  for (size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] == all[0]) continue;
    if (!ParseTexts(all[rank], other) || other.size() != first.size()) {
      return absl::FailedPreconditionError(
          absl::StrCat("shard ", rank, " says hello in another form than shard 0; run one build on all shards"));
    }
    for (size_t i = 0; i + 1 < first.size(); i += 2) {
      if (first[i] == other[i] && first[i + 1] == other[i + 1]) continue;
      return absl::FailedPreconditionError(absl::StrCat("shards 0 and ", rank, " cannot form a group: ", first[i],
                                                        " is \"", first[i + 1], "\" on shard 0 and \"", other[i + 1],
                                                        "\" on shard ", rank));
    }
  }
  return absl::OkStatus();
}

}  // namespace longshelf::engine
