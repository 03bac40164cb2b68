#include "page_arena.h"

#include <sys/mman.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace longshelf::kvstore {

absl::StatusOr<PageArena> PageArena::Create(uint32_t n_pages) {
  LONGSHELF_CHECK(n_pages > 0);
  const size_t n_bytes = size_t{n_pages} * kPageBytes;
  void* base = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot map ", n_bytes, " bytes for objects: lower --memory"));
  }
  // Both are advice; a kernel without them serves the same bytes.
  (void)madvise(base, n_bytes, MADV_DONTDUMP);
  (void)madvise(base, n_bytes, MADV_HUGEPAGE);
  return PageArena(Mapping(static_cast<std::byte*>(base), Unmap{n_bytes}), n_pages);
}

void PageArena::Unmap::operator()(std::byte* base) const { munmap(base, n_bytes); }

std::vector<uint32_t> PageArena::Allocate(uint32_t n) {
  LONGSHELF_CHECK(n <= n_free());
  std::vector<uint32_t> pages;
  pages.reserve(n);
  const uint32_t n_reused = std::min<uint32_t>(n, static_cast<uint32_t>(free_.size()));
  for (uint32_t i = 0; i < n_reused; ++i) {
    pages.push_back(free_.back());
    free_.pop_back();
  }
  for (uint32_t i = n_reused; i < n; ++i) pages.push_back(n_fresh_++);
  return pages;
}

// In reverse, so that an object's successor of the same size gets the pages in the same (mostly ascending) order.
void PageArena::Free(std::span<const uint32_t> pages) { free_.insert(free_.end(), pages.rbegin(), pages.rend()); }

}  // namespace longshelf::kvstore
