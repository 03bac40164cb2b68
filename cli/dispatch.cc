#include "cli/dispatch.h"

#include <algorithm>
#include <ostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/build_info.h"
#include "common/config.h"

namespace longshelf::cli {
namespace {

void PrintHelp(const std::vector<Command>& commands, std::ostream& out) {
  out << "longshelf: DeepSeek-V4 served from ordinary machines\n\nUsage: longshelf COMMAND [OPTIONS]\n\n";
  for (const Command& command : commands) out << absl::StrFormat("  %-12s %s\n", command.name, command.summary);
  out << "\nlongshelf COMMAND --help shows a command's options.\n";
}

// How many leading words of `words` spell the command's name; 0 when they do not.
size_t MatchedWords(const Command& command, const std::vector<std::string>& words) {
  const std::vector<std::string> name = absl::StrSplit(command.name, ' ');
  if (name.size() > words.size() || !std::equal(name.begin(), name.end(), words.begin())) return 0;
  return name.size();
}

}  // namespace

int Dispatch(const std::vector<Command>& commands, int argc, const char* const* argv, std::ostream& out,
             std::ostream& err) {
  const std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  if (words.empty()) {
    PrintHelp(commands, err);
    return kExitUsage;
  }
  if (words[0] == "help" || words[0] == "--help" || words[0] == "-h") {
    PrintHelp(commands, out);
    return 0;
  }
  if (words[0] == "--version" || words[0] == "version") {
    const BuildInfo build = GetBuildInfo();
    out << "longshelf " << build.version << " (" << build.compiler << ", " << build.preset << ")\n";
    return 0;
  }
  std::vector<std::string> names;
  for (const Command& command : commands) {
    if (const size_t n_words = MatchedWords(command, words); n_words > 0) {
      const std::string title = absl::StrCat("longshelf ", command.name);
      std::vector<const char*> rest = {title.c_str()};
      rest.insert(rest.end(), argv + 1 + n_words, argv + argc);
      return command.run(static_cast<int>(rest.size()), rest.data());
    }
    // A missing second word is a mistake of its own: "longshelf model" is near "longshelf model info".
    if (absl::StrCat(words[0], " ") == std::string(command.name).substr(0, words[0].size() + 1)) {
      err << "longshelf: " << words[0] << " needs a second word; did you mean longshelf " << command.name << "?\n";
      return kExitUsage;
    }
    names.emplace_back(command.name);
  }
  const std::string nearest = NearestName(words[0], names);
  err << "longshelf: unknown command " << words[0]
      << (nearest.empty() ? "" : absl::StrCat("; did you mean ", nearest, "?")) << " (longshelf help lists all)\n";
  return kExitUsage;
}

}  // namespace longshelf::cli
