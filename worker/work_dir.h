#pragma once

#include <unistd.h>

#include <filesystem>
#include <string>

namespace longshelf::worker {

// Where run files go unless told otherwise: longshelf-UID in the temporary directory.
inline std::string DefaultWorkDir() {
  std::error_code error;
  const std::filesystem::path temporary = std::filesystem::temp_directory_path(error);
  return ((error ? std::filesystem::path("/tmp") : temporary) / ("longshelf-" + std::to_string(geteuid()))).string();
}

}  // namespace longshelf::worker
