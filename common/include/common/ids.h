#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace longshelf {

// 128 bits from the kernel as 32 lower-case hex digits. Unguessable; for ids that name things, not for sampling.
std::string RandomId();

// Equal, in a time that does not depend on where they differ.
bool SameSecret(absl::string_view a, absl::string_view b);

// "req_" and a RandomId: what x-request-id carries when the client sent none.
std::string RequestId();

// Whether a request id from a client may be logged and sent back: 1 to 128 of [A-Za-z0-9._-].
bool IsUsableRequestId(absl::string_view id);

}  // namespace longshelf
