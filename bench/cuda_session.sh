#!/usr/bin/env bash
# A short time with a GPU, used well: builds, runs every test labelled gpu, the sanitizers on a small set and the CUDA
# benchmarks, within nine minutes, and leaves everything in one text file. Each part has its own time limit and none stops
# the others.
#
#   bench/cuda_session.sh [output file]
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

{ date -u; git log -1 --format='%h %s' 2>/dev/null; nvcc --version | tail -2; nvidia-smi; } > "$out" 2>&1
# For this GPU alone: half the compile time.
part 30 configure cmake -S . -B $build -G Ninja -DCMAKE_BUILD_TYPE=Release -DSINQ_BUILD_TESTS=ON -DSINQ_BUILD_BENCH=ON \
  -DSINQ_BUILD_EXAMPLES=OFF "-DCMAKE_CUDA_ARCHITECTURES=$gpu-real"
part 180 build cmake --build $build --target cuda_gpu_tests cuda_bench
tests=$build/tests/cuda_gpu_tests
part 60 tests $tests
for tool in memcheck racecheck; do
  part 45 "compute-sanitizer $tool" compute-sanitizer --tool $tool $tests --gtest_filter='Products.Same*:Products.OfManyTokensOnH*:Matrices.Deq*:Groups.Exp*:Quantizing.Names*'
done
part 60 "many tokens" $build/bench/cuda_bench --benchmark_min_time=0.02 --benchmark_filter='^many/'
part 120 benchmarks $build/bench/cuda_bench --benchmark_min_time=0.02 --benchmark_filter='-^many/'
echo "cuda_session: see $out"
