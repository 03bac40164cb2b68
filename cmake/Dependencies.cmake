find_package(Threads REQUIRED)
find_package(Boost 1.81 EXACT REQUIRED)  # Asio and Beast, header only
find_package(Protobuf REQUIRED)            # module mode, before gRPC's config
find_package(gRPC CONFIG REQUIRED)
find_package(absl CONFIG REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(MPI REQUIRED COMPONENTS C)
find_package(spdlog CONFIG REQUIRED)
find_package(fmt CONFIG REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)
find_package(simdjson CONFIG REQUIRED)
find_package(nlohmann_json CONFIG REQUIRED)
find_package(CLI11 CONFIG REQUIRED)
find_package(yaml-cpp CONFIG REQUIRED)
find_package(ZLIB REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(URING REQUIRED IMPORTED_TARGET liburing)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
pkg_check_modules(PMIX REQUIRED IMPORTED_TARGET pmix)  # comes with Open MPI
set_target_properties(PkgConfig::PMIX PROPERTIES INTERFACE_LINK_OPTIONS "")  # a path to what is in the usual one as well

# Whoever only builds and runs has neither; scripts/test.sh installs them and configures again.
find_package(GTest QUIET)
find_package(benchmark CONFIG QUIET)
if(GTest_FOUND AND benchmark_FOUND)
  set(LONGSHELF_TESTS TRUE)
else()
  set(LONGSHELF_TESTS FALSE)
  message(STATUS "no tests and no benchmarks: libgtest-dev, libgmock-dev or libbenchmark-dev is not installed")
endif()
