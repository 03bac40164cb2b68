#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace longshelf::worker {

// The nodes of the job in which a PMIx server (of mpirun, prterun, `srun --mpi=pmix`) started this process, joined by
// commas. Asked in a short-lived child, so that nothing of PMIx stays here: before there are other threads.
// FAILED_PRECONDITION: no such server has started it, or it does not say.
absl::StatusOr<std::string> ReadPmixNodes();

}  // namespace longshelf::worker
