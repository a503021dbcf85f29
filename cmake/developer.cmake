# Flags and tools for the tests, benchmarks and programs of this repository. Nothing here reaches a consumer: all of it
# hangs on the target sinq_developer, which is neither installed nor linked by sinq::sinq.
option(SINQ_WARNINGS_AS_ERRORS "Treat warnings as errors" OFF)
option(SINQ_CUDA "Build the .cu files where nvcc allows it" ON)
option(SINQ_FUZZ "Link the fuzz targets with libFuzzer (clang only) instead of the replay program" OFF)
set(SINQ_SANITIZE "" CACHE STRING "Value of -fsanitize= (address,undefined or thread)")
set(SINQ_STAGES core tile pack balance quantize store matmul cuda)

find_package(Threads REQUIRED)
add_library(sinq_developer INTERFACE)
target_link_libraries(sinq_developer INTERFACE sinq::sinq Threads::Threads)

# Sign conversions stay out: Eigen's signed indices and the standard library's unsigned sizes meet on every line.
# nvcc passes its own generated code to the host compiler, which is not pedantic.
# g++ counts a constructor's parameter named like the public member it fills as shadowing; clang does not.
set(cxx $<COMPILE_LANGUAGE:CXX>)
set(cuda $<COMPILE_LANGUAGE:CUDA>)
target_compile_options(sinq_developer INTERFACE
  $<${cxx}:-Wall -Wextra -Wpedantic -Wconversion -Wno-sign-conversion -Wnon-virtual-dtor -Woverloaded-virtual
    -Wshadow$<$<CXX_COMPILER_ID:GNU>:=local>>
  $<${cuda}:-Xcompiler=-Wall,-Wextra>)
if(SINQ_WARNINGS_AS_ERRORS)
  target_compile_options(sinq_developer INTERFACE $<${cxx}:-Werror> "$<${cuda}:SHELL:-Werror all-warnings>")
endif()
if(SINQ_SANITIZE)
  # g++ warns that thread sanitizer does not model the atomic_thread_fence of Eigen's thread pool, and under address
  # sanitizer takes parts of <regex> for uninitialized.
  set(false_alarms "")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    set(false_alarms -Wno-maybe-uninitialized)
    if(SINQ_SANITIZE STREQUAL "thread")
      set(false_alarms -Wno-tsan)
    endif()
  endif()
  target_compile_options(sinq_developer INTERFACE
    $<${cxx}:-fsanitize=${SINQ_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer ${false_alarms}>)
  target_link_options(sinq_developer INTERFACE -fsanitize=${SINQ_SANITIZE})
  set(SINQ_CUDA OFF)
endif()

# Turns the CUDA language on for the .cu files of this repository; sinq_have_cuda says whether that worked,
# sinq_have_cublas whether there is cuBLAS, too. Sources are told by SINQ_HAVE_CUBLAS.
set(sinq_have_cuda FALSE)
set(sinq_have_cublas FALSE)
if(SINQ_CUDA AND TARGET sinq::cuda)
  set(level "${CMAKE_MESSAGE_LOG_LEVEL}")
  set(CMAKE_MESSAGE_LOG_LEVEL WARNING)
  if(NOT CMAKE_CUDA_COMPILER)
    get_target_property(nvcc sinq::cuda SINQ_NVCC)  # not necessarily on the PATH
    set(ENV{CUDACXX} "${nvcc}")
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  set(CMAKE_MESSAGE_LOG_LEVEL "${level}")
  if(CMAKE_CUDA_COMPILER)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      # Any GPU since Ampere, and Hopper with all it has. Machine code for Ampere costs the tests 40 seconds more than
      # letting the driver make it, and shows what ptxas says to it.
      set(CMAKE_CUDA_ARCHITECTURES 80 90a-real)
    endif()
    enable_language(CUDA)
    set(sinq_have_cuda TRUE)
    # A CUDA Toolkit may come without cuBLAS, which is a package of its own.
    get_target_property(folders CUDA::toolkit INTERFACE_INCLUDE_DIRECTORIES)
    find_file(SINQ_CUBLASLT_HEADER cublasLt.h PATHS ${folders} NO_DEFAULT_PATH NO_CACHE)
    if(TARGET CUDA::cublas AND TARGET CUDA::cublasLt AND SINQ_CUBLASLT_HEADER)
      set(sinq_have_cublas TRUE)
    else()
      message(WARNING "sinq: CUDA WITHOUT CUBLAS. Left out are tests and benchmarks of sinq/cuda/blas.cuh and of cuBLAS "
        "itself (wanted: cublasLt.h and the libraries cublas and cublasLt).")
    endif()
  else()
    message(STATUS "sinq: without CUDA (nvcc is found, but cannot compile and link a program)")
  endif()
endif()

# The kernels, compiled once for all tests and programs (sinq/kernels.hpp). Where there are
# tests, with stand-ins for instruction sets that the machine lacks, which no program takes by itself (core/cpu.hpp).
if(SINQ_BUILD_TESTS OR SINQ_BUILD_EXAMPLES)
  file(CONFIGURE OUTPUT kernels.cpp CONTENT "#include <sinq/kernels.hpp>\n")
  add_library(sinq_kernels STATIC ${CMAKE_CURRENT_BINARY_DIR}/kernels.cpp)
  target_link_libraries(sinq_kernels PUBLIC sinq_developer)
  target_compile_definitions(sinq_kernels PUBLIC SINQ_EXTERN_KERNELS $<$<BOOL:${SINQ_BUILD_TESTS}>:SINQ_STAND_INS>)
  if(SINQ_SANITIZE MATCHES "address")
    # Marks of where a variable's scope ends keep vectors in memory: with them, kernels take half an hour to compile.
    target_compile_options(sinq_kernels PRIVATE -fno-sanitize-address-use-after-scope)
  endif()
endif()

include(${CMAKE_CURRENT_LIST_DIR}/lint.cmake)
