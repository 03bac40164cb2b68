#include "host_keeper.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/config.h"
#include "common/status.h"
#include "generation.h"
#include "group_dirs.h"
#include "hosts/network.h"
#include "launch_line.h"
#include "process_tree.h"

namespace longshelf::worker {
namespace {

std::string_view NameOf(std::string_view entry) { return entry.substr(0, entry.find('=')); }

// The port that mpirun took is free there, and need not be here.
absl::Status SetDaemonPort(const HostRun& run, std::vector<std::string>& args) {
  ASSIGN_OR_RETURN(const int port, FindFreePort(run.daemon_port_begin, run.daemon_port_end));
  for (size_t i = 0; i + 2 < args.size(); i += 3) {
    if (args[i + 1].starts_with("oob_tcp_dynamic_ipv")) args[i + 2] = std::to_string(port);
  }
  return absl::OkStatus();
}

// This host's options win over the group's.
absl::StatusOr<CommandLine> DaemonLine(const HostKeeperOptions& options, const HostRun& run, bool can_read_siblings) {
  CommandLine line;
  line.argv = run.daemon_args;
  RETURN_IF_ERROR(SetDaemonPort(run, line.argv));
  line.argv.insert(line.argv.begin(), options.daemon);
  line.environment = WithoutOuterJob(EnvironmentForChildren());
  // The first host speaks for itself alone with its own setting of this.
  if (!can_read_siblings) line.environment.emplace_back("OMPI_MCA_btl_vader_single_copy_mechanism=none");
  line.environment.insert(line.environment.end(), options.environment.begin(), options.environment.end());
  for (const std::string& entry : run.environment) {
    const bool is_own = std::any_of(options.environment.begin(), options.environment.end(),
                                    [&](const std::string& own) { return NameOf(own) == NameOf(entry); });
    if (!is_own) line.environment.push_back(entry);
  }
  return line;
}

}  // namespace

struct HostKeeper::Current {
  uint64_t ticket;
  HostRun run;
  std::unique_ptr<Generation> processes;
};

HostKeeper::HostKeeper(HostKeeperOptions options, std::unique_ptr<GroupDirs> dirs, int wake_fd)
    : options_(std::move(options)), dirs_(std::move(dirs)), wake_fd_(wake_fd), can_read_siblings_(CanReadSiblings()) {
  if (!can_read_siblings_) {
    spdlog::warn("process_vm_readv is not allowed here; MPI copies through shared memory, which is slower");
  }
}

HostKeeper::~HostKeeper() { close(wake_fd_); }

absl::StatusOr<std::unique_ptr<HostKeeper>> HostKeeper::Create(HostKeeperOptions options) {
  BecomeSubreaper();
  ASSIGN_OR_RETURN(std::unique_ptr<GroupDirs> dirs, GroupDirs::Open(options.work_dir, options.shm_root));
  const int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd < 0) return absl::ResourceExhaustedError("eventfd: too many open files");
  return std::unique_ptr<HostKeeper>(new HostKeeper(std::move(options), std::move(dirs), wake_fd));
}

void HostKeeper::Post(Order order) {
  {
    std::lock_guard lock(mutex_);
    orders_.push_back(std::move(order));
  }
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(wake_fd_, &one, sizeof(one));
}

uint64_t HostKeeper::Submit(HostRun run) {
  const uint64_t ticket = n_tickets_.fetch_add(1) + 1;
  Post({.ticket = ticket, .run = std::move(run), .reason = {}});
  return ticket;
}

void HostKeeper::Cancel(uint64_t ticket, const std::string& reason) {
  Post({.ticket = ticket, .run = std::nullopt, .reason = reason});
}

void HostKeeper::Stop() {
  stopping_.store(true);
  Post({});
}

void HostKeeper::Begin(Order order) {
  if (current_ != nullptr) End("another start of the group took its place");
  HostRun& run = *order.run;
  if (stopping_.load() || leave_at_ != absl::InfiniteFuture()) return run.ended("this host is stopping", {});
  auto processes = Generation::Start(*dirs_, ++n_started_, run.n_shards, [&](const GenerationDirs&) {
    return DaemonLine(options_, run, can_read_siblings_);
  });
  if (!processes.ok()) return run.ended(std::string(processes.status().message()), {});
  spdlog::info("generation {}: {} shard(s) of it run here, process {}", run.generation, run.n_shards,
               (*processes)->session());
  current_ = std::make_unique<Current>(Current{order.ticket, std::move(run), *std::move(processes)});
  running_.store(true);
}

void HostKeeper::End(const std::string& reason) {
  std::unique_ptr<Current> ending = std::move(current_);
  running_.store(false);
  const std::vector<engine::RankError> errors = ending->processes->TearDown();
  for (const engine::RankError& error : errors) {
    spdlog::error("generation {}: shard {}: {}", ending->run.generation, error.rank, error.reason);
  }
  ending->processes.reset();
  spdlog::info("generation {}: ended here{}{}", ending->run.generation, reason.empty() ? "" : ": ", reason);
  ending->run.ended(reason, errors);
}

void HostKeeper::TakeOrders() {
  uint64_t ignored = 0;
  [[maybe_unused]] const ssize_t n = read(wake_fd_, &ignored, sizeof(ignored));
  std::vector<Order> orders;
  {
    std::lock_guard lock(mutex_);
    orders.swap(orders_);
  }
  for (Order& order : orders) {
    if (order.run.has_value()) {
      Begin(std::move(order));
    } else if (current_ != nullptr && current_->ticket == order.ticket) {
      End(order.reason);
    }
  }
}

bool HostKeeper::OnSignal() {
  if (current_ == nullptr || leave_at_ != absl::InfiniteFuture()) return false;
  leave_at_ = SystemClock().Now() + options_.drain_timeout;
  spdlog::info("stopping when generation {} ends, within {}", current_->run.generation,
               absl::FormatDuration(options_.drain_timeout));
  return true;
}

void HostKeeper::Loop(ShutdownSignals& signals) {
  const SystemClock clock;
  while (!stopping_.load() && clock.Now() < leave_at_) {
    std::vector<pollfd> fds = {{signals.fd(), POLLIN, 0}, {wake_fd_, POLLIN, 0}};
    if (current_ != nullptr) {
      current_->processes->AppendFds(fds);
      // Of its run directory and of the daemon. Not of the shards: they leave one after the other when the group
      // drains, and when one dies alone the daemon ends.
      fds.resize(4);
    }
    const absl::Duration left = std::min(leave_at_ - clock.Now(), absl::Hours(1));
    poll(fds.data(), fds.size(), static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (fds[0].revents != 0 && signals.Wait(absl::ZeroDuration()) == ShutdownSignals::Event::kSignal && !OnSignal()) {
      break;
    }
    if (current_ != nullptr) {
      current_->processes->Look(fds);
      if (current_->processes->FindEnded(fds, /*shards_too=*/false, "orted").has_value()) End("");
    }
    ReapChildren();
    TakeOrders();
    if (current_ == nullptr && leave_at_ != absl::InfiniteFuture()) break;
  }
  stopping_.store(true);
  if (current_ != nullptr) End("this host is stopping");
  TakeOrders();
}

}  // namespace longshelf::worker
