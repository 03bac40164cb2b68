#include "host_pipe_service.h"

#include <google/protobuf/io/zero_copy_stream_impl.h>
#include <google/protobuf/util/delimited_message_util.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <thread>
#include <utility>

#include "common/status.h"
#include "host_service.h"
#include "longshelf/v1/host.pb.h"

namespace longshelf::worker {
namespace {

// Until there is none.
void SkipInput() {
  char bytes[256];
  while (read(STDIN_FILENO, bytes, sizeof(bytes)) > 0) {
  }
}

}  // namespace

absl::Status ServePipe(HostKeeper& keeper, ShutdownSignals& signals) {
  v1::HostRunRequest request;
  bool clean_eof = false;
  {
    // A few bytes at a time, so that none of what follows is taken.
    google::protobuf::io::FileInputStream in(STDIN_FILENO, 1);
    if (!google::protobuf::util::ParseDelimitedFromZeroCopyStream(&request, &in, &clean_eof)) {
      return absl::InvalidArgumentError(
          "standard input holds no request; longshelf-worker starts this over ssh or srun");
    }
  }
  ASSIGN_OR_RETURN(HostRun run, ReadRunRequest(request));
  run.ended = [&keeper](const std::string& reason, const std::vector<engine::RankError>& errors) {
    v1::HostRunReply reply;
    FillReply(reason, errors, &reply);
    if (!google::protobuf::util::SerializeDelimitedToFileDescriptor(reply, STDOUT_FILENO)) {
      spdlog::warn("the first host of the group does not listen any more");
    }
    keeper.Stop();
  };
  const uint64_t ticket = keeper.Submit(std::move(run));
  // It blocks in read(), which nothing can end but the other side: the program's end takes it along.
  std::thread([&keeper, ticket] {
    SkipInput();
    keeper.Cancel(ticket, "the first host of the group hung up");
  }).detach();
  keeper.Loop(signals);
  return absl::OkStatus();
}

}  // namespace longshelf::worker
