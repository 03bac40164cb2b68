#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "common/config.h"
#include "common/status.h"
#include "keys/key_file.h"

namespace longshelf::router {
namespace {

constexpr size_t kYamlBytesMax = size_t{1} << 20;
// What stops aliases from multiplying: a list of lists cannot be more than this.
constexpr size_t kKeysMax = 10'000;
constexpr size_t kNameBytesMax = 64;
constexpr size_t kSaltBytesMax = 256;
constexpr uint64_t kLimitMax = 1'000'000'000'000;

size_t LineOf(const YAML::Node& node) { return static_cast<size_t>(std::max(0, node.Mark().line)) + 1; }

absl::Status ErrorAt(const YAML::Node& node, absl::string_view what) { return KeyFileError(LineOf(node), what); }

absl::Status UnknownName(const YAML::Node& node, absl::string_view what, const std::string& name,
                         const std::vector<std::string>& known) {
  const std::string nearest = NearestName(name, known);
  const std::string hint = nearest.empty() ? absl::StrCat("there are ", absl::StrJoin(known, ", "))
                                           : absl::StrCat("did you mean `", nearest, "`?");
  return ErrorAt(node, absl::StrCat("unknown ", what, " `", name.substr(0, kNameBytesMax), "`; ", hint));
}

struct Field {
  std::string name;
  std::function<absl::Status(const YAML::Node& value)> set;
};

// Each field of the map once, in any order; - and _ are the same in names, as in --config.
absl::Status ReadMap(const YAML::Node& map, absl::string_view what, const std::vector<Field>& fields) {
  if (!map.IsMap()) return ErrorAt(map, absl::StrCat(what, " must be `name: value` lines"));
  std::vector<std::string> known;
  known.reserve(fields.size());
  for (const Field& field : fields) known.push_back(field.name);
  std::vector<bool> is_set(fields.size(), false);
  for (const auto& entry : map) {
    if (!entry.first.IsScalar()) return ErrorAt(entry.first, "a name must be plain text");
    const std::string name = absl::StrReplaceAll(entry.first.Scalar(), {{"_", "-"}});
    const auto found = std::find(known.begin(), known.end(), name);
    if (found == known.end()) return UnknownName(entry.first, "name", name, known);
    const auto place = static_cast<size_t>(found - known.begin());
    if (is_set[place]) return ErrorAt(entry.first, absl::StrCat(name, " is given twice"));
    is_set[place] = true;
    RETURN_IF_ERROR(fields[place].set(entry.second));
  }
  return absl::OkStatus();
}

absl::Status ReadText(const YAML::Node& node, const char* name, size_t n_bytes_max, std::string& to) {
  if (node.IsScalar() && !node.Scalar().empty() && node.Scalar().size() <= n_bytes_max &&
      absl::StripAsciiWhitespace(node.Scalar()) == node.Scalar()) {
    to = node.Scalar();
    return absl::OkStatus();
  }
  return ErrorAt(node, absl::StrCat(name, " must be 1 to ", n_bytes_max, " bytes of text, without blanks around it"));
}

absl::Status ReadExpiry(const YAML::Node& node, ApiKey& key) {
  std::string error;
  absl::Time time;
  if (node.IsScalar() && absl::ParseTime(absl::RFC3339_full, node.Scalar(), &time, &error) &&
      time != absl::InfiniteFuture() && time != absl::InfinitePast()) {
    key.expires_at = time;
    return absl::OkStatus();
  }
  return ErrorAt(node, "expires must be a time as RFC 3339 writes it, such as 2027-01-31T00:00:00Z");
}

absl::Status ReadScopes(const YAML::Node& node, ApiKey& key) {
  if (!node.IsSequence() || node.size() == 0 || node.size() > kScopeNames.size()) {
    return ErrorAt(node, absl::StrCat("scopes must be a list of 1 to ", kScopeNames.size(),
                                      " scopes; without it a key has them all"));
  }
  key.scopes = ScopeSet();
  for (const YAML::Node& each : node) {
    const std::string name = each.IsScalar() ? each.Scalar() : "";
    const auto* const found = std::find(kScopeNames.begin(), kScopeNames.end(), name);
    if (found == kScopeNames.end()) {
      return UnknownName(each, "scope", name, {kScopeNames.begin(), kScopeNames.end()});
    }
    key.scopes.Add(static_cast<Scope>(found - kScopeNames.begin()));
  }
  return absl::OkStatus();
}

template <typename Number>
Field LimitField(const char* name, Number& to) {
  return {name, [name, &to](const YAML::Node& node) {
            constexpr uint64_t kMax = std::min<uint64_t>(std::numeric_limits<Number>::max(), kLimitMax);
            uint64_t value = 0;
            if (!node.IsScalar() || !absl::SimpleAtoi(node.Scalar(), &value) || value < 1 || value > kMax) {
              return ErrorAt(
                  node, absl::StrCat(name, " must be a whole number from 1 to ", kMax, "; leave it out for no limit"));
            }
            to = static_cast<Number>(value);
            return absl::OkStatus();
          }};
}

absl::StatusOr<ApiKey> ReadKey(const YAML::Node& node) {
  ApiKey key;
  std::string label;
  bool has_key = false;
  const auto set = [](absl::Status (*read)(absl::string_view, ApiKey&), ApiKey& to) {
    return [read, &to](const YAML::Node& value) {
      if (!value.IsScalar()) return ErrorAt(value, "expected text");
      const absl::Status status = read(value.Scalar(), to);
      return status.ok() ? status : ErrorAt(value, status.message());
    };
  };
  const std::vector<Field> limits = {LimitField("requests-at-once", key.limits.n_requests_max),
                                     LimitField("requests-per-minute", key.limits.n_requests_per_minute),
                                     LimitField("tokens-per-minute", key.limits.n_tokens_per_minute),
                                     LimitField("tokens-queued", key.limits.n_tokens_queued_max)};
  const std::vector<Field> fields = {
      {"tenant", set(SetTenant, key)},
      {"name", [&label](const YAML::Node& value) { return ReadText(value, "name", kNameBytesMax, label); }},
      {"key",
       [&](const YAML::Node& value) {
         has_key = true;
         if (value.IsScalar() && absl::StripAsciiWhitespace(value.Scalar()) != value.Scalar()) {
           return ErrorAt(value, "the key has blanks around it, which no request can send");
         }
         return set(SetKey, key)(value);
       }},
      {"expires", [&key](const YAML::Node& value) { return ReadExpiry(value, key); }},
      {"scopes", [&key](const YAML::Node& value) { return ReadScopes(value, key); }},
      {"salt", [&key](const YAML::Node& value) { return ReadText(value, "salt", kSaltBytesMax, key.salt); }},
      {"limits", [&limits](const YAML::Node& value) { return ReadMap(value, "limits", limits); }},
  };
  RETURN_IF_ERROR(ReadMap(node, "a key", fields));
  if (key.tenant.empty()) return ErrorAt(node, "the key has no tenant");
  if (!has_key) return ErrorAt(node, "there is no key: give `key: KEY` or `key: sha256:DIGITS`");
  if (!label.empty()) key.label = label;
  return key;
}

absl::StatusOr<std::vector<ApiKey>> ReadRoot(const YAML::Node& root) {
  std::vector<ApiKey> keys;
  const auto read_all = [&keys](const YAML::Node& list) {
    if (!list.IsSequence()) return ErrorAt(list, "keys must be a list, one `- tenant: NAME` after the other");
    for (const YAML::Node& node : list) {
      if (keys.size() >= kKeysMax) return ErrorAt(node, absl::StrCat("there are more than ", kKeysMax, " keys"));
      ASSIGN_OR_RETURN(ApiKey key, ReadKey(node));
      keys.push_back(std::move(key));
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(ReadMap(root, "the file", {{"keys", read_all}}));
  return keys;
}

}  // namespace

absl::StatusOr<std::vector<ApiKey>> ReadYamlKeys(std::string_view text) {
  if (text.size() > kYamlBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("the API key file is larger than ", kYamlBytesMax, " bytes"));
  }
  try {
    return ReadRoot(YAML::Load(std::string(text)));
  } catch (const YAML::Exception& exception) {
    return KeyFileError(static_cast<size_t>(std::max(0, exception.mark.line)) + 1, exception.msg);
  }
}

}  // namespace longshelf::router
