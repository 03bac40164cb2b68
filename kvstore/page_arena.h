#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace longshelf::kvstore {

inline constexpr size_t kPageBytes = 4096;

// One mapping cut into pages of one size. An object is a list of pages, so memory never fragments and a reservation
// is a subtraction. The mapping is left out of core dumps: it holds what users wrote.
// Not thread safe: the store's mutex guards allocation; the bytes of a page belong to whoever holds the page.
class PageArena {
 public:
  // RESOURCE_EXHAUSTED when the address range cannot be had.
  static absl::StatusOr<PageArena> Create(uint32_t n_pages);

  uint32_t n_pages() const { return n_pages_; }
  uint32_t n_free() const { return static_cast<uint32_t>(free_.size()) + (n_pages_ - n_fresh_); }

  // REQUIRES: n <= n_free(). Pages freed last are used first; pages never used are handed out in address order.
  std::vector<uint32_t> Allocate(uint32_t n);
  void Free(std::span<const uint32_t> pages);

  std::byte* page(uint32_t index) const { return base_.get() + size_t{index} * kPageBytes; }

  // The pages stay mapped as long as this is held, whatever becomes of the arena.
  using Mapping = std::shared_ptr<std::byte>;
  Mapping mapping() const { return base_; }

 private:
  PageArena(Mapping base, uint32_t n_pages) : base_(std::move(base)), n_pages_(n_pages) {}

  Mapping base_;
  uint32_t n_pages_;
  uint32_t n_fresh_ = 0;  // pages [n_fresh_, n_pages_) were never handed out
  std::vector<uint32_t> free_;
};

// Copies into pages past the processor's caches: what the pages held is not fetched first, and nothing is pushed out
// for bytes that nobody reads soon. Nobody else sees them before EndPageCopies. REQUIRES: both have one size.
void CopyToPages(std::span<std::byte> target, std::span<const std::byte> source);
void EndPageCopies();

}  // namespace longshelf::kvstore
