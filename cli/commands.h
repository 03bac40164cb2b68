#pragma once

#include <vector>

#include "cli/dispatch.h"

namespace longshelf::cli {

// Every subcommand, in the order that `longshelf help` shows them.
std::vector<Command> Commands();

// One per NAME_command.cc.
int RunCerts(int argc, const char* const* argv);
int RunChat(int argc, const char* const* argv);
int RunModelInfo(int argc, const char* const* argv);
int RunPlan(int argc, const char* const* argv);
int RunRender(int argc, const char* const* argv);
int RunTokenize(int argc, const char* const* argv);
int RunUp(int argc, const char* const* argv);
int RunVerify(int argc, const char* const* argv);

}  // namespace longshelf::cli
