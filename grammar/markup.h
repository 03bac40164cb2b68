#pragma once

#include "char_dfa.h"

namespace longshelf::grammar {

// Strings in which nothing is spelled that readers of an answer take for its end or for a call.
CharDfa WritableStrings();

}  // namespace longshelf::grammar
