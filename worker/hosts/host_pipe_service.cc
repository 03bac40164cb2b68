#include "host_pipe_service.h"

#include <google/protobuf/io/zero_copy_stream_impl.h>
#include <google/protobuf/util/delimited_message_util.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "host_service.h"
#include "longshelf/v1/host.pb.h"

namespace longshelf::worker {
namespace {

// Until there is none, or nothing for that long; why.
std::string SkipInput(absl::Duration silence) {
  char bytes[256];
  pollfd input{STDIN_FILENO, POLLIN, 0};
  while (poll(&input, 1, static_cast<int>(absl::ToInt64Milliseconds(silence))) != 0) {
    if (read(STDIN_FILENO, bytes, sizeof(bytes)) <= 0) return "the first host of the group hung up";
  }
  return absl::StrCat("the first host of the group has been silent for ", absl::FormatDuration(silence));
}

}  // namespace

absl::Status ServePipe(HostKeeper& keeper, ShutdownSignals& signals, absl::Duration silence) {
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
  // It waits for the other side: the program's end takes it along.
  std::thread([&keeper, ticket, silence] { keeper.Cancel(ticket, SkipInput(silence)); }).detach();
  keeper.Loop(signals);
  return absl::OkStatus();
}

}  // namespace longshelf::worker
