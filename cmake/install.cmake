# The headers and a package for find_package(sinq). While the major version is 0, every minor version may break.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(package ${CMAKE_INSTALL_DATADIR}/cmake/sinq)

install(DIRECTORY include/sinq DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.hpp" PATTERN "*.inc" PATTERN "*.cuh")
install(TARGETS sinq EXPORT sinq-targets)
install(EXPORT sinq-targets NAMESPACE sinq:: DESTINATION ${package})
configure_package_config_file(cmake/sinq-config.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/sinq-config.cmake
  INSTALL_DESTINATION ${package} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/sinq-config-version.cmake
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/sinq-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/sinq-config-version.cmake
  cmake/sinq-cuda.cmake DESTINATION ${package})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
