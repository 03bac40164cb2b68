#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace longshelf::engine {

// How rows get from one shard to another of the same host. What is fastest depends on which caches the two share and on
// how much there is, so it is measured when a group starts. All give the same bits.
enum class RowWay : uint8_t {
  kStream,  // written into the reader's inbox past the caches
  kPush,    // written into the reader's inbox as any other memory
  kPull,    // left where they were computed, in memory that the reader can see
};
inline constexpr std::array<RowWay, 3> kRowWays = {RowWay::kStream, RowWay::kPush, RowWay::kPull};

// A word: "streamed", "pushed" or "pulled".
const char* RowWayName(RowWay way);

// One way for rows on their way to experts, one for results on their way back.
struct RowWays {
  RowWay dispatch = RowWay::kStream;
  RowWay combine = RowWay::kStream;
  bool operator==(const RowWays&) const = default;
};

// What a group measured before it chose: seconds of an exchange of `n_tokens` tokens of each shard, on the slowest one,
// written, sent and read. Index: RowWay.
struct WayFigures {
  size_t n_tokens = 0;
  std::array<double, kRowWays.size()> dispatch_seconds{};
  std::array<double, kRowWays.size()> combine_seconds{};
};

// The ways by how much an exchange moves: for few rows those that cost little, for many those that spare the caches.
class WayTable {
 public:
  explicit WayTable(const RowWays& always = {}) : sizes_{{1, always}} {}
  // The fastest of each size; figures: at least one, ascending n_tokens.
  explicit WayTable(const std::vector<WayFigures>& figures);

  struct SizedWays {
    size_t n_tokens = 0;
    RowWays ways;
    bool operator==(const SizedWays&) const = default;
  };
  // Those of the size nearest to an exchange of so many tokens of a shard, by ratio.
  const RowWays& Of(size_t n_tokens) const;
  bool any_pulled() const;
  const std::vector<SizedWays>& sizes() const { return sizes_; }
  bool operator==(const WayTable&) const = default;

 private:
  std::vector<SizedWays> sizes_;
};

}  // namespace longshelf::engine
