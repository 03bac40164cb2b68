#pragma once

#include <string>
#include <vector>

#include "cluster_core.h"

// The calls that ask several nodes once and put their answers together. On the loop.
namespace longshelf::kvstore {

void ClusterTouch(ClusterCore& core, const TouchQuery& query, absl::Duration timeout, Client::Done<TouchResult> done);
// `drop`: Drop or DropCache.
using DropCall = void (Client::*)(std::vector<PlacedKey>, absl::Duration, Client::Done<DropResult>);
void ClusterDrop(ClusterCore& core, DropCall drop, const std::vector<PlacedKey>& keys, absl::Duration timeout,
                 Client::Done<DropResult> done);
void ClusterDropNamespace(ClusterCore& core, const NamespaceDrop& drop, absl::Duration timeout,
                          Client::Done<DropResult> done);
void ClusterList(ClusterCore& core, const ListQuery& query, absl::Duration timeout, Client::Done<ListResult> done);
void ClusterStats(ClusterCore& core, absl::Duration timeout, Client::Done<StoreStats> done);

}  // namespace longshelf::kvstore
