#include "common/memory.h"

#include <malloc.h>

namespace longshelf {

void KeepFreedMemory() {
  constexpr int kLargestBytes = 32 << 20;  // the most that glibc takes
  constexpr int kKeptBytes = 256 << 20;
  // What another allocator than glibc's does is its own affair.
  (void)mallopt(M_MMAP_THRESHOLD, kLargestBytes);
  (void)mallopt(M_TRIM_THRESHOLD, kKeptBytes);
}

}  // namespace longshelf
