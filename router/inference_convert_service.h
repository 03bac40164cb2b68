#pragma once

#include <string>
#include <variant>

#include "longshelf/v1/inference.pb.h"
#include "router/api_request.h"
#include "router/completion.h"
#include "router/session.h"

// inference.proto to and from the router's own types. Requests become JSON bodies first, so that one parser and one
// limits table judge whatever a client sends, on either door.
namespace longshelf::router {

std::variant<ApiRequest, ApiError> FromProto(const v1::GenerateRequest& request, const ParseLimits& limits);
std::variant<ApiRequest, ApiError> FromProto(const v1::ChatRequest& request, const ParseLimits& limits);
std::variant<ApiRequest, ApiError> FromProto(const v1::CountTokensRequest& request, const ParseLimits& limits);

std::variant<ParkTerms, ApiError> FromProto(const v1::ParkSessionRequest& request, const ParseLimits& limits);

v1::Usage ToProto(const Usage& usage);
v1::SessionState ToProto(const SessionInfo& info);
void AddDelta(const ChoiceDelta& delta, v1::GenerateReply& reply);
void AddDelta(const ChoiceDelta& delta, v1::ChatReply& reply);

}  // namespace longshelf::router
