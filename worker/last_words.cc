#include "last_words.h"

#include "absl/strings/str_cat.h"

namespace longshelf::worker {
namespace {

// As HostLinks puts it.
bool IsOfAHost(std::string_view words) { return words.ends_with(" is gone: it closed its link"); }
// As GroupWatch puts it, too.
bool IsOfSomebodyElse(std::string_view words) { return words.ends_with(" is gone") || IsOfAHost(words); }

}  // namespace

std::string ChooseLastWords(const std::vector<engine::RankError>& errors, std::string_view seen) {
  for (const engine::RankError& error : errors) {
    if (!error.reason.empty() && !IsOfSomebodyElse(error.reason)) {
      return absl::StrCat("shard ", error.rank, ": ", error.reason);
    }
  }
  if (!seen.empty()) return std::string(seen);
  return errors.empty() ? "it said nothing" : errors.front().reason;
}

std::string FindLastWords(const std::filesystem::path& run_dir, int own_rank, std::string_view seen) {
  if (run_dir.empty()) return std::string(seen);
  // What this shard found itself is the cause, unless it found others gone or MPI broken by them.
  std::vector<engine::RankError> errors = engine::ReadRankErrors(run_dir);
  std::erase_if(errors, [own_rank](const engine::RankError& error) { return error.rank == own_rank; });
  return ChooseLastWords(errors, seen);
}

}  // namespace longshelf::worker
