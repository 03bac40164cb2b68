#include <iostream>

#include "cli/dispatch.h"
#include "commands.h"
#include "process/run_main.h"

int main(int argc, char** argv) {
  return longshelf::RunMain(
      [&] { return longshelf::cli::Dispatch(longshelf::cli::Commands(), argc, argv, std::cout, std::cerr); });
}
