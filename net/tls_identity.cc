#include "net/tls_identity.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <fstream>
#include <optional>
#include <sstream>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status.h"
#include "memory_file.h"

namespace longshelf::net {
namespace {

constexpr absl::Duration kWarnBeforeEnd = absl::Hours(24 * 14);
constexpr absl::Duration kWarnInterval = absl::Hours(24);
constexpr size_t kFileBytesMax = size_t{1} << 20;

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  if (path.empty()) return std::string();
  std::ifstream file(path, std::ios::binary);
  std::string text(kFileBytesMax, '\0');
  if (!file || !(file.read(text.data(), static_cast<std::streamsize>(text.size())) || file.eof())) {
    return absl::NotFoundError(absl::StrCat("cannot read ", path));
  }
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() == kFileBytesMax) return absl::InvalidArgumentError(absl::StrCat(path, " is no PEM file: too large"));
  return text;
}

// What tells that a file is another one than before.
using Stamp = std::tuple<dev_t, ino_t, off_t, time_t, long>;

Stamp StampOf(const std::string& path) {
  struct stat status = {};
  if (path.empty() || stat(path.c_str(), &status) != 0) return {};
  return {status.st_dev, status.st_ino, status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
}

using Stamps = std::array<Stamp, 3>;

Stamps StampsOf(const TlsFiles& files) {
  return {StampOf(files.certificate), StampOf(files.key), StampOf(files.authority)};
}

// All that connections are begun with, made of one reading of the files.
struct Contexts {
  TlsMaterial material;
  CertificateInfo certificate;
  std::array<SslContext, 3> servers;  // by PeerCertificate
  SslContext client;
};

absl::StatusOr<Contexts> ReadContexts(const TlsFiles& files, absl::Time now) {
  Contexts out;
  ASSIGN_OR_RETURN(out.material, ReadMaterial(files));
  auto certificate = CheckMaterial(out.material, now);
  if (!certificate.ok()) {
    return Annotate(certificate.status(),
                    absl::StrCat(files.certificate, " with ", files.key,
                                 files.authority.empty() ? "" : absl::StrCat(" and ", files.authority)));
  }
  out.certificate = *std::move(certificate);
  for (const PeerCertificate peer : {PeerCertificate::kNone, PeerCertificate::kAsked, PeerCertificate::kRequired}) {
    if (peer != PeerCertificate::kNone && out.material.authorities.empty()) continue;
    ASSIGN_OR_RETURN(out.servers[static_cast<size_t>(peer)], MakeServerContext(out.material, peer));
  }
  ASSIGN_OR_RETURN(out.client, MakeClientContext(out.material));
  return out;
}

// The key first: readers of certificates pass over it, readers of keys stop behind it.
std::string PairOf(const TlsMaterial& material) { return absl::StrCat(material.key, "\n", material.certificates); }

}  // namespace

struct TlsIdentity::State {
  State(TlsFiles the_files, const Clock& the_clock, Options the_options, Contexts first, MemoryFile pair,
        std::optional<MemoryFile> authorities)
      : files(std::move(the_files)),
        clock(the_clock),
        options(std::move(the_options)),
        contexts(std::move(first)),
        pair_file(std::move(pair)),
        authority_file(std::move(authorities)) {
    if (options.metrics == nullptr) return;
    expiry = &options.metrics->AddGauge("longshelf_tls_certificate_expiry_timestamp_seconds",
                                        "When the certificate in use ends, in seconds since 1970.",
                                        {{"identity", options.name}});
    const std::string help = "Times that changed files of a certificate were read, by whether they could be used.";
    reloaded = &options.metrics->AddCounter("longshelf_tls_reloads_total", help,
                                            {{"identity", options.name}, {"result", "ok"}});
    refused = &options.metrics->AddCounter("longshelf_tls_reloads_total", help,
                                           {{"identity", options.name}, {"result", "refused"}});
  }

  void Watch();
  void Look();
  void Reload();
  void TellOfEnd();

  const TlsFiles files;
  const Clock& clock;
  const Options options;
  prometheus::Gauge* expiry = nullptr;
  prometheus::Counter* reloaded = nullptr;
  prometheus::Counter* refused = nullptr;

  mutable std::mutex mutex;  // guards contexts, which every new connection reads, and stopping
  Contexts contexts;
  bool stopping = false;
  std::condition_variable stopped;

  // The watching thread's.
  MemoryFile pair_file;
  std::optional<MemoryFile> authority_file;
  Stamps used{};
  Stamps seen{};
  absl::Time warned_at = absl::InfinitePast();

  std::mutex attachment_mutex;  // so that it is made once, by whichever client or server comes first
  std::shared_ptr<void> attachment;
  std::thread thread;
};

void TlsIdentity::State::TellOfEnd() {
  const absl::Time end = contexts.certificate.not_after;
  if (expiry != nullptr) expiry->Set(static_cast<double>(absl::ToUnixSeconds(end)));
  const absl::Time now = clock.WallNow();
  if (now < end - kWarnBeforeEnd || now < warned_at + kWarnInterval) return;
  warned_at = now;
  const std::string date = absl::FormatTime("%Y-%m-%d %H:%M UTC", end, absl::UTCTimeZone());
  if (now < end) {
    spdlog::warn("the {} certificate, {}, expires on {}: renew it", options.name, files.certificate, date);
  } else {
    spdlog::error("the {} certificate, {}, has expired on {}: peers refuse it", options.name, files.certificate, date);
  }
}

void TlsIdentity::State::Reload() {
  auto read = ReadContexts(files, clock.WallNow());
  absl::Status status = read.status();
  if (status.ok()) status = pair_file.Replace(PairOf(read->material));
  if (status.ok() && authority_file) status = authority_file->Replace(read->material.authorities);
  if (!status.ok()) {
    spdlog::error("the {} certificate has changed and cannot be used, the old one stays: {}", options.name,
                  std::string(status.message()));
    if (refused != nullptr) refused->Increment();
    return;
  }
  const std::lock_guard lock(mutex);
  contexts = *std::move(read);
  warned_at = absl::InfinitePast();
  spdlog::info("the {} certificate has changed: {} until {}", options.name, contexts.certificate.subject,
               absl::FormatTime("%Y-%m-%d", contexts.certificate.not_after, absl::UTCTimeZone()));
  if (reloaded != nullptr) reloaded->Increment();
}

// Files that are being replaced one after another are read when nothing has changed for one interval.
void TlsIdentity::State::Look() {
  const Stamps now = StampsOf(files);
  if (now != used && now == seen) {
    used = now;
    Reload();
  }
  seen = now;
  TellOfEnd();
}

void TlsIdentity::State::Watch() {
  std::unique_lock lock(mutex);
  while (!stopped.wait_for(lock, absl::ToChronoMilliseconds(options.poll_interval), [this] { return stopping; })) {
    lock.unlock();
    Look();
    lock.lock();
  }
}

absl::StatusOr<std::shared_ptr<TlsIdentity>> TlsIdentity::Load(const TlsFiles& files, const Clock& clock,
                                                               Options options) {
  if (files.empty()) return nullptr;
  const Stamps stamps = StampsOf(files);
  ASSIGN_OR_RETURN(Contexts contexts, ReadContexts(files, clock.WallNow()));
  ASSIGN_OR_RETURN(MemoryFile pair, MemoryFile::Create(PairOf(contexts.material)));
  std::optional<MemoryFile> authorities;
  if (!contexts.material.authorities.empty()) {
    ASSIGN_OR_RETURN(authorities, MemoryFile::Create(contexts.material.authorities));
  }
  auto state = std::make_unique<State>(files, clock, std::move(options), std::move(contexts), std::move(pair),
                                       std::move(authorities));
  state->used = stamps;
  state->seen = stamps;
  state->TellOfEnd();
  state->thread = std::thread([raw = state.get()] { raw->Watch(); });
  return std::make_shared<TlsIdentity>(std::move(state));
}

TlsIdentity::TlsIdentity(std::unique_ptr<State> state) : state_(std::move(state)) {}

TlsIdentity::~TlsIdentity() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->stopped.notify_all();
  state_->thread.join();
}

SslContext TlsIdentity::server_context(PeerCertificate peer) const {
  const std::lock_guard lock(state_->mutex);
  return state_->contexts.servers[static_cast<size_t>(peer)];
}

SslContext TlsIdentity::client_context() const {
  const std::lock_guard lock(state_->mutex);
  return state_->contexts.client;
}

CertificateInfo TlsIdentity::certificate() const {
  const std::lock_guard lock(state_->mutex);
  return state_->contexts.certificate;
}

bool TlsIdentity::has_authority() const { return !state_->files.authority.empty(); }

std::string TlsIdentity::pair_path() const { return state_->pair_file.path(); }

std::string TlsIdentity::authority_path() const {
  return state_->authority_file ? state_->authority_file->path() : std::string();
}

std::shared_ptr<void> TlsIdentity::Attachment(const std::function<std::shared_ptr<void>()>& make) {
  const std::lock_guard lock(state_->attachment_mutex);
  if (state_->attachment == nullptr) state_->attachment = make();
  return state_->attachment;
}

absl::StatusOr<TlsMaterial> ReadMaterial(const TlsFiles& files) {
  TlsMaterial material;
  ASSIGN_OR_RETURN(material.certificates, ReadFile(files.certificate));
  ASSIGN_OR_RETURN(material.key, ReadFile(files.key));
  ASSIGN_OR_RETURN(material.authorities, ReadFile(files.authority));
  return material;
}

absl::Status CheckTlsFiles(const TlsFiles& files, const std::string& flag_prefix, bool needs_authority) {
  if (files.empty()) return absl::OkStatus();
  std::vector<std::string> missing;
  if (files.certificate.empty()) missing.push_back(absl::StrCat("--", flag_prefix, "-cert"));
  if (files.key.empty()) missing.push_back(absl::StrCat("--", flag_prefix, "-key"));
  if (needs_authority && files.authority.empty()) missing.push_back(absl::StrCat("--", flag_prefix, "-ca"));
  if (missing.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a part of what TLS needs is missing: ", absl::StrJoin(missing, ", ")));
}

void AddTlsOptions(ConfigSpec& spec, TlsFiles* files) {
  spec.Group("TLS between the parts");
  spec.Add(&files->certificate, "tls-cert", "PEM file with this process's certificate, shown to callers and servers");
  spec.Add(&files->key, "tls-key", "PEM file with its key");
  spec.Add(&files->authority, "tls-ca", "PEM file with the authority that has signed the other parts' certificates");
  spec.Check([files] { return CheckTlsFiles(*files, "tls", /*needs_authority=*/true); });
}

}  // namespace longshelf::net
