// The way back of an exchange: where results are written, and how they get to their home shards.
#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "direct_lane.h"

namespace longshelf::engine {
namespace {

// Less than this is not worth a message of its own.
constexpr size_t kPieceBytes = size_t{256} << 10;

}  // namespace

ResultPieces::ResultPieces(size_t rows, size_t stride_max)
    : n_rows(rows),
      stride(stride_max),
      n(std::clamp<size_t>(rows * stride_max / kPieceBytes, 1, std::clamp<size_t>(rows, 1, kResultPiecesMax))) {}

// n_pulled: rows of the outbox that are taken.
void DirectLane::PlaceNear(Source& source, size_t& n_pulled, std::span<DispatchedRow> received) {
  std::byte* to = nullptr;
  RowStore store = RowStore::kPlain;
  source.pulls =
      pulls(combine_way_) && (n_pulled + source.n_arrivals) * result_stride_ <= outbox(group_.rank).results_bytes();
  if (source.pulls) {
    source.first_pulled = static_cast<uint32_t>(n_pulled);
    to = outbox(group_.rank).results() + n_pulled * result_stride_;
    n_pulled += source.n_arrivals;
  } else {
    to = inbox(source.rank).results() + source.first_row * result_stride_;
    if (combine_way_ == RowWay::kStream) store = RowStore::kStream;
  }
  for (size_t i = 0; i < source.n_arrivals; ++i, to += result_stride_) {
    DispatchedRow& row = received[order_.place(source.first_arrival + i)];
    row.result = to;
    row.store = store;
  }
}

// In the order in which they are computed, so that pieces are whole one after another.
void DirectLane::PlaceFar(std::span<DispatchedRow> received) {
  far_source_.assign(received.size(), kNoSource);
  for (size_t s = 0; s < sources_.size(); ++s) {
    Source& source = sources_[s];
    if (!source.is_far || group_.near_only) continue;
    source.pieces = PiecesOf(source.n_arrivals);
    source.piece = source.n_placed = source.n_written = source.n_pieces_sent = 0;
    for (size_t i = 0; i < source.n_arrivals; ++i) {
      far_source_[order_.place(source.first_arrival + i)] = static_cast<uint16_t>(s);
    }
  }
  n_written_ = 0;
  for (size_t at = 0; at < received.size(); ++at) {
    if (far_source_[at] == kNoSource) continue;
    Source& source = sources_[far_source_[at]];
    const ResultPieces& pieces = source.pieces;
    if (source.n_placed == pieces.begin(source.piece + 1)) ++source.piece;
    received[at].result = source.staging.data() + pieces.offset(source.piece) + sizeof(MessageHeader) +
                          (source.n_placed - pieces.begin(source.piece)) * result_stride_;
    ++source.n_placed;
  }
}

// By the tokens whose results for neighbours are so many, as they are when experts are asked for alike.
RowWay DirectLane::CombineWay() const {
  size_t n_rows = 0;
  for (const Source& source : sources_) n_rows += source.is_far ? 0 : source.n_arrivals;
  const size_t n_near = group_.n_near();
  const size_t n_each = group_.options.n_experts_per_token * (n_near - 1);
  return group_.ways.Of(n_each == 0 ? 0 : n_rows * n_near / n_each).combine;
}

absl::Status DirectLane::PlaceResults(std::span<std::byte> results, size_t result_bytes,
                                      std::span<DispatchedRow> received) {
  RETURN_IF_ERROR(CheckCombineArguments(results, result_bytes, arrivals_.size()));
  if (result_bytes > group_.options.result_bytes_max || received.size() != arrivals_.size()) {
    return absl::InternalError(absl::StrCat("combine of ", received.size(), " results of ", result_bytes,
                                            " bytes; it is ", arrivals_.size(), ", and the inboxes are for ",
                                            group_.options.result_bytes_max));
  }
  results_ = results;
  result_bytes_ = result_bytes;
  result_stride_ = RoundUpTo(result_bytes, kMessageUnitBytes);
  for (size_t i = own_first_; i < own_first_ + own_.size() - own_done_.size(); ++i) {
    received[order_.place(i)].result = results.data() + order_.place(i) * result_bytes;
  }
  combine_way_ = CombineWay();
  size_t n_pulled = 0;
  for (Source& source : sources_) {
    if (!source.is_far) PlaceNear(source, n_pulled, received);
  }
  PlaceFar(received);
  return absl::OkStatus();
}

void DirectLane::SendNear(Source& source) {
  MessageHeader header =
      MakeHeader(source.pulls ? MessageKind::kCombinePulled : MessageKind::kCombine, group_.rank, source.rank, clock_);
  header.n_rows = static_cast<uint32_t>(source.n_arrivals);
  header.row_bytes = static_cast<uint32_t>(result_bytes_);
  header.n_bytes = sizeof(header) + source.n_arrivals * result_stride_;
  if (source.pulls) header.first_row = source.first_pulled;
  SealHeader(header);
  inbox(source.rank).combine_header(group_.rank) = header;
  inbox(source.rank).combined(group_.rank).store(n_exchanges_, std::memory_order_release);
  group_.shared_bytes += header.n_bytes;
}

// Those that are whole.
absl::Status DirectLane::SendPieces(Source& source) {
  const ResultPieces& pieces = source.pieces;
  for (size_t& p = source.n_pieces_sent; p < pieces.n && source.n_written >= pieces.begin(p + 1); ++p) {
    MessageHeader header = MakeHeader(MessageKind::kCombine, group_.rank, source.rank, clock_);
    header.piece = static_cast<uint16_t>(p);
    header.first_row = static_cast<uint32_t>(pieces.begin(p));
    header.n_rows = static_cast<uint32_t>(pieces.count(p));
    header.row_bytes = static_cast<uint32_t>(result_bytes_);
    header.n_bytes = sizeof(header) + pieces.count(p) * result_stride_;
    SealHeader(header);
    std::byte* message = source.staging.data() + pieces.offset(p);
    std::memcpy(message, &header, sizeof(header));
    ASSIGN_OR_RETURN(source.sending[p], group_.communicator.StartSend(source.rank, tag(kCombineTag), message,
                                                                      header.n_bytes / kExchangeUnitBytes));
    group_.sent_bytes += header.n_bytes;
  }
  return absl::OkStatus();
}

absl::Status DirectLane::ResultsWritten(size_t n) {
  for (; n_written_ < n; ++n_written_) {
    if (far_source_[n_written_] != kNoSource) ++sources_[far_source_[n_written_]].n_written;
  }
  for (size_t i = 0; i < sources_.size(); ++i) {
    Source& source = sources_[(i + static_cast<size_t>(group_.rank)) % sources_.size()];
    if (source.is_far && !group_.near_only) RETURN_IF_ERROR(SendPieces(source));
  }
  return absl::OkStatus();
}

absl::Status DirectLane::BeginCombine() {
  RETURN_IF_ERROR(ResultsWritten(far_source_.size()));
  for (size_t i = 0; i < sources_.size(); ++i) {
    Source& source = sources_[(i + static_cast<size_t>(group_.rank)) % sources_.size()];
    if (!source.is_far) SendNear(source);
  }
  return absl::OkStatus();
}

absl::Status DirectLane::CheckResults(const MessageHeader& header, MessageKind kind, int source, size_t n_rows) const {
  RETURN_IF_ERROR(CheckHeader(header, kind, source, group_.rank, clock_));
  if (header.row_bytes != result_bytes_) return OutOfStep("row size", source, header.row_bytes, result_bytes_);
  if (header.n_rows != n_rows) return OutOfStep("row count", source, header.n_rows, n_rows);
  return absl::OkStatus();
}

absl::Status DirectLane::TakeNear(Source& source, std::vector<const std::byte*>& combined) {
  const std::span<const uint32_t> pairs = by_rank_.of(source.rank);
  const std::atomic<uint64_t>& flag = own().combined(source.rank);
  RETURN_IF_ERROR(group_.WaitFor([&] { return flag.load(std::memory_order_acquire) >= n_exchanges_; }));
  const MessageHeader header = own().combine_header(source.rank);
  const bool pulled = !outboxes_.empty() && header.kind == MessageKind::kCombinePulled;
  RETURN_IF_ERROR(
      CheckResults(header, pulled ? MessageKind::kCombinePulled : MessageKind::kCombine, source.rank, pairs.size()));
  const std::byte* from = own().results() + by_rank_.begin(source.rank) * result_stride_;
  if (pulled) {
    const size_t n_rows_max = outbox(source.rank).results_bytes() / result_stride_;
    if (header.first_row + pairs.size() > n_rows_max) {
      return OutOfStep("place of results", source.rank, header.first_row, n_rows_max);
    }
    from = outbox(source.rank).results() + header.first_row * result_stride_;
  }
  for (size_t i = 0; i < pairs.size(); ++i) combined[pairs[i]] = from + i * result_stride_;
  return absl::OkStatus();
}

absl::Status DirectLane::TakePieces(Source& source, std::vector<const std::byte*>& combined) {
  OrderByExpert(by_rank_.of(source.rank), ordered_);
  const ResultPieces pieces = PiecesOf(ordered_.size());
  for (size_t p = 0; p < pieces.n; ++p) {
    RETURN_IF_ERROR(Await(source.collecting[p]));
    const std::byte* message = source.results.data() + pieces.offset(p);
    MessageHeader header;
    std::memcpy(&header, message, sizeof(header));
    RETURN_IF_ERROR(CheckResults(header, MessageKind::kCombine, source.rank, pieces.count(p)));
    if (header.piece != p) return OutOfStep("piece", source.rank, header.piece, p);
    for (size_t i = 0; i < pieces.count(p); ++i) {
      combined[ordered_[pieces.begin(p) + i]] = message + sizeof(header) + i * result_stride_;
    }
  }
  return absl::OkStatus();
}

absl::Status DirectLane::FinishCombine(std::vector<const std::byte*>& combined) {
  combined.resize(by_rank_.n_all());
  for (size_t i = 0; i < own_.size(); ++i) {
    const bool was_early = i < own_done_.size();
    combined[own_[i]] =
        was_early ? own_done_[i] : results_.data() + order_.place(own_first_ + i - own_done_.size()) * result_bytes_;
  }
  for (Source& source : sources_) {
    if (!takes_part(source)) continue;
    RETURN_IF_ERROR(source.is_far ? TakePieces(source, combined) : TakeNear(source, combined));
  }
  // This shard may sleep next, and nothing moves while it does.
  for (Source& source : sources_) {
    for (Communicator::Transfer& piece : source.sending) RETURN_IF_ERROR(Await(piece));
  }
  for (Target& target : targets_) RETURN_IF_ERROR(Await(target.sending));
  group_.n_layers.fetch_add(1, std::memory_order_relaxed);
  if (number_ > 0) group_.n_second.fetch_add(1, std::memory_order_relaxed);
  if (group_.options.watch != nullptr) group_.options.watch->MarkProgress();
  return absl::OkStatus();
}

}  // namespace longshelf::engine
