#include <iostream>

#include "cli/dispatch.h"
#include "commands.h"

int main(int argc, char** argv) {
  return longshelf::cli::Dispatch(longshelf::cli::Commands(), argc, argv, std::cout, std::cerr);
}
