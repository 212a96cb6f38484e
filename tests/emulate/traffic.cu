// Kernels whose traffic is known: the test compares it with what the emulator counts.
#include "cases.h"

extern "C" bool puffin_count_traffic(const char* path);

namespace {

alignas(64) int numbers[4096];
int* const source = numbers;
int* const target = numbers + 2048;

// One warp: reads with a distance between neighbouring lanes, writes neighbouring words.
__global__ void copy(const int* from, int* to, int distance) {
  to[blockIdx.x * 32 + threadIdx.x] = from[threadIdx.x * distance];
}

// Three reads of each lane; the lanes meet after the first.
__global__ void meet(const int* from, int* to) {
  int sum = 0;
  for (int i = 0; i < 3; ++i) {
    sum += from[i * 32 + threadIdx.x];
    if (i == 0) __syncwarp();
  }
  to[blockIdx.x * 32 + threadIdx.x] = sum;
}

__global__ void broadcast(const int* from, int* to) { to[blockIdx.x * 32 + threadIdx.x] = from[1]; }

__global__ void share(int* to, int distance) {
  PUFFIN_SHARED(int[1024], words);
  words[threadIdx.x * distance] = 1;
  to[blockIdx.x * 32 + threadIdx.x] = words[threadIdx.x * distance];
}

template <class... Arguments>
void count(void (*kernel)(Arguments...), Arguments... arguments) {
  puffin_count_traffic(nullptr);
  PUFFIN_LAUNCH(kernel, 2, 32, nullptr, arguments...);
  puffin_count_traffic("/dev/stdout");
}

const Case table[] = {
    {"traffic_of_neighbours", [] { count<const int*, int*, int>(copy, source, target, 1); }},
    {"traffic_of_pairs", [] { count<const int*, int*, int>(copy, source, target, 2); }},
    {"traffic_of_columns", [] { count<const int*, int*, int>(copy, source, target, 32); }},
    {"traffic_unaligned", [] { count<const int*, int*, int>(copy, source + 1, target, 1); }},
    {"traffic_of_loops", [] { count<const int*, int*>(meet, source, target); }},
    {"traffic_of_one_word", [] { count<const int*, int*>(broadcast, source, target); }},
    {"traffic_shared", [] { count<int*, int>(share, target, 1); }},
    {"traffic_in_one_bank", [] { count<int*, int>(share, target, 32); }},
};

}  // namespace
