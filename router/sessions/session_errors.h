#pragma once

#include "absl/status/status.h"
#include "router/api_error.h"

// What a client is told about its session.
namespace longshelf::router {

ApiError NoSuchSession();
ApiError SessionIsRunning();
ApiError SessionIsComplete();
ApiError SessionIsReplaced();
// What the KV store answered.
ApiError SessionStoreError(const absl::Status& status);

}  // namespace longshelf::router
