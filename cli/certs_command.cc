#include <iostream>
#include <string>

#include "cli/certificates.h"
#include "commands.h"
#include "common/clock.h"
#include "common/config.h"

namespace longshelf::cli {
namespace {

int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return kExitUsage;
    case absl::StatusCode::kUnavailable:
      return kExitUnavailable;
    default:
      return kExitConfig;
  }
}

}  // namespace

int RunCerts(int argc, const char* const* argv) {
  CertificatesRequest request;
  int days = 365;
  int authority_days = 3650;
  ConfigSpec spec("longshelf certs",
                  "Makes a small certificate authority in a directory, and a certificate for each part of a cluster.");
  spec.set_unknown_env(ConfigSpec::UnknownEnv::kIgnore);
  spec.AddPositional(&request.directory, "DIRECTORY", "where ca.crt, worker.crt, worker.key and so on are or will be",
                     /*required=*/true);
  spec.Add(&request.hosts, "hosts",
           "names and addresses under which the parts are called; this machine's own are always among them; with "
           "--renew, those of before when not given");
  spec.Add(&days, "days", "how long certificates are valid", {1, 3650});
  spec.Add(&authority_days, "ca-days", "how long a new authority is valid", {1, 36500});
  spec.Add(&request.renew, "renew", "replace the certificates that are there, by the same authority");
  if (const ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  request.valid_for = absl::Hours(24) * days;
  request.authority_valid_for = absl::Hours(24) * authority_days;
  const auto lines = MakeCertificates(request, SystemClock().WallNow());
  if (!lines.ok()) {
    std::cerr << "longshelf certs: " << lines.status().message() << "\n";
    return ExitCodeOf(lines.status());
  }
  for (const std::string& line : *lines) std::cout << line << "\n";
  const std::string& at = request.directory;
  std::cout << "\nEach part gets its own pair and ca.crt, for example\n  longshelf-worker --tls-cert " << at
            << "/worker.crt --tls-key " << at << "/worker.key --tls-ca " << at << "/ca.crt ...\n"
            << "Keep ca.key to yourself: who has it can make certificates.\n";
  return 0;
}

}  // namespace longshelf::cli
