#!/usr/bin/env bash
# A short time with a GPU, used well: builds, runs the benchmarks that the goals are about, every test labelled gpu, the
# sanitizers on a small set and the other benchmarks, and leaves everything in one text file. Each part has its own time
# limit, together less than eight minutes, and none stops the others.
#
#   bench/cuda_session.sh [output file]
#
# A machine without the packages that the build looks for (Eigen, GoogleTest, Google Benchmark, nlohmann-json) finds them
# in a folder that another machine has filled, for the same system and processor:
#
#   apt-get download libeigen3-dev libgtest-dev libbenchmark-dev libbenchmark1debian nlohmann-json3-dev
#   for package in *.deb; do dpkg -x "$package" packages; done
#   CMAKE_PREFIX_PATH=$PWD/packages/usr bench/cuda_session.sh
set -u
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-cuda-session.txt}")
gpu=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .)
if [ -z "$gpu" ]; then
  echo "cuda_session: there is no GPU here" >&2
  exit 1
fi
[ "$gpu" = 90 ] && gpu=90a
build=build/cuda-session
part() {  # part <seconds> <title> <command...>
  local limit=$1 title=$2
  shift 2
  { echo; echo "=== $title: $*"; timeout "$limit" "$@" 2>&1 || echo "(ended with $?)"; } | tee -a "$out"
}
bench() {  # bench <seconds> <title> <filter>
  part "$1" "$2" $build/bench/cuda_bench --benchmark_min_time=0.05 --benchmark_filter="$3"
}

{ date -u; git log -1 --format='%h %s' 2>/dev/null; nvcc --version | tail -2; nvidia-smi; } > "$out" 2>&1
# For this GPU alone, and several kernels at once where nvcc knows how.
split=$(nvcc --help 2>/dev/null | grep -q -- --split-compile && echo --split-compile=0)
part 20 configure cmake -S . -B $build -G Ninja -DCMAKE_BUILD_TYPE=Release -DSINQ_BUILD_TESTS=ON -DSINQ_BUILD_BENCH=ON \
  -DSINQ_BUILD_EXAMPLES=OFF "-DCMAKE_CUDA_ARCHITECTURES=$gpu-real" "-DCMAKE_CUDA_FLAGS=$split"
part 180 build cmake --build $build --target cuda_gpu_tests cuda_bench
bench 60 goals '^(limit|goal)/'
tests=$build/tests/cuda_gpu_tests
part 50 tests $tests
small='Products.Same*:Products.FirstCalls*:Products.AgreeWith*:Matrices.Deq*:Groups.Exp*:Quantizing.Names*'
for tool in memcheck racecheck; do
  part 35 "compute-sanitizer $tool" compute-sanitizer --tool $tool $tests --gtest_filter="$small"
done
bench 80 others '^more/'
echo "cuda_session: see $out"
