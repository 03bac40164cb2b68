#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

namespace longshelf::worker {

enum class HealthAnswer { kServing, kNotServing, kUnknownService, kNoAnswer };

// grpc.health.v1.Health/Check, with its two messages written out by hand: Debian ships no generated code for it.
HealthAnswer CheckHealth(const std::shared_ptr<grpc::Channel>& channel, const std::string& service);

}  // namespace longshelf::worker
