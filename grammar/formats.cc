#include "formats.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace longshelf::grammar {
namespace {

constexpr absl::string_view kDate =
    "(([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29|"
    "[0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|"
    "02-(0[1-9]|1[0-9]|2[0-8])))";
constexpr absl::string_view kTime =
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
constexpr absl::string_view kLabel = "[A-Za-z0-9](-?[A-Za-z0-9]){0,30}";
constexpr absl::string_view kByte = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
constexpr absl::string_view kAtom = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,64}";
constexpr absl::string_view kUriChar = "([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*";

constexpr std::array<absl::string_view, 10> kNames = {"date", "date-time", "duration", "email", "hostname",
                                                      "ipv4", "ipv6",      "time",     "uri",   "uuid"};

std::string Hostname() { return absl::StrCat(kLabel, "(\\.", kLabel, "){0,3}"); }

std::string Ipv4() { return absl::StrCat(kByte, "(\\.", kByte, "){3}"); }

// RFC 4291, section 2.2.
std::string Ipv6() {
  const std::string h = "[0-9A-Fa-f]{1,4}";
  const std::string last = absl::StrCat("(", h, ":", h, "|", Ipv4(), ")");  // 32 bits
  std::string out = absl::StrCat("((", h, ":){6}", last);
  for (int n_before = 0; n_before <= 7; ++n_before) {
    // n_before groups, "::", and fewer groups than are missing.
    const std::string before = n_before == 0 ? "" : absl::StrCat("(", h, "(:", h, "){", n_before - 1, "})");
    const int n_left = 7 - n_before;
    const std::string plain = n_left == 0 ? "" : absl::StrCat("(", h, "(:", h, "){0,", n_left - 1, "})?");
    absl::StrAppend(&out, "|", before, "::", plain);
    if (n_left >= 2) absl::StrAppend(&out, "|", before, "::(", h, ":){0,", n_left - 2, "}", Ipv4());
  }
  return out + ")";
}

std::string Duration() {
  const std::string n = "[0-9]{1,9}";
  const std::string seconds = n + "S";
  const std::string minutes = absl::StrCat(n, "M(", seconds, ")?");
  const std::string time = absl::StrCat("T(", n, "H(", minutes, ")?|", minutes, "|", seconds, ")");
  const std::string days = n + "D";
  const std::string months = absl::StrCat(n, "M(", days, ")?");
  const std::string years = absl::StrCat(n, "Y(", months, ")?");
  return absl::StrCat("P((", years, "|", months, "|", days, ")(", time, ")?|", time, "|", n, "W)");
}

std::string Uuid() { return "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"; }

}  // namespace

std::optional<std::string> PatternOfFormat(std::string_view format) {
  std::string pattern;
  if (format == "date") {
    pattern = std::string(kDate);
  } else if (format == "time") {
    pattern = std::string(kTime);
  } else if (format == "date-time") {
    pattern = absl::StrCat(kDate, "[Tt]", kTime);
  } else if (format == "duration") {
    pattern = Duration();
  } else if (format == "email") {
    pattern = absl::StrCat(kAtom, "(\\.", kAtom, "){0,3}@", Hostname());
  } else if (format == "hostname") {
    pattern = Hostname();
  } else if (format == "ipv4") {
    pattern = Ipv4();
  } else if (format == "ipv6") {
    pattern = Ipv6();
  } else if (format == "uri") {
    pattern = absl::StrCat("[A-Za-z][A-Za-z0-9+.-]*:", kUriChar, "(#", kUriChar, ")?");
  } else if (format == "uuid") {
    pattern = Uuid();
  } else {
    return std::nullopt;
  }
  return absl::StrCat("^(", pattern, ")$");
}

std::string FormatNames() {
  std::string out;
  for (const absl::string_view name : kNames) absl::StrAppend(&out, out.empty() ? "" : ", ", name);
  return out;
}

}  // namespace longshelf::grammar
