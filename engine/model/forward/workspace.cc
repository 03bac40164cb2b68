#include "workspace.h"

#include <sys/mman.h>

#include "common/check.h"

namespace longshelf::engine {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

Workspace::~Workspace() {
  if (data_ != nullptr) munmap(data_, size_);
}

void Workspace::Reserve(size_t bytes) {
  if (bytes <= size_) return;
  if (data_ != nullptr) munmap(data_, size_);
  size_ = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* mapped = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  LONGSHELF_CHECK(mapped != MAP_FAILED);
  madvise(mapped, size_, MADV_HUGEPAGE);  // a wish: without it steps are slower, not wrong
  data_ = static_cast<std::byte*>(mapped);
  used_ = 0;
}

std::byte* Workspace::TakeBytes(size_t n) {
  const size_t taken = (n + kAlign - 1) / kAlign * kAlign + kAlign;
  LONGSHELF_CHECK(taken <= size_ - used_);
  std::byte* at = data_ + used_;
  used_ += taken;
  return at;
}

}  // namespace longshelf::engine
