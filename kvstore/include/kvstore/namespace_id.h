#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace longshelf::kvstore {

// How routers name namespaces: NAME, and NAME#GENERATION once what it had before was deleted. Later generations are
// larger, and are written in base 36. Users of a NAME without ':' are named NAME:USER. Any other id is a name of
// generation 0.
struct NamespaceId {
  std::string_view name;
  uint64_t generation = 0;
};

std::string NamespaceIdOf(std::string_view name, uint64_t generation);
NamespaceId ParseNamespaceId(std::string_view id);
// Of a user, the name that he is a user of; otherwise "".
std::string_view OwnerOf(std::string_view name);

// Whether it is the name's, or one of its users', and of an earlier generation.
bool IsBefore(std::string_view id, std::string_view name, uint64_t generation);

// What a store answers to objects of a namespace that it was told is deleted. FAILED_PRECONDITION.
absl::Status NamespaceDeleted();
// Also when somebody has put more words before it.
bool IsNamespaceDeleted(const absl::Status& status);

}  // namespace longshelf::kvstore
