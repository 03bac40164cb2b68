#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace longshelf::engine {

// One contiguous anonymous mapping of equal cells (KV blocks, or state slots), aligned to cache lines. Zero when new,
// pages come with the first write, and never in a core dump: KV is user content.
class CellArena {
 public:
  // RESOURCE_EXHAUSTED: the address space or the memory limit does not allow it. `what` names it in the error.
  static absl::StatusOr<std::unique_ptr<CellArena>> Map(absl::string_view what, size_t cell_bytes, uint32_t n_cells);
  ~CellArena();
  CellArena(const CellArena&) = delete;
  CellArena& operator=(const CellArena&) = delete;

  uint32_t n_cells() const { return n_cells_; }
  size_t cell_bytes() const { return cell_bytes_; }
  // REQUIRES: cell < n_cells().
  std::byte* cell(uint32_t cell) const { return base_ + cell * stride_; }
  // Of a pointer that cell() gave.
  uint32_t IndexOf(const std::byte* cell) const {
    return static_cast<uint32_t>(static_cast<size_t>(cell - base_) / stride_);
  }

 private:
  CellArena(std::byte* base, size_t cell_bytes, size_t stride, uint32_t n_cells)
      : base_(base), cell_bytes_(cell_bytes), stride_(stride), n_cells_(n_cells) {}

  std::byte* base_;
  size_t cell_bytes_;
  size_t stride_;
  uint32_t n_cells_;
};

}  // namespace longshelf::engine
