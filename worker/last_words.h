#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "engine/comm/run_dir.h"

namespace longshelf::worker {

// Why a group ended, of what its shards left: "shard 1: layers.3.attn.wq_a is missing". What only says that somebody
// else is gone counts when there is nothing else, and `seen`, what the caller saw itself, when there is not even that.
std::string ChooseLastWords(const std::vector<engine::RankError>& errors, std::string_view seen);

// The same of a run directory. For its own rank a caller gives `seen` instead.
std::string FindLastWords(const std::filesystem::path& run_dir, int own_rank, std::string_view seen);

}  // namespace longshelf::worker
