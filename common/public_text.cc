#include "common/public_text.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <sstream>

namespace longshelf {
namespace {

constexpr std::string_view kHidden = "...";
// The word behind one of these names something of the machine.
constexpr std::array<std::string_view, 4> kBeforeNames = {"process", "pid", "host", "hosts"};

bool IsDigit(char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; }

std::string_view WithoutPunctuation(std::string_view word) {
  while (!word.empty() && std::ispunct(static_cast<unsigned char>(word.front())) != 0) word.remove_prefix(1);
  while (!word.empty() && std::ispunct(static_cast<unsigned char>(word.back())) != 0) word.remove_suffix(1);
  return word;
}

// "10.0.0.7", "10.0.0.7:7300", "localhost:7300", "[::1]:7300", "fe80::1", "ipv4:...".
bool IsAddress(std::string_view word) {
  const auto n_colons = std::count(word.begin(), word.end(), ':');
  const auto n_dots = std::count(word.begin(), word.end(), '.');
  if (word.starts_with("ipv4:") || word.starts_with("ipv6:")) return true;
  if (n_colons >= 2 && word.find_first_not_of("0123456789abcdefABCDEF:.[]%") == std::string_view::npos) return true;
  if (n_dots == 3 && std::all_of(word.begin(), word.end(), [](char c) { return IsDigit(c) || c == '.' || c == ':'; })) {
    return true;
  }
  const size_t colon = word.find(':');
  return colon != std::string_view::npos && colon + 1 < word.size() && IsDigit(word[colon + 1]);
}

bool MustHide(std::string_view word, std::string_view before) {
  if (word.find_first_of("/\\@") != std::string_view::npos) return true;
  return IsAddress(WithoutPunctuation(word)) ||
         std::find(kBeforeNames.begin(), kBeforeNames.end(), WithoutPunctuation(before)) != kBeforeNames.end();
}

}  // namespace

std::string PublicText(std::string_view text, size_t n_max) {
  // What follows the bound is not looked at; a word that it cuts is hidden or not by its beginning.
  std::string printable(text.substr(0, 4 * n_max));
  for (char& c : printable) {
    if (c < ' ' || c > '~') c = ' ';
  }
  std::string out;
  std::string before;
  std::istringstream words(printable);
  for (std::string word; words >> word; before = word) {
    out.append(out.empty() ? "" : " ").append(MustHide(word, before) ? kHidden : word);
  }
  if (out.size() > n_max) out = out.substr(0, n_max - kHidden.size()).append(kHidden);
  return out;
}

}  // namespace longshelf
