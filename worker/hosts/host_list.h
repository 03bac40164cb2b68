#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace longshelf::worker {

// A variable of the environment; nullopt when it is not set.
using ReadVariable = std::function<std::optional<std::string>(const std::string& name)>;

// Names joined by commas (pmix_nodes.h).
using AskPmix = std::function<absl::StatusOr<std::string>()>;

// The hosts of a group as --hosts gives them, the first being this machine:
//   a,b,c    names or addresses
//   @FILE    one in each line; what follows a space and lines that begin with # are skipped (an MPI host file)
//   slurm    the nodes of the allocation, from SLURM_JOB_NODELIST
//   pmix     the nodes of the job, from the PMIx server that started this process
//   lws      the pods of a Kubernetes LeaderWorkerSet group, from LWS_LEADER_ADDRESS and LWS_GROUP_SIZE
// Empty for an empty text. INVALID_ARGUMENT, NOT_FOUND: says what is missing or wrong.
absl::StatusOr<std::vector<std::string>> ResolveHosts(const std::vector<std::string>& given, const ReadVariable& read,
                                                      const AskPmix& ask_pmix);

// "node[01-03,7],login" as Slurm writes lists of nodes. INVALID_ARGUMENT: not one, or over 4,096 nodes.
absl::StatusOr<std::vector<std::string>> ExpandNodeList(const std::string& text);

}  // namespace longshelf::worker
