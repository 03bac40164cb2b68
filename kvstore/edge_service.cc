#include "edge_service.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "proto/grpc_status.h"

namespace longshelf::kvstore {
namespace {

prometheus::Counter& PutCounter(Metrics& metrics, const std::string& outcome) {
  return metrics.AddCounter("longshelf_kvstore_put_objects_total",
                            "Objects offered by Put, by how it ended: committed, existed (nothing sent), busy (no "
                            "memory then), refused, corrupt (digest), broken (stream ended first)",
                            {{"outcome", outcome}});
}

}  // namespace

EdgeMetrics::EdgeMetrics(Metrics& metrics)
    : lookups(metrics.AddCounter("longshelf_kvstore_lookups_total", "Lookup calls")),
      lookup_keys_present(metrics.AddCounter("longshelf_kvstore_lookup_keys_total",
                                             "Block keys asked for by Lookup, by whether the prefix reached them",
                                             {{"found", "true"}})),
      lookup_keys_absent(metrics.AddCounter("longshelf_kvstore_lookup_keys_total",
                                            "Block keys asked for by Lookup, by whether the prefix reached them",
                                            {{"found", "false"}})),
      put_committed(PutCounter(metrics, "committed")),
      put_existed(PutCounter(metrics, "existed")),
      put_busy(PutCounter(metrics, "busy")),
      put_refused(PutCounter(metrics, "refused")),
      put_corrupt(PutCounter(metrics, "corrupt")),
      put_broken(PutCounter(metrics, "broken")),
      get_corrupt(metrics.AddCounter("longshelf_kvstore_get_corrupt_total",
                                     "Objects whose bytes in memory no longer matched their digest when read")),
      bytes_in(metrics.AddCounter("longshelf_kvstore_received_bytes_total", "Payload bytes received by Put")),
      bytes_out(metrics.AddCounter("longshelf_kvstore_sent_bytes_total", "Payload bytes sent by Get")),
      unauthenticated(
          metrics.AddCounter("longshelf_kvstore_unauthenticated_total",
                             "Calls without the token, or with the certificate of a role that is not answered")) {}

absl::Status Edge::CheckCaller(const grpc::CallbackServerContext& context) {
  const grpc::Status status = callers.Check(context);
  if (!status.ok()) counters.unauthenticated.Increment();
  return proto::FromGrpc(status);
}

absl::Status Edge::CheckStream(const grpc::CallbackServerContext& context) {
  if (absl::Status status = CheckCaller(context); !status.ok()) return status;
  if (context.deadline() > std::chrono::system_clock::now() + kLongestDeadline + std::chrono::seconds(10)) {
    return absl::InvalidArgumentError(
        absl::StrCat("deadline: Put and Get need one of at most ", kLongestDeadline.count(), " minutes"));
  }
  return absl::OkStatus();
}

absl::Status StreamSlot::Check() const {
  if (n_before_ < edge_.options.streams_max) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("more than ", edge_.options.streams_max, " streams at once"));
}

}  // namespace longshelf::kvstore
