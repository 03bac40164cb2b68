// The stores of a cluster as a person writes them, lists and `dns:` names. What is accepted can be written again and
// means the same; each store has one spelling, because placement depends on the names.
#include <algorithm>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "kvstore/members.h"

namespace longshelf::kvstore {
namespace {

// HOST:PORT as CheckAddress() has it: a port of 1 .. 65535 in plain digits behind a host of visible characters.
void CheckAddressForm(std::string_view address) {
  const size_t colon = address.rfind(':');
  LONGSHELF_CHECK(colon != std::string_view::npos && colon > 0);
  const std::string_view port = address.substr(colon + 1);
  LONGSHELF_CHECK(!port.empty() && port.size() <= 5 && port[0] != '0');
  LONGSHELF_CHECK(std::ranges::all_of(port, [](char c) { return c >= '0' && c <= '9'; }));
  LONGSHELF_CHECK(std::stoi(std::string(port)) < 65536);
  LONGSHELF_CHECK(std::ranges::all_of(address, [](char c) { return c > 0x20 && c < 0x7f && c != ',' && c != ';'; }));
}

std::string Written(const std::vector<Member>& members) {
  std::string text;
  for (const Member& member : members) {
    absl::StrAppend(&text, text.empty() ? "" : ",", member.address);
    if (!member.zone.empty()) absl::StrAppend(&text, ";zone=", member.zone);
    absl::StrAppend(&text, ";weight=", member.weight);
  }
  return text;
}

void ParseList(std::string_view text) {
  const absl::StatusOr<std::vector<Member>> members = ParseMembers(text);
  if (!members.ok()) return;
  LONGSHELF_CHECK(!members->empty() && members->size() <= kMaxMembers);
  for (const Member& member : *members) {
    CheckAddressForm(member.address);
    LONGSHELF_CHECK(member.weight >= 0.01 && member.weight <= 100.0);
    LONGSHELF_CHECK(member.zone.find_first_of(",;") == std::string::npos);
  }
  const auto is_before = [](const Member& a, const Member& b) { return a.address < b.address; };
  LONGSHELF_CHECK(std::ranges::is_sorted(*members, is_before));
  LONGSHELF_CHECK(std::adjacent_find(members->begin(), members->end(), [](const Member& a, const Member& b) {
                    return a.address == b.address;
                  }) == members->end());
  // Six digits are what StrCat writes of a weight.
  const absl::StatusOr<std::vector<Member>> again = ParseMembers(Written(*members));
  LONGSHELF_CHECK(again.ok() && Written(*again) == Written(*members));
}

}  // namespace
}  // namespace longshelf::kvstore

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  return {.inputs = {"store-1:7000", "store-1:7000,store-2:7000;weight=2;zone=a, store-3:7000;zone=b;weight=0.5",
                     "[2001:db8::1]:7000,10.0.0.2:65535", "dns:stores.default.svc:7000", "dns:"},
          .words = {"dns:", ":7000", ",", ";", ";weight=", ";zone=", "=", "nan", "inf", "1e400", "0x10", " ", "+", "0",
                    "65536", "-1", "store-1:7000"}};
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longshelf::kvstore;  // the entry point has no namespace of its own
  const std::string_view text = longshelf::fuzz::FuzzInput(data, size).Rest();
  ParseList(text);
  const std::string_view name = DnsName(text);
  const bool is_fine = CheckStores(text).ok();
  if (!name.empty()) {
    LONGSHELF_CHECK(text.substr(4) == name);
    if (is_fine) CheckAddressForm(name);
  } else {
    LONGSHELF_CHECK(is_fine == (text.empty() || ParseMembers(text).ok()));
  }
  return 0;
}
