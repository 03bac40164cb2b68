# cpack -G DEB; scripts/package.sh does it from a fresh clone.
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY TRUE)  # tests are not part of it; to_install is what must be built before
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME longshelf)
set(CPACK_PACKAGE_VENDOR longshelf)
set(CPACK_PACKAGE_CONTACT "longshelf maintainers <longshelf@example.org>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "serves DeepSeek-V4 from ordinary machines")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_PACKAGE_DIRECTORY ${PROJECT_BINARY_DIR}/packages)
set(CPACK_STRIP_FILES TRUE)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
  OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)

set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
"A cluster that serves DeepSeek-V4 over HTTP and gRPC: a router, workers of
expert-parallel shards, and a KV store that keeps sessions and prefixes.
With systemd units, which are not started by the installation, and a small
demo model that they serve when they are.")
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
# Run, not linked: mpirun, where a worker has more than one shard; and who makes the user of the services.
set(CPACK_DEBIAN_PACKAGE_DEPENDS "openmpi-bin, systemd | systemd-standalone-sysusers | systemd-sysusers")
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "bash-completion, man-db")
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION TRUE)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA
  ${CMAKE_CURRENT_LIST_DIR}/conffiles ${CMAKE_CURRENT_LIST_DIR}/postinst ${CMAKE_CURRENT_LIST_DIR}/prerm
  ${CMAKE_CURRENT_LIST_DIR}/postrm)
include(CPack)
