#include <algorithm>

#include "absl/strings/str_cat.h"
#include "checks.h"
#include "collector.h"
#include "common/check.h"
#include "common/status.h"
#include "engine/model/kv_view.h"
#include "engine/model/sequence_memory.h"
#include "taps_rules.h"

namespace longshelf::engine {
namespace {

// What a layer alone made of the reference's input.
struct LayerRun {
  std::vector<float> streams;  // [T, hc, D]
  std::vector<float> rows;     // [T, head_dim]: every position's window row as it was stored
  Collector taps;
};

class TapsJudge {
 public:
  TapsJudge(Model& model, const Vectors& vectors, std::vector<uint32_t> tokens, Report& report, Dump& dump)
      : model_(model),
        vectors_(vectors),
        tokens_(std::move(tokens)),
        report_(report),
        dump_(dump),
        memory_(model.layout(), n()) {}

  absl::Status Run() {
    const ModelConfig& config = model_.config();
    dump_.AddIntegers("tokens", {tokens_.begin(), tokens_.end()}, {n()});
    ASSIGN_OR_RETURN(std::vector<float> input, vectors_.Floats("x.0", stream_shape()));
    JudgeEmbedding(input);
    int64_t n_judged = 0;
    for (int64_t layer = 0; layer < config.n_layers; ++layer) {
      ASSIGN_OR_RETURN(const std::vector<float> reference,
                       vectors_.Floats(absl::StrCat("x.", layer + 1), stream_shape()));
      ASSIGN_OR_RETURN(const bool judged, JudgeLayer(layer, input, reference));
      if (judged) ++n_judged;
      input = reference;
    }
    JudgeCleanLayers(n_judged, config.n_layers, report_);
    return JudgeLogits(input);
  }

 private:
  int64_t n() const { return static_cast<int64_t>(tokens_.size()); }
  int64_t stream_width() const { return model_.config().hc_mult * model_.config().hidden_size; }
  std::vector<int64_t> stream_shape() const { return {n(), model_.config().hc_mult, model_.config().hidden_size}; }

  void JudgeEmbedding(const std::vector<float>& reference) {
    const std::vector<float> embedded = model_.Embed(tokens_);
    dump_.AddBf16("x.0", embedded, stream_shape());
    const RowComparison rows = CompareRows(embedded, reference, stream_width());
    report_.Check("x.0 (embedding)", rows.CountDiffering() == 0,
                  absl::StrCat(rows.CountDiffering(), " of ", rows.size(), " positions differ (limit 0)"));
  }

  // In pieces no longer than the window, so that every position's row can be read before the ring takes the next.
  absl::StatusOr<LayerRun> RunLayer(int64_t layer, const std::vector<float>& input) {
    const ModelConfig& config = model_.config();
    LayerRun run;
    const KvView view(config, model_.layout(), memory_.blocks(), memory_.state());
    for (int64_t begin = 0; begin < n(); begin += config.window) {
      const int64_t end = std::min(begin + config.window, n());
      const auto piece = std::span(tokens_).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
      std::vector<float> streams(input.begin() + begin * stream_width(), input.begin() + end * stream_width());
      RETURN_IF_ERROR(model_.ForwardLayer(layer, memory_.Chunk(begin, piece, WantLogits::kNone), streams, &run.taps));
      run.streams.insert(run.streams.end(), streams.begin(), streams.end());
      const std::vector<float> ring = view.WindowRing(layer, end);
      for (int64_t p = begin; p < end; ++p) {
        const auto row = ring.begin() + p % config.window * config.head_dim;
        run.rows.insert(run.rows.end(), row, row + config.head_dim);
      }
    }
    return run;
  }

  // True when the layer had enough positions where nothing differs yet.
  absl::StatusOr<bool> JudgeLayer(int64_t layer, const std::vector<float>& input, const std::vector<float>& reference) {
    ASSIGN_OR_RETURN(const LayerRun run, RunLayer(layer, input));
    dump_.AddBf16(absl::StrCat("x.", layer + 1), run.streams, stream_shape());
    NoteSubmodules(run.taps);
    const ModelConfig& config = model_.config();
    const KvView view(config, model_.layout(), memory_.blocks(), memory_.state());
    const int64_t n_window = std::min(n(), config.window);
    StoredRows stored;
    stored.ratio = config.ratio(layer);
    stored.window = config.window;
    RETURN_IF_ERROR(JudgeCacheTensor(layer, "window", view.WindowRing(layer, n()), n_window, config.head_dim).status());
    ASSIGN_OR_RETURN(stored.rows, JudgeCacheTensor(layer, "rows", run.rows, n(), config.head_dim));
    if (stored.ratio != 0) {
      const int64_t n_entries = n() / stored.ratio;
      ASSIGN_OR_RETURN(stored.entries,
                       JudgeCacheTensor(layer, "entries", view.Entries(layer, n_entries), n_entries, config.head_dim));
      if (stored.ratio == 4) {
        ASSIGN_OR_RETURN(stored.index_keys, JudgeCacheTensor(layer, "index_keys", view.IndexKeys(layer, n_entries),
                                                             n_entries, config.index_head_dim));
        RETURN_IF_ERROR(JudgeChosen(layer, run.taps, stored));
      }
    }
    const std::string name = absl::StrCat("layer ", layer, " alone");
    const RowComparison streams = CompareRows(run.streams, reference, stream_width());
    JudgeAllPositions(name, streams, vectors_.Metadata(absl::StrCat("floor_layer_", layer)), report_);
    return JudgeCleanPositions(name + ", clean", streams, stored, report_);
  }

  absl::StatusOr<RowComparison> JudgeCacheTensor(int64_t layer, std::string_view kind, const std::vector<float>& ours,
                                                 int64_t rows, int64_t cols) {
    const std::string name = absl::StrCat("cache.", layer, ".", std::string(kind));
    dump_.AddBf16(name, ours, {rows, cols});
    ASSIGN_OR_RETURN(const std::vector<float> reference, vectors_.Floats(name, {rows, cols}));
    RowComparison comparison = CompareRows(ours, reference, cols);
    JudgeCache(name, comparison, RuleOfCache(kind), report_);
    return comparison;
  }

  absl::Status JudgeChosen(int64_t layer, const Collector& taps, const StoredRows& stored) {
    const std::string name = absl::StrCat("layers.", layer, ".attn.indexer");
    const auto taken = taps.taken().find(name);
    LONGSHELF_CHECK(taken != taps.taken().end());
    const int64_t cols = taken->second.cols;
    std::vector<int64_t> chosen;
    for (const float v : taken->second.values) chosen.push_back(v < 0.0F ? -1 : static_cast<int64_t>(v) + n());
    dump_.AddIntegers(name, chosen, {n(), cols});
    if (!vectors_.Has(name)) {
      report_.NotJudged(name, "the file does not have it");
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const std::vector<int64_t> reference, vectors_.Integers(name, {n(), -1}));
    JudgeIndexer(name, ChosenPerPosition(chosen), ChosenPerPosition(reference), stored, model_.config().index_topk,
                 report_);
    return absl::OkStatus();
  }

  // values: [T, any], -1 = none.
  std::vector<std::vector<int64_t>> ChosenPerPosition(const std::vector<int64_t>& values) const {
    const size_t cols = values.size() / tokens_.size();
    std::vector<std::vector<int64_t>> out(tokens_.size());
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i] >= 0) out[i / cols].push_back(values[i]);
    }
    return out;
  }

  // Inner results that the file has under the name the model taps them by. Notes only: layers and caches are judged.
  void NoteSubmodules(const Collector& taps) {
    for (const auto& [name, taken] : taps.taken()) {
      if (!vectors_.Has(name) || name.ends_with("attn.indexer") || name.ends_with("gate.indices")) continue;
      const int64_t rows = static_cast<int64_t>(taken.values.size()) / taken.cols;
      const auto reference = vectors_.Floats(name, {rows, taken.cols});
      if (!reference.ok()) continue;
      dump_.AddFloats(name, taken.values, {rows, taken.cols});
      const RowComparison comparison = CompareRows(taken.values, *reference, taken.cols);
      report_.Note(name, absl::StrCat(comparison.CountDiffering(), " of ", rows, " rows differ, 97 % within rel ",
                                      Figure(Quantile(comparison.rel, 0.97))));
    }
  }

  absl::Status JudgeLogits(const std::vector<float>& input) {
    const int64_t vocab = model_.config().vocab_size;
    const std::vector<float> logits = model_.Logits(input, n());
    dump_.AddFloats("logits", logits, {n(), vocab});
    if (!vectors_.Has("logits")) {
      report_.NotJudged("logits", "the file does not have it");
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const std::vector<float> reference, vectors_.Floats("logits", {n(), vocab}));
    JudgeHead("head alone", CompareRows(logits, reference, vocab), report_);
    return absl::OkStatus();
  }

  Model& model_;
  const Vectors& vectors_;
  const std::vector<uint32_t> tokens_;
  Report& report_;
  Dump& dump_;
  SequenceMemory memory_;
};

}  // namespace

absl::Status VerifyTaps(Model& model, const Vectors& vectors, Report& report, Dump& dump) {
  const ModelConfig& config = model.config();
  ASSIGN_OR_RETURN(const std::vector<uint32_t> tokens, ReadTokens(vectors, config));
  if (!vectors.Has(absl::StrCat("x.", config.n_layers)) || vectors.Has(absl::StrCat("x.", config.n_layers + 1))) {
    return absl::InvalidArgumentError(
        absl::StrCat("the taps file does not have x.0 .. x.", config.n_layers, ": it is of another model"));
  }
  RETURN_IF_ERROR(TapsJudge(model, vectors, tokens, report, dump).Run());
  if (model.n_draft() == 0) return absl::OkStatus();
  return VerifyDraftTaps(model, vectors, tokens, report, dump);
}

}  // namespace longshelf::engine
