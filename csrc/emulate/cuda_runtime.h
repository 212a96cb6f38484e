// The part of CUDA that our kernels use, for a C++ compiler: the kernels run on a CPU, for tests only.
//
// Every thread of a block is a fiber (fiber.h); scheduler.cpp decides which of them runs. The functions here that end
// in _sync, and __syncthreads, make a thread wait until all threads that take part have arrived. memory.h checks the
// accesses of the kernels. Warps, barriers and memory behave as on a GPU of compute capability 7.0 or newer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

using cudaStream_t = void*;

namespace puffin::emulate {

// Where the source calls a function of this header.
struct Site {
  const char* file;
  int line;
  bool operator==(const Site& other) const { return line == other.line && !std::strcmp(file, other.file); }
};

enum class Op : int { none, shuffle, shuffle_up, shuffle_down, shuffle_xor, ballot, any, all, sync_warp };

// The built-in variables of the running thread; the scheduler sets them.
struct BuiltIns {
  dim3 thread, block, block_size, grid;
};
extern BuiltIns built_ins;

uint64_t rendezvous(Op op, unsigned mask, uint64_t value, int argument, int width, Site site);
void barrier(Site site);
void sleep();
void* shared(const char* name, size_t size, Site site);
void note_atomic(const void* address, size_t size);  // an atomic read and write

template <class T>
T shuffle(Op op, unsigned mask, T value, int argument, int width, Site site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA shuffles words of 4 or 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = rendezvous(op, mask, bits, argument, width, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace puffin::emulate

#define threadIdx (::puffin::emulate::built_ins.thread)
#define blockIdx (::puffin::emulate::built_ins.block)
#define blockDim (::puffin::emulate::built_ins.block_size)
#define gridDim (::puffin::emulate::built_ins.grid)

// The default arguments name the line of the caller.
#define PUFFIN_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, PUFFIN_SITE) {
  return puffin::emulate::shuffle(puffin::emulate::Op::shuffle, mask, value, lane, width, {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, PUFFIN_SITE) {
  return puffin::emulate::shuffle(puffin::emulate::Op::shuffle_up, mask, value, int(by), width, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, PUFFIN_SITE) {
  return puffin::emulate::shuffle(puffin::emulate::Op::shuffle_down, mask, value, int(by), width, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, PUFFIN_SITE) {
  return puffin::emulate::shuffle(puffin::emulate::Op::shuffle_xor, mask, value, bits, width, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, PUFFIN_SITE) {
  return unsigned(puffin::emulate::rendezvous(puffin::emulate::Op::ballot, mask, predicate != 0, 0, 32, {file, line}));
}
inline int __any_sync(unsigned mask, int predicate, PUFFIN_SITE) {
  return int(puffin::emulate::rendezvous(puffin::emulate::Op::any, mask, predicate != 0, 0, 32, {file, line}));
}
inline int __all_sync(unsigned mask, int predicate, PUFFIN_SITE) {
  return int(puffin::emulate::rendezvous(puffin::emulate::Op::all, mask, predicate != 0, 0, 32, {file, line}));
}
inline void __syncwarp(unsigned mask = 0xffffffffu, PUFFIN_SITE) {
  puffin::emulate::rendezvous(puffin::emulate::Op::sync_warp, mask, 0, 0, 32, {file, line});
}
inline void __syncthreads(PUFFIN_SITE) { puffin::emulate::barrier({file, line}); }
inline void __nanosleep(unsigned) { puffin::emulate::sleep(); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }

// Only one thread runs at a time, so plain operations are atomic.
template <class T>
__attribute__((no_sanitize("thread"))) T atomicAdd(T* address, T value) {
  puffin::emulate::note_atomic(address, sizeof(T));
  const T before = *address;
  *address = before + value;
  return before;
}

template <class T>
__attribute__((no_sanitize("thread"))) T atomicCAS(T* address, T expected, T value) {
  puffin::emulate::note_atomic(address, sizeof(T));
  const T before = *address;
  if (before == expected) *address = value;
  return before;
}

using std::max;
using std::min;
