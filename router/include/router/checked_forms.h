#pragma once

#include <cstddef>
#include <deque>
#include <mutex>

namespace longshelf::router {

// Output forms that were found good lately, by their hashes: agents send the same tools with every request. What it
// says only saves work, since workers compile every form themselves. Any thread.
class CheckedForms {
 public:
  bool Has(size_t hash);
  void Add(size_t hash);

 private:
  static constexpr size_t kKept = 256;
  std::mutex mutex_;  // guards hashes_, which threads of the prepare pool share
  std::deque<size_t> hashes_;
};

}  // namespace longshelf::router
