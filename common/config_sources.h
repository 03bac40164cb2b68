#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace longshelf {

// What a YAML file says, flattened: `queue: {max: 5}` and `queue_max: 5` are both key "queue-max".
struct YamlSetting {
  std::string key = {};
  std::vector<std::string> values = {};
  bool is_sequence = false;
  int line = 0;
};

// INVALID_ARGUMENT with file and line for anything but maps of scalars and sequences of scalars; 1 MiB at most.
absl::StatusOr<std::vector<YamlSetting>> ReadYamlSettings(const std::string& path);

struct FlagSpec {
  std::string name = {};
  std::string help = {};
  std::string group = {};
  std::string type_label = {};
  std::string default_text = {};
  bool is_bool = false;
  bool is_list = false;
  bool is_positional = false;
};

struct FlagValues {
  std::vector<std::vector<std::string>> values;  // one entry per FlagSpec, empty when not given
  std::string config_path;
  bool print_config = false;
  bool help = false;
  bool version = false;
  std::string help_text;
  std::string unknown;  // the first argument that nothing takes
};

absl::StatusOr<FlagValues> ReadFlags(const std::string& program, const std::string& purpose,
                                     const std::vector<FlagSpec>& flags, const std::vector<std::string>& args);

}  // namespace longshelf
