#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace longshelf::cli {

// A cluster on one machine, everything on 127.0.0.1.
struct ClusterOptions {
  std::string model = {};         // checkpoint directory
  std::string program_dir = {};   // where the binaries are
  std::vector<int> shards = {};   // of each worker
  int n_threads = 1;              // of each shard
  int64_t kv_memory_bytes = 0;    // of each shard
  std::string certificates = {};  // directory of what MakeCertificates makes: all connections with TLS; "": none
  int n_stores = 1;
  int64_t store_memory_bytes = 0;  // of each
  std::string log_level = "info";
  absl::Duration stop_timeout = absl::Seconds(20);  // of a program that is told to end
  std::vector<std::string> router_flags = {};       // given to the program as they are, after ours
  std::vector<std::string> worker_flags = {};
  std::vector<std::string> kvstore_flags = {};  // of several stores, each has a directory of its own in --disk
};

struct ClusterPorts {
  uint16_t http = 0;
  uint16_t grpc = 0;
  std::vector<uint16_t> others;  // ClusterPlan::n_other_ports of them
};

// One program of the cluster.
struct Member {
  enum class Role { kKvstore, kWorker, kRouter };
  Role role;
  std::string name;  // "worker-2", also of its log
  std::string program;
  std::vector<std::string> args;
  uint16_t admin_port;  // where /readyz is
};

struct ClusterPlan {
  std::vector<Member> members;  // in the order of starting; the reverse of stopping
  std::string model_name;
  std::string http_url;
  std::string ca_file;  // whom to believe, of HTTP and admin ports; "": they are without TLS
  std::string grpc_address;

  // Of internal endpoints and admin ports.
  static size_t n_other_ports(size_t n_stores, size_t n_workers) { return 1 + 2 * n_stores + 3 * n_workers; }
};

ClusterPlan PlanCluster(const ClusterOptions& options, const ClusterPorts& ports);

// The shards of each worker from what was asked for: `n_workers` 0 = as many as `shards` has, or 2; `shards` empty =
// one each, but two for the second worker; one number = for every worker.
absl::StatusOr<std::vector<int>> ShardsOfWorkers(int n_workers, const std::vector<std::string>& shards);

// The bundled model: models/demo in the nearest directory above `program_dir`, or share/longshelf/models/demo beside
// it. NOT_FOUND when there is none.
absl::StatusOr<std::string> FindDemoModel(const std::string& program_dir);

// Ports of 127.0.0.1 that nobody listens on, outside the range that the kernel hands to outgoing connections.
// `wanted`: taken when free, else replaced when `replace`, else UNAVAILABLE; 0 = any.
absl::StatusOr<ClusterPorts> ChoosePorts(uint16_t wanted_http, uint16_t wanted_grpc, bool replace, size_t n_others,
                                         const std::function<uint32_t()>& random);

}  // namespace longshelf::cli
