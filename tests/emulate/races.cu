// Two threads that access one word: kernels with a race, each followed by a twin in which something orders the
// accesses.
#include "cases.h"

namespace {

int storage[4096];
int* const words = storage;

template <bool ordered>
__global__ void read_neighbour(int* out) {  // shared memory, across the warps of a block
  PUFFIN_SHARED(int[64], part);
  part[threadIdx.x] = 0;
  __syncthreads();
  part[threadIdx.x] = threadIdx.x;
  if (ordered) __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = part[63 - threadIdx.x];
}
template <bool ordered>
__global__ void read_then_write(int* out) {  // the second barrier of a reduction in a loop
  PUFFIN_SHARED(int, sum);
  for (int i = 0; i < 2; ++i) {
    if (threadIdx.x == 0) sum = i;
    __syncthreads();
    out[threadIdx.x] = sum;
    if (ordered) __syncthreads();
  }
}
template <unsigned mask>
__global__ void read_neighbour_in_warp(int* out) {
  out[threadIdx.x] = threadIdx.x;
  if (mask >> threadIdx.x & 1) __syncwarp(mask);
  if (threadIdx.x >= 16) __syncwarp(0xffff0000u);  // the upper lanes run alone: this does not order the lower ones
  out[32 + threadIdx.x] = out[threadIdx.x ^ 31];
}
__global__ void shuffle_orders_nothing(int* out) {
  out[threadIdx.x] = threadIdx.x;
  __shfl_sync(all, 1, 0);
  out[32 + threadIdx.x] = out[threadIdx.x ^ 1];
}
__global__ void write_same(int* out) { out[0] = blockIdx.x; }
__global__ void count_plainly(int* out) { out[0] += 1; }
__global__ void count_atomically(int* out) { atomicAdd(out, 1); }
__global__ void count_and_read(int* out) {
  atomicAdd(out, 1);
  if (threadIdx.x == 0) out[1] = out[0];
}
__global__ void wait_for_flag(volatile int* flag, int* data) {  // volatile words are atomic; what they announce is not
  if (blockIdx.x == 0) {
    data[0] = 1;
    *flag = 1;
  } else {
    while (!*flag) __nanosleep(1);
    data[1] = data[0];
  }
}
__global__ void own_words(int* out) { out[blockIdx.x * blockDim.x + threadIdx.x] += 1; }
__global__ void beside(int* out) {
  if (threadIdx.x == 0) *reinterpret_cast<int64_t*>(out) = 1;
  if (threadIdx.x == 1) out[2] = 2;
}
__global__ void overlapping(int* out) {  // 8 bytes over the word of another thread
  if (threadIdx.x == 0) *reinterpret_cast<int64_t*>(out) = 1;
  if (threadIdx.x == 1) out[1] = 2;
}

const Case table[] = {
    {"shared", [] { PUFFIN_LAUNCH(read_neighbour<false>, 1, 64, nullptr, words); }},
    {"shared_ordered", [] { PUFFIN_LAUNCH(read_neighbour<true>, 2, 64, nullptr, words); }},
    {"read_then_write", [] { PUFFIN_LAUNCH(read_then_write<false>, 1, 64, nullptr, words); }},
    {"read_then_write_ordered", [] { PUFFIN_LAUNCH(read_then_write<true>, 1, 64, nullptr, words); }},
    {"warp_of_half", [] { PUFFIN_LAUNCH(read_neighbour_in_warp<0xffffu>, 1, 32, nullptr, words); }},
    {"warp_ordered", [] { PUFFIN_LAUNCH(read_neighbour_in_warp<all>, 1, 32, nullptr, words); }},
    {"shuffle", [] { PUFFIN_LAUNCH(shuffle_orders_nothing, 1, 32, nullptr, words); }},
    {"blocks", [] { PUFFIN_LAUNCH(write_same, 2, 1, nullptr, words); }},
    {"plain_count", [] { PUFFIN_LAUNCH(count_plainly, 1, 33, nullptr, words); }},
    {"atomic_count", [] { PUFFIN_LAUNCH(count_atomically, 3, 33, nullptr, words); }},
    {"atomic_and_plain", [] { PUFFIN_LAUNCH(count_and_read, 1, 64, nullptr, words); }},
    {"flag", [] { PUFFIN_LAUNCH(wait_for_flag, 2, 1, nullptr, words, words + 8); }},
    {"own_words", [] { PUFFIN_LAUNCH(own_words, 3, 64, nullptr, words); }},
    {"beside", [] { PUFFIN_LAUNCH(beside, 1, 2, nullptr, words); }},
    {"overlapping", [] { PUFFIN_LAUNCH(overlapping, 1, 64, nullptr, words); }},
    {"two_launches",
     [] {  // a launch waits for the one before
       PUFFIN_LAUNCH(write_same, 1, 1, nullptr, words);
       PUFFIN_LAUNCH(write_same, 1, 1, nullptr, words);
     }},
};

}  // namespace
