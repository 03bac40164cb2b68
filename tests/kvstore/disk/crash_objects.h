#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "disk_fixture.h"

// What the tests of kills and of losses of power share.
namespace longshelf::kvstore::disk {

inline int Rounds(int usual) {
  const char* text = std::getenv("LONGSHELF_CRASH_ROUNDS");
  int rounds = 0;
  return text != nullptr && absl::SimpleAtoi(text, &rounds) ? rounds : usual;
}

constexpr uint64_t kNamespaces = 3;

inline std::string NamespaceOf(uint64_t id) { return "namespace-" + std::to_string(id % kNamespaces); }

// Of a size that the number says too.
inline Object ObjectOf(uint64_t id) {
  Object object = MakeObject(id, /*parent=*/1u << 30, 256, 1 + (id * 7919) % 40000);
  object.head.namespace_id = NamespaceOf(id);
  return object;
}

inline std::unique_ptr<const SecretKey> KeyIf(bool encrypted) { return encrypted ? MasterKey(1) : nullptr; }

}  // namespace longshelf::kvstore::disk
