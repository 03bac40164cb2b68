#include "kvstore/members.h"

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status.h"

namespace longshelf::kvstore {
namespace {

constexpr std::string_view kDnsPrefix = "dns:";

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

// Placement depends on how a store is spelled, so a port has one spelling: plain digits.
bool IsPort(absl::string_view text) {
  uint32_t port = 0;
  return !text.empty() && text[0] != '0' && text.find_first_not_of("0123456789") == absl::string_view::npos &&
         absl::SimpleAtoi(text, &port) && port < 65536;
}

// What separates members is not part of an address, nor of a name.
bool IsAddressCharacter(char c) { return absl::ascii_isgraph(static_cast<unsigned char>(c)) && c != ',' && c != ';'; }

absl::Status CheckAddress(absl::string_view address) {
  const size_t colon = address.rfind(':');
  if (colon != absl::string_view::npos && colon > 0 && IsPort(address.substr(colon + 1)) &&
      std::all_of(address.begin(), address.end(), IsAddressCharacter)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("store \"", address, "\": must be HOST:PORT"));
}

absl::StatusOr<Member> ParseMember(absl::string_view text) {
  const std::vector<absl::string_view> fields = absl::StrSplit(text, ';');
  Member member;
  member.address = std::string(fields[0]);
  RETURN_IF_ERROR(CheckAddress(fields[0]));
  for (size_t i = 1; i < fields.size(); ++i) {
    const std::pair<absl::string_view, absl::string_view> field = absl::StrSplit(fields[i], absl::MaxSplits('=', 1));
    if (field.first == "zone" && !field.second.empty()) {
      member.zone = std::string(field.second);
    } else if (field.first != "weight" || !absl::SimpleAtod(field.second, &member.weight) ||
               !(member.weight >= 0.01 && member.weight <= 100.0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("store \"", text, "\": \"", fields[i], "\" is neither weight=0.01..100 nor zone=NAME"));
    }
  }
  return member;
}

struct FreeAddresses {
  void operator()(addrinfo* found) const { freeaddrinfo(found); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

// What the name has in one family; null: nothing, and the name may have some in the other.
absl::StatusOr<Addresses> Resolve(const std::string& host, int family) {
  addrinfo hints{};
  hints.ai_family = family;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int failure = getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (failure == 0) return Addresses(found);
  if (failure == EAI_NONAME || failure == EAI_NODATA || failure == EAI_ADDRFAMILY) return nullptr;
  return absl::UnavailableError(absl::StrCat("resolving ", host, ": ", gai_strerror(failure)));
}

}  // namespace

absl::StatusOr<std::vector<Member>> ParseMembers(std::string_view text) {
  if (text.empty()) return CheckAddress("");  // without data it would split into nothing
  std::vector<Member> members;
  for (const absl::string_view one : absl::StrSplit(View(text), ',')) {
    ASSIGN_OR_RETURN(Member member, ParseMember(absl::StripAsciiWhitespace(one)));
    members.push_back(std::move(member));
  }
  if (members.size() > kMaxMembers) {
    return absl::InvalidArgumentError(absl::StrCat(members.size(), " stores, at most ", kMaxMembers));
  }
  std::sort(members.begin(), members.end(), [](const Member& a, const Member& b) { return a.address < b.address; });
  const auto twice = std::adjacent_find(members.begin(), members.end(),
                                        [](const Member& a, const Member& b) { return a.address == b.address; });
  if (twice == members.end()) return members;
  return absl::InvalidArgumentError(absl::StrCat("store \"", twice->address, "\" is named twice"));
}

std::string_view DnsName(std::string_view text) {
  return text.starts_with(kDnsPrefix) ? text.substr(kDnsPrefix.size()) : std::string_view();
}

std::string DnsHost(std::string_view text) {
  const std::string_view name = DnsName(text);
  return std::string(name.substr(0, name.rfind(':')));
}

absl::Status CheckStores(std::string_view stores) {
  if (stores.empty()) return absl::OkStatus();
  const std::string_view name = DnsName(stores);
  return name.empty() ? ParseMembers(stores).status() : CheckAddress(View(name));
}

absl::StatusOr<std::vector<Member>> ResolveMembers(std::string_view host_port) {
  RETURN_IF_ERROR(CheckAddress(View(host_port)));
  const size_t colon = host_port.rfind(':');
  const std::string host(host_port.substr(0, colon));
  const std::string port(host_port.substr(colon + 1));
  // A store that has an address in both families is one store: two replicas on it would be one.
  ASSIGN_OR_RETURN(Addresses found, Resolve(host, AF_INET));
  if (found == nullptr) {
    ASSIGN_OR_RETURN(found, Resolve(host, AF_INET6));
  }
  if (found == nullptr) return absl::UnavailableError(absl::StrCat("resolving ", host, ": no address"));
  std::set<std::string> addresses;
  for (const addrinfo* each = found.get(); each != nullptr; each = each->ai_next) {
    char text[NI_MAXHOST];
    if (getnameinfo(each->ai_addr, each->ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST) != 0) continue;
    addresses.insert(each->ai_family == AF_INET6 ? absl::StrCat("[", text, "]:", port) : absl::StrCat(text, ":", port));
  }
  std::vector<Member> members;
  for (const std::string& address : addresses) members.push_back({.address = address});
  if (members.size() > kMaxMembers) members.resize(kMaxMembers);
  return members;
}

}  // namespace longshelf::kvstore
