#include "kv_arena.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"

namespace longshelf::engine {
namespace {

constexpr size_t kCacheLine = 64;

}  // namespace

absl::StatusOr<std::unique_ptr<CellArena>> CellArena::Map(absl::string_view what, size_t cell_bytes, uint32_t n_cells) {
  constexpr size_t kMax = std::numeric_limits<size_t>::max() / 2;
  const size_t stride = (cell_bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
  if (cell_bytes == 0 || n_cells == 0 || stride < cell_bytes || n_cells > kMax / stride) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": ", n_cells, " x ", cell_bytes, " bytes is not a size"));
  }
  const size_t n_bytes = stride * n_cells;
  void* base = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot map ", n_bytes, " bytes for ", what, ": ",
                                                     std::strerror(errno), "; lower the number of blocks or slots"));
  }
  madvise(base, n_bytes, MADV_DONTDUMP);  // best effort: an old kernel only dumps more
  return std::unique_ptr<CellArena>(new CellArena(static_cast<std::byte*>(base), cell_bytes, stride, n_cells));
}

CellArena::~CellArena() { munmap(base_, stride_ * n_cells_); }

}  // namespace longshelf::engine
