#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "absl/strings/str_cat.h"
#include "checks.h"
#include "common/status.h"
#include "engine/model/kv_view.h"
#include "engine/model/sequence_memory.h"

namespace longshelf::engine {
namespace {

struct RowsFigures {
  double equal = 0.0;  // share of rows equal in every bit
  double p99 = 0.0;    // of relative error per row
  double max = 0.0;
};

RowsFigures CompareRows(const std::vector<float>& ours, const std::vector<float>& reference, int64_t cols) {
  std::vector<double> rel;
  size_t n_equal = 0;
  for (size_t at = 0; at < reference.size(); at += static_cast<size_t>(cols)) {
    double difference = 0.0;
    double norm = 0.0;
    bool equal = true;
    for (size_t i = at; i < at + static_cast<size_t>(cols); ++i) {
      const double d = static_cast<double>(ours[i]) - static_cast<double>(reference[i]);
      // Zero may carry either sign; every other value has one representation.
      equal = equal && ours[i] == reference[i];
      difference += d * d;
      norm += static_cast<double>(reference[i]) * static_cast<double>(reference[i]);
    }
    if (equal) ++n_equal;
    const double r = std::sqrt(difference) / std::sqrt(std::max(norm, 1e-300));
    rel.push_back(std::isfinite(r) ? r : HUGE_VAL);
  }
  return {static_cast<double>(n_equal) / static_cast<double>(std::max<size_t>(rel.size(), 1)), Quantile(rel, 0.99),
          Quantile(rel, 1.0)};
}

// Compares every submodule output that the file has under the name the model taps it by. Notes only: the layers and the
// caches are what is judged.
class SubmoduleChecker final : public TapSink {
 public:
  SubmoduleChecker(const Vectors& vectors, Report& report, Dump& dump)
      : vectors_(vectors), report_(report), dump_(dump) {}

  void Tap(std::string_view name, std::span<const float> values, int64_t cols) override {
    if (!vectors_.Has(name)) return;
    const int64_t rows = static_cast<int64_t>(values.size()) / cols;
    if (name.ends_with("attn.indexer") || name.ends_with("gate.indices")) {
      CompareSets(name, values, rows, cols);
      return;
    }
    const auto reference = vectors_.Floats(name, {rows, cols});
    if (!reference.ok()) return;
    const std::vector<float> ours(values.begin(), values.end());
    dump_.AddFloats(std::string(name), ours, {rows, cols});
    const RowsFigures f = CompareRows(ours, *reference, cols);
    report_.Note(name, absl::StrCat("rows bit-equal ", Percent(f.equal), ", p99 rel ", Figure(f.p99)));
  }

 private:
  // Rows of indices whose order means nothing.
  void CompareSets(std::string_view name, std::span<const float> ours, int64_t rows, int64_t cols) {
    const auto reference = vectors_.Integers(name, {rows, cols});
    if (!reference.ok()) return;
    const int64_t base = name.ends_with("attn.indexer") ? rows : 0;  // the file numbers entries after the T rows
    int64_t n_equal = 0;
    for (int64_t i = 0; i < rows; ++i) {
      std::set<int64_t> a;
      std::set<int64_t> b;
      for (int64_t k = 0; k < cols; ++k) {
        const auto at = static_cast<size_t>(i * cols + k);
        if (ours[at] >= 0) a.insert(static_cast<int64_t>(ours[at]));
        if ((*reference)[at] >= 0) b.insert((*reference)[at] - base);
      }
      if (a == b) ++n_equal;
    }
    report_.Note(name, absl::StrCat("rows with the same indices ",
                                    Percent(static_cast<double>(n_equal) / static_cast<double>(rows))));
  }

  const Vectors& vectors_;
  Report& report_;
  Dump& dump_;
};

absl::Status CheckCache(const Vectors& vectors, const std::string& name, const std::vector<float>& ours, int64_t rows,
                        int64_t cols, Report& report, Dump& dump) {
  dump.AddBf16(name, ours, {rows, cols});
  if (!vectors.Has(name)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<float> reference, vectors.Floats(name, {rows, cols}));
  const RowsFigures f = CompareRows(ours, reference, cols);
  report.Check(name, f.equal >= 0.95,
               absl::StrCat("rows bit-equal ", Percent(f.equal), " (limit 95 %), max rel ", Figure(f.max)));
  return absl::OkStatus();
}

absl::Status CheckCaches(Model& model, const Vectors& vectors, int64_t layer, SequenceMemory& memory, int64_t n_tokens,
                         Report& report, Dump& dump) {
  const ModelConfig& config = model.config();
  const std::string prefix = absl::StrCat("cache.", layer, ".");
  const KvView view(model.config(), model.layout(), memory.blocks(), memory.state());
  const int64_t n_window = std::min(n_tokens, config.window);
  RETURN_IF_ERROR(CheckCache(vectors, prefix + "window", view.WindowRing(layer, n_tokens), n_window, config.head_dim,
                             report, dump));
  const int ratio = config.ratio(layer);
  if (ratio == 0) return absl::OkStatus();
  const int64_t n_entries = n_tokens / ratio;
  RETURN_IF_ERROR(CheckCache(vectors, prefix + "entries", view.Entries(layer, n_entries), n_entries, config.head_dim,
                             report, dump));
  if (ratio != 4) return absl::OkStatus();
  return CheckCache(vectors, prefix + "index_keys", view.IndexKeys(layer, n_entries), n_entries, config.index_head_dim,
                    report, dump);
}

}  // namespace

absl::Status VerifyTaps(Model& model, const Vectors& vectors, Report& report, Dump& dump) {
  const ModelConfig& config = model.config();
  ASSIGN_OR_RETURN(const std::vector<uint32_t> tokens, ReadTokens(vectors, config));
  const auto n = static_cast<int64_t>(tokens.size());
  const std::vector<int64_t> stream_shape = {n, config.hc_mult, config.hidden_size};
  const int64_t stream_width = config.hc_mult * config.hidden_size;
  if (!vectors.Has(absl::StrCat("x.", config.n_layers)) || vectors.Has(absl::StrCat("x.", config.n_layers + 1))) {
    return absl::InvalidArgumentError(
        absl::StrCat("the taps file does not have x.0 .. x.", config.n_layers, ": it is of another model"));
  }
  dump.AddIntegers("tokens", {tokens.begin(), tokens.end()}, {n});

  ASSIGN_OR_RETURN(std::vector<float> input, vectors.Floats("x.0", stream_shape));
  const std::vector<float> embedded = model.Embed(tokens);
  dump.AddBf16("x.0", embedded, stream_shape);
  const RowsFigures e = CompareRows(embedded, input, stream_width);
  report.Check("x.0 (embedding)", e.equal == 1.0,
               absl::StrCat("positions bit-equal ", Percent(e.equal), " (limit 100 %)"));

  SequenceMemory memory(model.layout(), n);
  SubmoduleChecker submodules(vectors, report, dump);
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    const std::string name = absl::StrCat("x.", layer + 1);
    ASSIGN_OR_RETURN(const std::vector<float> reference, vectors.Floats(name, stream_shape));
    std::vector<float> streams = input;
    RETURN_IF_ERROR(model.ForwardLayer(layer, memory.Chunk(0, tokens, WantLogits::kNone), streams, &submodules));
    dump.AddBf16(name, streams, stream_shape);
    const RowsFigures f = CompareRows(streams, reference, stream_width);
    const std::string floor = vectors.Metadata(absl::StrCat("floor_layer_", layer));
    report.Check(absl::StrCat("layer ", layer, " alone"), f.equal >= 0.85 && f.p99 <= 3e-2 && f.max <= 8e-2,
                 absl::StrCat("positions bit-equal ", Percent(f.equal), " (limit 85 %), p99 rel ", Figure(f.p99),
                              " (3e-2), max rel ", Figure(f.max), " (8e-2); reference floor ", floor));
    RETURN_IF_ERROR(CheckCaches(model, vectors, layer, memory, n, report, dump));
    input = reference;
  }
  const std::vector<float> logits = model.Logits(input, n);
  dump.AddFloats("logits", logits, {n, config.vocab_size});
  if (vectors.Has("logits")) {
    ASSIGN_OR_RETURN(const std::vector<float> reference, vectors.Floats("logits", {n, config.vocab_size}));
    const RowsFigures f = CompareRows(logits, reference, config.vocab_size);
    report.Check("head alone", f.max <= 1e-3, absl::StrCat("max rel ", Figure(f.max), " (limit 1e-3)"));
  }
  return absl::OkStatus();
}

}  // namespace longshelf::engine
