#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

// The only two control-flow macros of the tree.
#define RETURN_IF_ERROR(expr)                           \
  do {                                                  \
    if (absl::Status status_ = (expr); !status_.ok()) { \
      return status_;                                   \
    }                                                   \
  } while (false)

#define LONGSHELF_STATUS_CONCAT_INNER(a, b) a##b
#define LONGSHELF_STATUS_CONCAT(a, b) LONGSHELF_STATUS_CONCAT_INNER(a, b)
#define ASSIGN_OR_RETURN(lhs, expr) \
  LONGSHELF_ASSIGN_OR_RETURN_IMPL(LONGSHELF_STATUS_CONCAT(status_or_, __LINE__), lhs, expr)
#define LONGSHELF_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                                    \
  if (!tmp.ok()) {                                      \
    return std::move(tmp).status();                     \
  }                                                     \
  lhs = std::move(tmp).value()

namespace longshelf {

// The same status with "context: " before its message. Add context once, where the id is known.
inline absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  return absl::Status(status.code(), absl::StrCat(context, ": ", status.message()));
}

}  // namespace longshelf
