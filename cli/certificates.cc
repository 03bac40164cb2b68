#include "cli/certificates.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status.h"
#include "net/authority.h"
#include "net/certificate.h"

namespace longshelf::cli {
namespace {

namespace fs = std::filesystem;

constexpr net::Role kRoles[] = {net::Role::kRouter, net::Role::kWorker, net::Role::kKvstore, net::Role::kOperator,
                                net::Role::kClient};
constexpr mode_t kForOwner = 0600;
constexpr mode_t kForAll = 0644;

std::string DateOf(absl::Time time) { return absl::FormatTime("%Y-%m-%d", time, absl::UTCTimeZone()); }

std::string ReadAll(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

bool Exists(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

// Readers see the old file or the new one.
absl::Status Write(const fs::path& path, absl::string_view text, mode_t mode) {
  const std::string draft = path.string() + ".new";
  const auto failed = [&path] {
    return absl::UnavailableError(absl::StrCat("cannot write ", path.string(), ": ", std::strerror(errno)));
  };
  unlink(draft.c_str());
  const int fd = open(draft.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (fd < 0) return failed();
  const bool written = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) && fsync(fd) == 0;
  const absl::Status status = written ? absl::OkStatus() : failed();
  close(fd);
  if (!status.ok()) return status;
  return rename(draft.c_str(), path.c_str()) == 0 ? absl::OkStatus() : failed();
}

absl::Status WritePair(const fs::path& directory, const std::string& name, const net::CertifiedKey& pair) {
  RETURN_IF_ERROR(Write(directory / (name + ".key"), pair.key, kForOwner));
  return Write(directory / (name + ".crt"), pair.certificate, kForAll);
}

struct Authority {
  net::CertifiedKey pair;
  net::CertificateInfo info;
  bool is_new = false;
};

absl::StatusOr<Authority> FindOrMakeAuthority(const CertificatesRequest& request, absl::Time now) {
  const fs::path directory = request.directory;
  const bool has_certificate = Exists(directory / "ca.crt");
  if (has_certificate != Exists(directory / "ca.key")) {
    return absl::FailedPreconditionError(absl::StrCat(request.directory, " has ", has_certificate ? "ca.crt" : "ca.key",
                                                      " and no ", has_certificate ? "ca.key" : "ca.crt",
                                                      ": bring it back, or begin in an empty directory"));
  }
  Authority out;
  if (has_certificate) {
    out.pair = {ReadAll(directory / "ca.crt"), ReadAll(directory / "ca.key")};
  } else {
    ASSIGN_OR_RETURN(out.pair, net::MakeAuthority("longshelf authority", now, request.authority_valid_for));
    out.is_new = true;
  }
  ASSIGN_OR_RETURN(out.info, net::ReadCertificate(out.pair.certificate));
  if (now >= out.info.not_after) {
    return absl::FailedPreconditionError(absl::StrCat("the authority in ", request.directory, " has expired on ",
                                                      DateOf(out.info.not_after), ": begin in an empty directory"));
  }
  return out;
}

std::vector<std::string> HostsFor(const CertificatesRequest& request, const fs::path& certificate) {
  std::vector<std::string> hosts = {"localhost", "127.0.0.1", "::1"};
  std::vector<std::string> more = request.hosts;
  if (more.empty()) {
    if (const auto old = net::ReadCertificate(ReadAll(certificate)); old.ok()) more = old->hosts;
  }
  for (const std::string& host : more) {
    if (std::find(hosts.begin(), hosts.end(), host) == hosts.end()) hosts.push_back(host);
  }
  return hosts;
}

absl::Status CheckNothingIsLost(const CertificatesRequest& request) {
  if (request.renew) return absl::OkStatus();
  for (const net::Role role : kRoles) {
    for (const char* suffix : {".crt", ".key"}) {
      const fs::path path = fs::path(request.directory) / (net::RoleName(role) + suffix);
      if (!Exists(path)) continue;
      return absl::AlreadyExistsError(absl::StrCat(path.string(), " is there already; --renew replaces it"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> MakeCertificates(const CertificatesRequest& request, absl::Time now) {
  const fs::path directory = request.directory;
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) return absl::UnavailableError(absl::StrCat(request.directory, ": ", error.message()));
  RETURN_IF_ERROR(CheckNothingIsLost(request));
  ASSIGN_OR_RETURN(const Authority authority, FindOrMakeAuthority(request, now));

  // All are made before the first is written.
  const absl::Duration valid_for = std::min(request.valid_for, authority.info.not_after - now);
  std::vector<net::CertifiedKey> pairs;
  std::vector<std::string> lines = {
      absl::StrCat("ca.crt, ca.key: ", authority.is_new ? "a new authority" : "the authority that was there",
                   ", until ", DateOf(authority.info.not_after))};
  for (const net::Role role : kRoles) {
    const std::string name = net::RoleName(role);
    const bool calls_only = role == net::Role::kOperator || role == net::Role::kClient;
    const bool replaces = Exists(directory / (name + ".crt"));
    net::CertificateRequest wanted = {role, {}, valid_for};
    if (!calls_only) wanted.hosts = HostsFor(request, directory / (name + ".crt"));
    ASSIGN_OR_RETURN(net::CertifiedKey pair, net::IssueCertificate(authority.pair, wanted, now));
    pairs.push_back(std::move(pair));
    lines.push_back(absl::StrCat(name, ".crt, ", name, ".key: ", replaces ? "replaced, " : "", "until ",
                                 DateOf(now + valid_for), calls_only ? "" : ", for ",
                                 absl::StrJoin(wanted.hosts, ", ")));
  }
  if (authority.is_new) RETURN_IF_ERROR(WritePair(directory, "ca", authority.pair));
  for (size_t i = 0; i < pairs.size(); ++i) RETURN_IF_ERROR(WritePair(directory, net::RoleName(kRoles[i]), pairs[i]));
  return lines;
}

}  // namespace longshelf::cli
