// Kernels that a GPU would not run, or not always with the same result; the emulator must refuse each of them.
#include "cases.h"

namespace {

int storage[4096];
int* const words = storage;

// -- lanes of a warp -------------------------------------------------------------------------------------------------

__global__ void diverge(int* out) {
  if (threadIdx.x % 2)
    out[threadIdx.x] = __shfl_sync(all, 1, 0);
  else
    out[threadIdx.x] = __shfl_sync(all, 2, 0);
}
__global__ void leave_early(int* out) {
  if (threadIdx.x == 37) return;
  out[threadIdx.x] = __ballot_sync(all, 1);
}
__global__ void short_warp(int* out) { out[threadIdx.x] = __any_sync(all, 1); }
__global__ void other_masks(int*) { __syncwarp(threadIdx.x < 3 ? 0xfu : 0xeu); }
__global__ void read_outside_mask(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(0xffffu, int(threadIdx.x), 4);
}
__global__ void read_inactive(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(all, int(threadIdx.x), 20);
}
__global__ void not_in_mask(int* out) { out[threadIdx.x] = __shfl_sync(0xfffeu, 1, 1); }
__global__ void odd_width(int* out) { out[threadIdx.x] = __shfl_xor_sync(all, 1, 1, 12); }
__global__ void zero_width(int* out) { out[threadIdx.x] = __shfl_sync(all, 1, 1, 0); }

const Case lanes[] = {
    {"diverge", [] { PUFFIN_LAUNCH(diverge, 2, 64, nullptr, words); }},
    {"leave_early", [] { PUFFIN_LAUNCH(leave_early, 1, 64, nullptr, words); }},
    {"short_warp", [] { PUFFIN_LAUNCH(short_warp, 1, 40, nullptr, words); }},
    {"other_masks", [] { PUFFIN_LAUNCH(other_masks, 1, 4, nullptr, words); }},
    {"read_outside_mask", [] { PUFFIN_LAUNCH(read_outside_mask, 1, 32, nullptr, words); }},
    {"read_inactive", [] { PUFFIN_LAUNCH(read_inactive, 1, 32, nullptr, words); }},
    {"not_in_mask", [] { PUFFIN_LAUNCH(not_in_mask, 1, 32, nullptr, words); }},
    {"odd_width", [] { PUFFIN_LAUNCH(odd_width, 1, 32, nullptr, words); }},
    {"zero_width", [] { PUFFIN_LAUNCH(zero_width, 1, 32, nullptr, words); }},
};

// -- barriers of a block ---------------------------------------------------------------------------------------------

__global__ void some_arrive(int* out) {
  if (threadIdx.x == 70) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void warp_at_barrier(int*) {
  if (threadIdx.x < 16)
    __syncthreads();
  else
    __syncwarp();
}
__global__ void two_barriers(int*) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}
__global__ void wait_for(volatile int* flag) {
  while (!*flag) __nanosleep(100);
}
__global__ void meet(int* arrived, volatile int* seen) {  // needs all blocks to be resident
  atomicAdd(arrived, 1);
  while (*seen < int(gridDim.x)) __nanosleep(100);
}

const Case barriers[] = {
    {"some_arrive", [] { PUFFIN_LAUNCH(some_arrive, 3, 96, nullptr, words); }},
    {"warp_at_barrier", [] { PUFFIN_LAUNCH(warp_at_barrier, 1, 32, nullptr, words); }},
    {"two_barriers", [] { PUFFIN_LAUNCH(two_barriers, 1, 64, nullptr, words); }},
    {"wait_for", [] { PUFFIN_LAUNCH(wait_for, 1, 32, nullptr, words); }},
    {"meet", [] { PUFFIN_LAUNCH(meet, 3, 1, nullptr, words, words); }},
};

// -- shared memory and launches --------------------------------------------------------------------------------------

__global__ void write_beyond(int* at) {
  PUFFIN_SHARED(int[8], small);
  PUFFIN_SHARED(int[8], other);
  if (threadIdx.x == 3) small[*at] = 1;
  if (threadIdx.x == 3) other[0] = 1;
}
__global__ void read_unwritten(int* out) {
  PUFFIN_SHARED(int[32], part);
  if (threadIdx.x < 31) part[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = part[threadIdx.x];
}
__global__ void read_of_last_block(int* out) {  // shared memory does not keep its values from block to block
  PUFFIN_SHARED(int, kept);
  if (blockIdx.x == 0) kept = 1;
  out[blockIdx.x] = kept;
}
__global__ void fill_49_kb(int*) {
  PUFFIN_SHARED(char[49 << 10], large);
  large[threadIdx.x] = 1;
}
__global__ void nothing(int*) {}

void write_at(int at) {
  words[0] = at;
  PUFFIN_LAUNCH(write_beyond, 2, 32, nullptr, words);
}

const Case memory[] = {
    {"write_beyond", [] { write_at(8); }},
    {"write_before", [] { write_at(-1); }},
    {"write_far_beyond", [] { write_at(1 << 12); }},
    {"read_unwritten", [] { PUFFIN_LAUNCH(read_unwritten, 1, 32, nullptr, words); }},
    {"read_of_last_block", [] { PUFFIN_LAUNCH(read_of_last_block, 9, 1, nullptr, words); }},
    {"fill_49_kb", [] { PUFFIN_LAUNCH(fill_49_kb, 1, 32, nullptr, words); }},
    {"no_blocks", [] { PUFFIN_LAUNCH(nothing, 0, 32, nullptr, words); }},
    {"no_threads", [] { PUFFIN_LAUNCH(nothing, 1, 0, nullptr, words); }},
    {"many_threads", [] { PUFFIN_LAUNCH(nothing, 1, 1025, nullptr, words); }},
};

}  // namespace
