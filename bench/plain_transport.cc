#include "plain_transport.h"

#include <algorithm>
#include <cstring>

#include "common/status.h"

namespace longshelf::bench {
namespace {

constexpr size_t kUnit = engine::kExchangeUnitBytes;

size_t UnitsFor(size_t n_bytes) { return (n_bytes + kUnit - 1) / kUnit; }

}  // namespace

PlainTransport::PlainTransport(engine::Communicator& communicator, uint32_t n_experts)
    : communicator_(communicator),
      n_experts_(n_experts),
      owner_(n_experts),
      sent_(static_cast<size_t>(communicator.size())),
      received_(static_cast<size_t>(communicator.size())) {
  for (int r = 0; r < size(); ++r) {
    const uint32_t end = engine::FirstExpertOf(r + 1, n_experts, size());
    for (uint32_t e = engine::FirstExpertOf(r, n_experts, size()); e < end; ++e) owner_[e] = static_cast<uint16_t>(r);
  }
}

size_t PlainTransport::UnitsOf(const Counts& counts) const {
  return counts.n_tokens * row_units_ + UnitsFor(counts.n_pairs * sizeof(Pair));
}

void PlainTransport::Place(const std::vector<size_t>& n_units, std::vector<engine::ExchangePart>& parts,
                           std::vector<Unit>& buffer) {
  parts.clear();
  size_t end = 0;
  for (const size_t n : n_units) {
    parts.push_back({end, n});
    end += n;
  }
  if (buffer.size() < end) buffer.resize(end);
}

absl::Status PlainTransport::BeginDispatch(int, uint32_t, std::span<const std::byte> rows, size_t row_bytes,
                                           std::span<const engine::ExpertAssignment> assignments) {
  rows_ = rows;
  assignments_ = assignments;
  row_bytes_ = row_bytes;
  row_units_ = UnitsFor(row_bytes);
  std::vector<uint32_t> last(sent_.size(), UINT32_MAX);
  std::fill(sent_.begin(), sent_.end(), Counts{});
  for (const engine::ExpertAssignment& a : assignments) {
    const size_t to = owner_[a.expert];
    ++sent_[to].n_pairs;
    if (last[to] != a.token) ++sent_[to].n_tokens;
    last[to] = a.token;
  }
  RETURN_IF_ERROR(
      communicator_.ExchangeFixed(std::as_bytes(std::span(sent_)), std::as_writable_bytes(std::span(received_))));
  std::vector<size_t> out;
  std::vector<size_t> in;
  for (size_t r = 0; r < sent_.size(); ++r) {
    const bool is_own = static_cast<int>(r) == rank();
    out.push_back(is_own ? 0 : UnitsOf(sent_[r]));
    in.push_back(is_own ? 0 : UnitsOf(received_[r]));
  }
  Place(out, send_parts_, send_);
  Place(in, receive_parts_, receive_);
  Pack();
  return communicator_.ExchangeUnits(send_.data()->bytes, send_parts_, receive_.data()->bytes, receive_parts_);
}

void PlainTransport::Pack() {
  std::vector<uint32_t> last(sent_.size(), UINT32_MAX);
  std::vector<uint32_t> n_rows(sent_.size(), 0);
  std::vector<std::byte*> pairs(sent_.size());
  for (size_t r = 0; r < sent_.size(); ++r) {
    pairs[r] = send_.data()->bytes + (send_parts_[r].first_unit + sent_[r].n_tokens * row_units_) * kUnit;
  }
  for (const engine::ExpertAssignment& a : assignments_) {
    const size_t to = owner_[a.expert];
    if (static_cast<int>(to) == rank()) continue;
    if (last[to] != a.token) {
      std::byte* row = send_.data()->bytes + (send_parts_[to].first_unit + n_rows[to] * row_units_) * kUnit;
      std::memcpy(row, rows_.data() + a.token * row_bytes_, row_bytes_);
      ++n_rows[to];
      last[to] = a.token;
    }
    const Pair pair{n_rows[to] - 1, a.expert, a.weight};
    std::memcpy(pairs[to], &pair, sizeof(pair));
    pairs[to] += sizeof(pair);
  }
}

absl::Status PlainTransport::FinishDispatch(int, std::span<const engine::DispatchedRow>,
                                            std::vector<engine::DispatchedRow>& received) {
  arrived_.clear();
  for (size_t r = 0; r < received_.size(); ++r) {
    if (static_cast<int>(r) == rank()) {
      for (const engine::ExpertAssignment& a : assignments_) {
        if (owner_[a.expert] == r) {
          arrived_.push_back({{a.token, a.expert, a.weight}, rows_.data() + a.token * row_bytes_});
        }
      }
      continue;
    }
    const std::byte* rows = receive_.data()->bytes + receive_parts_[r].first_unit * kUnit;
    const std::byte* pairs = rows + received_[r].n_tokens * row_units_ * kUnit;
    for (uint32_t i = 0; i < received_[r].n_pairs; ++i) {
      Pair pair;
      std::memcpy(&pair, pairs + i * sizeof(pair), sizeof(pair));
      arrived_.push_back({pair, rows + pair.row * row_units_ * kUnit});
    }
  }
  Sort(received);
  return absl::OkStatus();
}

void PlainTransport::Sort(std::vector<engine::DispatchedRow>& received) {
  cursor_.assign(size_t{n_experts_} + 1, 0);
  for (const Arrived& a : arrived_) ++cursor_[a.pair.expert + 1];
  for (size_t e = 1; e < cursor_.size(); ++e) cursor_[e] += cursor_[e - 1];
  received.resize(arrived_.size());
  place_.resize(arrived_.size());
  for (size_t i = 0; i < arrived_.size(); ++i) {
    const Arrived& a = arrived_[i];
    place_[i] = cursor_[a.pair.expert]++;
    received[place_[i]] = {.expert = a.pair.expert, .weight = a.pair.weight, .row = a.row};
  }
}

absl::Status PlainTransport::PlaceResults(int, std::span<std::byte> results, size_t result_bytes,
                                          std::span<engine::DispatchedRow> received) {
  results_ = results;
  result_bytes_ = result_bytes;
  result_units_ = UnitsFor(result_bytes);
  for (size_t i = 0; i < received.size(); ++i) received[i].result = results.data() + i * result_bytes;
  return absl::OkStatus();
}

absl::Status PlainTransport::BeginCombine(int) {
  std::vector<size_t> out;
  std::vector<size_t> in;
  for (size_t r = 0; r < sent_.size(); ++r) {
    const bool is_own = static_cast<int>(r) == rank();
    out.push_back(is_own ? 0 : received_[r].n_pairs * result_units_);
    in.push_back(is_own ? 0 : sent_[r].n_pairs * result_units_);
  }
  Place(out, send_parts_, send_);
  Place(in, receive_parts_, receive_results_);
  size_t i = 0;
  for (size_t r = 0; r < sent_.size(); ++r) {
    // Own ones are among the arrived, as many as are sent to this shard itself.
    const size_t n = static_cast<int>(r) == rank() ? sent_[r].n_pairs : received_[r].n_pairs;
    std::byte* to = send_.data()->bytes + send_parts_[r].first_unit * kUnit;
    for (const size_t end = i + n; i < end; ++i, to += result_units_ * kUnit) {
      if (static_cast<int>(r) != rank()) std::memcpy(to, results_.data() + place_[i] * result_bytes_, result_bytes_);
    }
  }
  return communicator_.ExchangeUnits(send_.data()->bytes, send_parts_, receive_results_.data()->bytes, receive_parts_);
}

absl::Status PlainTransport::FinishCombine(int, std::vector<const std::byte*>& combined) {
  std::vector<size_t> next(sent_.size(), 0);
  size_t own = 0;  // of this shard's own among the arrived
  for (int r = 0; r < rank(); ++r) own += received_[static_cast<size_t>(r)].n_pairs;
  combined.clear();
  for (const engine::ExpertAssignment& a : assignments_) {
    const size_t from = owner_[a.expert];
    const size_t i = next[from]++;
    combined.push_back(static_cast<int>(from) == rank()
                           ? results_.data() + place_[own + i] * result_bytes_
                           : receive_results_.data()->bytes +
                                 (receive_parts_[from].first_unit + i * result_units_) * kUnit);
  }
  return absl::OkStatus();
}

}  // namespace longshelf::bench
