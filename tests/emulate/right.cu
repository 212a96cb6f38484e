// Correct kernels, whose results the test compares with what a GPU gives.
#include "cases.h"

#include <stdexcept>
#include <vector>

namespace {

int storage[4096];
int* const words = storage;

// One row of the output for each kind of shuffle.
template <int width>
__global__ void shuffle(int* out) {
  const int t = threadIdx.x;
  out[t] = __shfl_sync(all, t, 3, width);
  out[32 + t] = __shfl_sync(all, t, t + 5, width);  // the lane is taken modulo the width
  out[64 + t] = __shfl_up_sync(all, t, 3, width);
  out[96 + t] = __shfl_down_sync(all, t, 3, width);
  out[128 + t] = __shfl_xor_sync(all, t, 5, width);
}
template <int width>
void shuffles() {
  PUFFIN_LAUNCH(shuffle<width>, 1, 32, nullptr, words);
  print(words, 160);
}
__global__ void shuffle_wide(int64_t* out, double* real) {  // words of 8 bytes
  out[threadIdx.x] = __shfl_xor_sync(all, (int64_t(threadIdx.x) << 40) + 1, 31);
  real[threadIdx.x] = __shfl_down_sync(all, threadIdx.x + 0.5, 1);
}

// Votes of the even lanes, then of the odd lanes, then of all.
__global__ void vote(int* out) {
  const int t = threadIdx.x;
  const unsigned mask = t % 2 ? 0xaaaaaaaau : 0x55555555u;
  int ballot, any, every;
  if (t % 2) {
    ballot = __ballot_sync(mask, t < 8), any = __any_sync(mask, t == 5), every = __all_sync(mask, t > 0);
  } else {
    ballot = __ballot_sync(mask, t < 8), any = __any_sync(mask, t == 5), every = __all_sync(mask, t > 0);
  }
  out[t] = ballot, out[32 + t] = any, out[64 + t] = every;
  out[96 + t] = __popc(__ballot_sync(all, t % 3 == 0)), out[128 + t] = __ffs(__ballot_sync(all, t > 6));
}
__global__ void vote_in_last_warp(int* out) {  // 40 threads: the last warp has 8 lanes
  const unsigned mask = threadIdx.x < 32 ? all : 0xffu;
  out[threadIdx.x] = __popc(__ballot_sync(mask, 1));
  __syncwarp(mask);
}

__global__ void add(unsigned long long* counter, int* tickets) {
  tickets[blockIdx.x * blockDim.x + threadIdx.x] = int(atomicAdd(counter, 1ull));
}

// Sum of 1..n by every block: warps by shuffles, then their sums in shared memory.
__global__ void sum(int n, int64_t* out) {
  PUFFIN_SHARED(int64_t[32], part);
  int64_t value = 0;
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) value += i + 1;
  for (int offset = 16; offset; offset /= 2) value += __shfl_xor_sync(all, value, offset);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  value = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0;
  for (int offset = 16; offset; offset /= 2) value += __shfl_xor_sync(all, value, offset);
  if (threadIdx.x == 0) out[blockIdx.x] = value;
}

__global__ void wait_for_earlier(int* drawn, volatile int* done, int* out) {  // tickets, as in C-NMS
  const int ticket = atomicAdd(drawn, 1);
  while (ticket > 0 && !done[ticket - 1]) __nanosleep(100);
  done[ticket] = 1;
  out[ticket] = ticket;
}

__global__ void built_in(int* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = int(gridDim.x) * 1000 + i;
}

__global__ void fail(int*) {  // between barriers, so that threads are given up everywhere
  PUFFIN_SHARED(int[32], part);
  part[threadIdx.x] = 1;
  __syncthreads();
  if (blockIdx.x == 1 && threadIdx.x == 7) __shfl_sync(1u, 1, 0);
  __syncthreads();
}

// Atomic additions give each thread its place in the order in which they run.
__global__ void order(int* place, int* out) { out[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(place, 1); }

const Case table[] = {
    {"shuffle_32", shuffles<32>},
    {"shuffle_16", shuffles<16>},
    {"shuffle_8", shuffles<8>},
    {"shuffle_4", shuffles<4>},
    {"shuffle_2", shuffles<2>},
    {"shuffle_1", shuffles<1>},
    {"shuffle_wide",
     [] {
       std::vector<int64_t> longs(32);
       std::vector<double> doubles(32);
       PUFFIN_LAUNCH(shuffle_wide, 1, 32, nullptr, longs.data(), doubles.data());
       for (double& d : doubles) d *= 2;
       print(longs.data(), 32), print(doubles.data(), 32);
     }},
    {"vote", [] { PUFFIN_LAUNCH(vote, 1, 32, nullptr, words), print(words, 160); }},
    {"vote_in_last_warp", [] { PUFFIN_LAUNCH(vote_in_last_warp, 1, 40, nullptr, words), print(words, 40); }},
    {"add",
     [] {
       unsigned long long counter = 5;
       PUFFIN_LAUNCH(add, 7, 50, nullptr, &counter, words);
       const int64_t value = int64_t(counter);
       print(&value, 1), print(words, 350);
     }},
    {"sum",
     [] {
       std::vector<int64_t> sums(9);
       PUFFIN_LAUNCH(sum, 9, 256, nullptr, 1000, sums.data());
       print(sums.data(), 9);
     }},
    {"sum_after_an_error",
     [] {
       int64_t result = 0;
       for (int i = 0; i < 20; ++i) try {
           PUFFIN_LAUNCH(fail, 5, 32, nullptr, words);
         } catch (const std::runtime_error&) {
           ++result;
         }
       print(&result, 1);
       PUFFIN_LAUNCH(sum, 1, 1024, nullptr, 1000, &result);
       print(&result, 1);
     }},
    {"wait_for_earlier",
     [] {
       int drawn = 0;
       PUFFIN_LAUNCH(wait_for_earlier, 20, 1, nullptr, &drawn, words, words + 64), print(words + 64, 20);
     }},
    {"built_in", [] { PUFFIN_LAUNCH(built_in, 5, 33, nullptr, words), print(words, 165); }},
    {"order",
     [] {
       int place = 0;
       PUFFIN_LAUNCH(order, 4, 64, nullptr, &place, words), print(words, 256);
     }},
};

}  // namespace
