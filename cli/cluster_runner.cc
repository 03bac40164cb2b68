#include "cluster_runner.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "cli/http_client.h"
#include "common/status.h"

namespace longshelf::cli {
namespace {

constexpr absl::Duration kReadinessInterval = absl::Milliseconds(50);
constexpr absl::Duration kHurriedTimeout = absl::Seconds(3);
constexpr std::streamoff kLogTailBytes = 2000;

}  // namespace

ClusterRunner::ClusterRunner(ClusterPlan plan, std::string log_dir, ShutdownSignals& signals)
    : plan_(std::move(plan)), log_dir_(std::move(log_dir)), signals_(signals), terminal_(isatty(STDERR_FILENO) != 0) {
  running_.reserve(plan_.members.size());
}

absl::Status ClusterRunner::StartMember(const Member& member) {
  ASSIGN_OR_RETURN(ChildProcess process,
                   ChildProcess::Start(member.program, member.args, absl::StrCat(log_dir_, "/", member.name, ".log")));
  running_.push_back({.member = member, .process = std::move(process)});
  return absl::OkStatus();
}

absl::Status ClusterRunner::Start(absl::Duration timeout) {
  if (!plan_.ca_file.empty()) {
    ASSIGN_OR_RETURN(tls_, MakeCallContext({.certificate = "", .key = "", .authority = plan_.ca_file}));
  }
  const absl::Time deadline = clock_.Now() + timeout;
  // The store first, because workers look for it; the rest at once, because loading takes the time.
  for (const bool store : {true, false}) {
    for (const Member& member : plan_.members) {
      if ((member.role == Member::Role::kKvstore) == store) RETURN_IF_ERROR(StartMember(member));
    }
    RETURN_IF_ERROR(WaitReady(deadline));
  }
  if (terminal_) std::cerr << "\r\x1b[K" << std::flush;
  return absl::OkStatus();
}

absl::Status ClusterRunner::WaitReady(absl::Time deadline) {
  while (true) {
    for (Running& running : running_) {
      if (const auto& ended = running.process.Ended(); ended.has_value()) {
        return absl::UnavailableError(
            absl::StrCat(running.member.name, " ended with ", *ended, " while starting.\n", EndOfLog(running.member)));
      }
      if (!running.ready) AskReadiness(running);
    }
    ShowProgress();
    if (std::all_of(running_.begin(), running_.end(), [](const Running& r) { return r.ready; })) {
      return absl::OkStatus();
    }
    if (clock_.Now() >= deadline) {
      const auto slow = std::find_if(running_.begin(), running_.end(), [](const Running& r) { return !r.ready; });
      return absl::UnavailableError(absl::StrCat(slow->member.name, " is not ready (", slow->detail,
                                                 "); --start-timeout gives it longer.\n", EndOfLog(slow->member)));
    }
    if (WaitForEvent(kReadinessInterval)) return absl::CancelledError("stopped while starting");
  }
}

void ClusterRunner::AskReadiness(Running& running) {
  HttpCall call;
  call.target = "/readyz";
  call.connect_timeout = absl::Milliseconds(500);
  call.idle_timeout = absl::Seconds(1);
  call.interrupt_fd = signals_.fd();
  call.tls = tls_;
  const auto answer = CallHttp({.host = "127.0.0.1", .port = running.member.admin_port, .tls = tls_ != nullptr}, call);
  if (!answer.ok()) return;  // not listening yet; its end or the deadline will tell if it never does
  running.ready = answer->status == 200;
  absl::string_view detail = absl::StripAsciiWhitespace(answer->body);
  if (!absl::ConsumePrefix(&detail, "not ready: ")) absl::ConsumePrefix(&detail, "ready: ");
  running.detail = running.ready ? "ready" : std::string(detail);
}

void ClusterRunner::ShowProgress() {
  std::string line;
  for (const Running& running : running_) {
    absl::StrAppend(&line, line.empty() ? "" : "   ", running.member.name, ": ", running.detail);
  }
  if (line == shown_) return;
  if (terminal_) {
    std::cerr << "\r\x1b[K" << line.substr(0, 200) << std::flush;
  } else {
    std::cerr << line << "\n";
  }
  shown_ = std::move(line);
}

bool ClusterRunner::WaitForEvent(absl::Duration timeout) {
  std::vector<pollfd> fds = {{signals_.fd(), POLLIN, 0}};
  for (Running& running : running_) {
    if (!running.process.Ended().has_value()) fds.push_back({running.process.pidfd(), POLLIN, 0});
  }
  const int ms = timeout == absl::InfiniteDuration()
                     ? -1
                     : static_cast<int>(std::clamp<int64_t>(absl::ToInt64Milliseconds(timeout), 0, 1 << 30));
  if (poll(fds.data(), fds.size(), ms) < 0 && errno != EINTR) return true;
  return fds[0].revents != 0 && signals_.Wait(absl::ZeroDuration()) == ShutdownSignals::Event::kSignal;
}

absl::Status ClusterRunner::Watch() {
  while (true) {
    for (Running& running : running_) {
      const auto& ended = running.process.Ended();
      if (!ended.has_value() || running.reported) continue;
      running.reported = true;
      std::cerr << running.member.name << " ended unexpectedly with " << *ended << ".\n" << EndOfLog(running.member);
    }
    const auto lives = [this](Member::Role role) {
      return std::any_of(running_.begin(), running_.end(),
                         [role](const Running& r) { return r.member.role == role && !r.reported; });
    };
    if (!lives(Member::Role::kRouter)) return absl::UnavailableError("there is no router any more");
    if (!lives(Member::Role::kWorker)) return absl::UnavailableError("there is no worker any more");
    if (WaitForEvent(absl::InfiniteDuration())) return absl::OkStatus();
  }
}

void ClusterRunner::StopRole(Member::Role role, absl::Duration timeout) {
  const auto concerned = [&](Running& r) { return r.member.role == role && !r.process.Ended().has_value(); };
  for (Running& running : running_) {
    if (concerned(running)) running.process.Terminate();
  }
  absl::Time deadline = clock_.Now() + timeout;
  while (std::any_of(running_.begin(), running_.end(), concerned)) {
    const absl::Duration left = deadline - clock_.Now();
    if (left <= absl::ZeroDuration()) {
      for (Running& running : running_) {
        if (!concerned(running)) continue;
        std::cerr << running.member.name << " did not end in time; killed\n";
        running.process.Kill();
      }
      deadline = clock_.Now() + kHurriedTimeout;
      continue;
    }
    if (!WaitForEvent(left)) continue;
    // A second signal means now, to the members as well.
    deadline = std::min(deadline, clock_.Now() + kHurriedTimeout);
    for (Running& running : running_) {
      if (!running.process.Ended().has_value()) running.process.Terminate();
    }
  }
}

void ClusterRunner::Stop(absl::Duration timeout) {
  for (const Member::Role role : {Member::Role::kRouter, Member::Role::kWorker, Member::Role::kKvstore}) {
    StopRole(role, timeout);
  }
}

std::string ClusterRunner::EndOfLog(const Member& member) const {
  const std::string path = absl::StrCat(log_dir_, "/", member.name, ".log");
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return "";
  const std::streamoff size = file.tellg();
  file.seekg(std::max<std::streamoff>(0, size - kLogTailBytes));
  std::string tail(static_cast<size_t>(std::min(size, kLogTailBytes)), '\0');
  file.read(tail.data(), static_cast<std::streamsize>(tail.size()));
  tail.resize(static_cast<size_t>(file.gcount()));
  if (size > kLogTailBytes) tail.erase(0, tail.find('\n') + 1);
  if (tail.empty()) return absl::StrCat("Its log, ", path, ", is empty.\n");
  return absl::StrCat("The end of ", path, ":\n", tail, absl::EndsWith(tail, "\n") ? "" : "\n");
}

}  // namespace longshelf::cli
