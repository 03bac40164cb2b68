#include "grpc_health.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/client_unary_call.h>
#include <grpcpp/support/byte_buffer.h>

namespace longshelf::worker {

HealthAnswer CheckHealth(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  // HealthCheckRequest { string service = 1; }
  std::string request_bytes;
  if (!service.empty()) request_bytes = std::string("\x0a") + static_cast<char>(service.size()) + service;
  const grpc::Slice slice(request_bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer reply;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  const grpc::internal::RpcMethod method("/grpc.health.v1.Health/Check", grpc::internal::RpcMethod::NORMAL_RPC);
  const grpc::Status status = grpc::internal::BlockingUnaryCall<grpc::ByteBuffer, grpc::ByteBuffer>(
      channel.get(), method, &context, request, &reply);
  if (status.error_code() == grpc::StatusCode::NOT_FOUND) return HealthAnswer::kUnknownService;
  if (!status.ok()) return HealthAnswer::kNoAnswer;
  grpc::Slice out;
  if (!reply.DumpToSingleSlice(&out).ok()) return HealthAnswer::kNoAnswer;
  // HealthCheckResponse { ServingStatus status = 1; } with SERVING = 1.
  const std::string bytes(reinterpret_cast<const char*>(out.begin()), out.size());
  return bytes == std::string("\x08\x01") ? HealthAnswer::kServing : HealthAnswer::kNotServing;
}

}  // namespace longshelf::worker
