#pragma once

#include <string>
#include <vector>

namespace longshelf {

// Words or variables as exec takes them: null at the end, valid as long as the texts, not to be written through.
inline std::vector<char*> ExecPointers(const std::vector<std::string>& texts) {
  std::vector<char*> out;
  out.reserve(texts.size() + 1);
  for (const std::string& text : texts) out.push_back(const_cast<char*>(text.c_str()));
  out.push_back(nullptr);
  return out;
}

}  // namespace longshelf
