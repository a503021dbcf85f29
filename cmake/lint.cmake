# Targets format, format-check and tidy. The versions that count are clang-format 14 and clang-tidy 14.
find_program(SINQ_CLANG_FORMAT NAMES clang-format-14 clang-format)
find_program(SINQ_CLANG_TIDY NAMES clang-tidy-14 clang-tidy)
mark_as_advanced(SINQ_CLANG_FORMAT SINQ_CLANG_TIDY)
set(script ${CMAKE_CURRENT_LIST_DIR}/run-lint.cmake)
get_target_property(eigen Eigen3::Eigen INTERFACE_INCLUDE_DIRECTORIES)
foreach(target format format-check tidy)
  add_custom_target(${target} USES_TERMINAL VERBATIM
    COMMAND ${CMAKE_COMMAND} -DMODE=${target} -DSOURCE=${PROJECT_SOURCE_DIR} -DBINARY=${PROJECT_BINARY_DIR}
      -DCLANG_FORMAT=${SINQ_CLANG_FORMAT} -DCLANG_TIDY=${SINQ_CLANG_TIDY} "-DSYSTEM_INCLUDES=${eigen}" -P ${script})
endforeach()
