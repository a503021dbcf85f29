#!/usr/bin/env bash
# A short time with a GPU, used well: builds, runs the benchmarks that the goals are about, every test labelled gpu, the
# sanitizers on a small set and the other benchmarks, and leaves everything in one text file. Each part has its own time
# limit, together less than eight and a half minutes, and none stops the others: after an illegal address a process gets
# nothing but errors from its GPU, so each test, and each kind of benchmark, has a process of its own.
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
out=$(realpath -m "${1:-cuda-session.txt}")
cd "$(dirname "$0")/.." || exit 1
PATH=$PATH:${CUDA_PATH:-/usr/local/cuda}/bin:/usr/local/cuda/bin  # where CMake looks for nvcc, too
gpu=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .)
if [ -z "$gpu" ]; then
  echo "cuda_session: there is no GPU here" >&2
  exit 1
fi
[ "$gpu" = 90 ] && gpu=90a
build=build/cuda-session
part() {  # part <seconds> <title> <command...>
  local limit=$1 title=$2 begin=$SECONDS
  shift 2
  {
    echo
    echo "=== $title: $*"
    timeout -k 2 "$limit" "$@" 2>&1 || echo "(ended with $?)"
    echo "($((SECONDS - begin)) of $limit s)"
  } | tee -a "$out"
}
bench() {  # bench <seconds> <title> <filter>
  part "$1" "$2" $build/bench/cuda_bench --benchmark_min_time=0.05 --benchmark_filter="$3"
}
sanitize() {  # sanitize <seconds> <tool> <suite:tests>...: each suite in a process of its own, all at once
  local limit=$1 tool=$2 parts suite
  shift 2
  parts=$(mktemp -d)
  for suite; do
    out=$parts/${suite%%:*} part "$limit" "compute-sanitizer $tool" compute-sanitizer --tool "$tool" --print-limit 20 \
      $build/tests/cuda_gpu_tests --gtest_filter="${suite%%:*}.${suite#*:}" > /dev/null &
  done
  wait
  cat "$parts"/* | tee -a "$out"
  rm -r "$parts"
}

nvcc=${CUDACXX:-nvcc}
{ date -u; git log -1 --format='%h %s' 2>/dev/null; "$nvcc" --version | tail -2; nvidia-smi; } > "$out" 2>&1
# For this GPU alone, and several kernels at once where nvcc knows how.
split=$("$nvcc" --help 2>/dev/null | grep -q -- --split-compile && echo --split-compile=0)
part 20 configure cmake -S . -B $build -G Ninja -DCMAKE_BUILD_TYPE=Release -DSINQ_BUILD_TESTS=ON -DSINQ_BUILD_BENCH=ON \
  -DSINQ_BUILD_EXAMPLES=OFF "-DCMAKE_CUDA_ARCHITECTURES=$gpu-real" "-DCMAKE_CUDA_FLAGS=$split"
part 200 build cmake --build $build --target cuda_gpu_tests cuda_bench
bench 10 limits '^limit/'
bench 25 'goals, few tokens' '^goal/matmul/.*/tokens:(1|16)/'
bench 20 'goals, many tokens' '^goal/.*/tokens:(512|4096)/'
bench 10 'goals, quantize' '^goal/quantize/'
part 60 tests ctest --test-dir $build -L gpu -j 8 --timeout 55 --output-on-failure
for tool in memcheck racecheck; do
  sanitize 35 $tool 'Matrices:Deq*' 'Products:Same*:Products.First*:Products.AgreeWith*:Products.OfStrided*' \
    'Groups:ExpertsGive*' 'Quantizing:Names*:Quantizing.Small*'
done
bench 15 'others, weights' '^more/(dequantize|quantize)'
bench 20 'others, several matrices' '^more/(query|experts)'
bench 25 'others, few tokens' '^more/.*/tokens:(1|2|4|8|16|32|64)/rows'
bench 25 'others, many tokens' '^more/.*/tokens:(65|128|256|512|2048|4096)/rows'
echo "cuda_session: see $out"
