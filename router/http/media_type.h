#pragma once

#include <optional>

#include "router/api_error.h"
#include "router/http_message.h"

namespace longshelf::router {

// What a body may say it is: JSON in UTF-8, or nothing at all; 415 otherwise. curl says it is a form and fetch() that
// it is text when nobody tells them: that is taken for JSON too, but not from a page of a browser, whose forms can send
// these two anywhere without asking first.
std::optional<ApiError> CheckMediaType(const HttpRequest& request);

}  // namespace longshelf::router
