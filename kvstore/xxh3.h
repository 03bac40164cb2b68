#pragma once

// XXH3 in the widest vectors the processor has: the library chooses at its first call, but only for callers that
// include this header of it. Half the time of the plain functions, which are as wide as all processors are.
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif
