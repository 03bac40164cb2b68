#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace longshelf::engine {

// One stretch of memory for everything a step computes between its tokens and its logits, taken from the front and
// given back by going back to a mark. The pages behind it are used, and so exist, only as far as a step ever came.
class Workspace {
 public:
  Workspace() = default;
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // Room for at least `bytes`. Only between steps: what was taken before is gone when it had to grow.
  void Reserve(size_t bytes);

  // Uninitialised, aligned to 64 bytes, with 64 bytes of slack behind. Aborts when the room is used up: Reserve was
  // given too little.
  template <typename T>
  T* Take(int64_t n) {
    return reinterpret_cast<T*>(TakeBytes(static_cast<size_t>(n) * sizeof(T)));
  }

  size_t mark() const { return used_; }
  void Release(size_t mark) { used_ = mark; }

  // Gives back what was taken while it lived.
  class Scope {
   public:
    explicit Scope(Workspace& workspace) : workspace_(workspace), mark_(workspace.mark()) {}
    ~Scope() { workspace_.Release(mark_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Workspace& workspace_;
    const size_t mark_;
  };

 private:
  std::byte* TakeBytes(size_t n);
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  size_t used_ = 0;
};

}  // namespace longshelf::engine
