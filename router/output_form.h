#pragma once

#include <optional>

#include "grammar/output_spec.h"
#include "router/api_error.h"
#include "router/api_request.h"
#include "router/checked_forms.h"

namespace longshelf::router {

// What the answer to a request has to look like; nothing when it may be anything.
std::optional<grammar::OutputSpec> OutputFormOf(const ApiRequest& request);

// Compiles it, as the worker will, and says which field of the request cannot be enforced, and why. `checked` may be
// null.
std::optional<ApiError> CheckOutputForm(const ApiRequest& request, const grammar::OutputSpec& form,
                                        CheckedForms* checked);

}  // namespace longshelf::router
