#include "router/heap.h"

#include <malloc.h>

namespace longshelf::router {
namespace {

constexpr int kMappedFromBytes = 256 << 10;  // a block of its own, which free() unmaps

}  // namespace

void KeepHeapSmall() {
  mallopt(M_MMAP_THRESHOLD, kMappedFromBytes);
  mallopt(M_TRIM_THRESHOLD, kMappedFromBytes);
}

void TrimHeap() { malloc_trim(0); }

}  // namespace longshelf::router
