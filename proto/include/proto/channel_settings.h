#pragma once

// Keepalive is one setting shared by both ends: a client that pings faster than its server allows has a healthy
// silent stream (a long prefill) killed with ENHANCE_YOUR_CALM after a few seconds. Include this from
// *_service.*, *_client.* and main.cc only.

#include <grpcpp/channel.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/support/channel_arguments.h>

#include <climits>

namespace longshelf::proto {

inline constexpr int kKeepaliveIntervalMs = 1000;
inline constexpr int kKeepaliveTimeoutMs = 500;
// Half the interval: jitter must never make an honest ping look like a flood.
inline constexpr int kMinAcceptedPingIntervalMs = kKeepaliveIntervalMs / 2;
inline constexpr int kMaxMessageBytes = 8 << 20;
// Whoever connects and says nothing that makes sense is let go after this.
inline constexpr int kHandshakeTimeoutMs = 10'000;

// How a peer that has gone silent is noticed. A connection is given up after both have passed.
struct Keepalive {
  int interval_ms = kKeepaliveIntervalMs;
  int timeout_ms = kKeepaliveTimeoutMs;
};
// Between routers and workers: only for connections whose other end has vanished. That a worker lives is told by what
// it says (router/queue/pulse.h), and a machine so busy that a ping takes long is no reason to break off what runs
// there.
inline constexpr Keepalive kWorkerKeepalive = {.interval_ms = 5000, .timeout_ms = 10'000};
// Somebody else notices.
inline constexpr Keepalive kNoKeepalive = {.interval_ms = INT_MAX};

// Arguments of every channel between longshelf processes. They are final: of two of one name gRPC takes the first.
inline grpc::ChannelArguments InternalChannelArguments(Keepalive keepalive = {}) {
  grpc::ChannelArguments args;
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, keepalive.interval_ms);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, keepalive.timeout_ms);
  args.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  args.SetMaxReceiveMessageSize(kMaxMessageBytes);
  args.SetMaxSendMessageSize(kMaxMessageBytes);
  return args;
}

// The matching server side.
inline void ApplyInternalServerSettings(grpc::ServerBuilder& builder, Keepalive keepalive = {}) {
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, keepalive.interval_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, keepalive.timeout_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinAcceptedPingIntervalMs);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
}

// What the receiver of a bulk stream lets its sender send ahead of it. Fixed, so that a receiver that pauses costs no
// more, and as fast as a window that grows by probing: it fills 16 Gbit/s over a round trip of 1 ms.
inline constexpr int kBulkLookaheadBytes = 2 << 20;

// For streams of KV blocks, on top of the above.
inline void ApplyBulkSettings(grpc::ChannelArguments& args) {
  args.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  args.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kBulkLookaheadBytes);
}
inline void ApplyBulkSettings(grpc::ServerBuilder& builder) {
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kBulkLookaheadBytes);
}

}  // namespace longshelf::proto
