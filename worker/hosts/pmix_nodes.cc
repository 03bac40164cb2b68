#include "pmix_nodes.h"

#include <fcntl.h>
#include <pmix.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "process_tree.h"

namespace longshelf::worker {
namespace {

constexpr size_t kNodesBytesMax = size_t{1} << 20;

void Write(int fd, const char* text) {
  for (size_t at = 0, n = strlen(text); at < n;) {
    const ssize_t written = write(fd, text + at, n - at);
    if (written < 0 && errno != EINTR) return;
    if (written > 0) at += static_cast<size_t>(written);
  }
}

// The child's: writes the list, or how PMIx failed. 0: the list.
int AskServer(int fd) {
  pmix_proc_t self;
  if (const pmix_status_t status = PMIx_Init(&self, nullptr, 0); status != PMIX_SUCCESS) {
    Write(fd, PMIx_Error_string(status));
    return 1;
  }
  pmix_proc_t job;
  PMIX_PROC_CONSTRUCT(&job);
  std::memcpy(job.nspace, self.nspace, sizeof job.nspace);
  job.rank = PMIX_RANK_WILDCARD;
  pmix_value_t* value = nullptr;
  pmix_status_t status = PMIx_Get(&job, PMIX_NODE_LIST, nullptr, 0, &value);
  if (status == PMIX_SUCCESS && (value->type != PMIX_STRING || value->data.string == nullptr)) status = PMIX_ERROR;
  Write(fd, status == PMIX_SUCCESS ? value->data.string : PMIx_Error_string(status));
  PMIx_Finalize(nullptr, 0);
  return status == PMIX_SUCCESS ? 0 : 1;
}

}  // namespace

absl::StatusOr<std::string> ReadPmixNodes() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return absl::UnavailableError(absl::StrCat("pipe: ", strerror(errno)));
  const OwnedFd from(ends[0]);
  OwnedFd to(ends[1]);
  const pid_t child = fork();
  if (child == 0) _exit(AskServer(to.get()));
  to = OwnedFd();
  if (child < 0) return absl::UnavailableError(absl::StrCat("fork: ", strerror(errno)));
  std::string said;
  std::array<char, 4096> buffer{};
  while (said.size() < kNodesBytesMax) {
    const ssize_t n = read(from.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    said.append(buffer.data(), static_cast<size_t>(n));
  }
  int status = 1;
  if (waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0) return said;
  return absl::FailedPreconditionError(absl::StrCat("--hosts pmix: no PMIx server says which nodes the job has (", said,
                                                    "); start longshelf-worker by mpirun, prterun or srun --mpi=pmix"));
}

}  // namespace longshelf::worker
