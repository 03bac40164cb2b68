#pragma once

#include <string_view>

#include "engine/cache_objects.h"
#include "homes.h"

namespace longshelf::worker {

// A cache object of the engine as the store takes it: of class kCache.
Homes::PutItem MakePutItem(const kvstore::Fingerprint& fingerprint, const engine::ParkedObject& object,
                           std::string_view namespace_id, const kvstore::BlockKey& extent);

}  // namespace longshelf::worker
