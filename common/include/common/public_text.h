#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace longshelf {

// `text` as it may be told to people outside of the machine: one line of printable ASCII, at most n_max bytes. Words
// that are or hold a path, an address, a host or a process number become "...".
std::string PublicText(std::string_view text, size_t n_max = 240);

}  // namespace longshelf
