#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cli/child_process.h"
#include "cli/cluster_plan.h"
#include "common/clock.h"
#include "common/shutdown.h"
#include "net/tls_context.h"

namespace longshelf::cli {

// Starts the programs of a plan, watches them and stops them. Owner thread: main.
class ClusterRunner {
 public:
  ClusterRunner(ClusterPlan plan, std::string log_dir, ShutdownSignals& signals);

  // Until all members are ready. CANCELLED: a signal came first. UNAVAILABLE: one of them ended, or was not ready by
  // `timeout`; the message holds the end of its log.
  absl::Status Start(absl::Duration timeout);

  // Until a signal (OK), or until so much has ended that nothing can be answered (UNAVAILABLE).
  absl::Status Watch();

  // Asks the members to end, routers first and the store last; kills what is left after `timeout` each, or soon after a
  // second signal.
  void Stop(absl::Duration timeout);

 private:
  struct Running {
    Member member;
    ChildProcess process;
    bool ready = false;
    bool reported = false;  // its end was told
    std::string detail = "starting";
  };

  absl::Status StartMember(const Member& member);
  absl::Status WaitReady(absl::Time deadline);
  void AskReadiness(Running& running);
  void ShowProgress();
  // Waits for a signal, an end, or the time. Whether it was a signal.
  bool WaitForEvent(absl::Duration timeout);
  std::string EndOfLog(const Member& member) const;
  void StopRole(Member::Role role, absl::Duration timeout);

  const ClusterPlan plan_;
  const std::string log_dir_;
  ShutdownSignals& signals_;
  net::SslContext tls_;  // to ask admin ports with; null: they are without TLS
  const SystemClock clock_;
  const bool terminal_;
  std::vector<Running> running_;
  std::string shown_;
};

}  // namespace longshelf::cli
