// Launches, shared memory, device guard and stream, registration: what differs between nvcc and the emulator of
// csrc/emulate, which compiles these sources for a CPU.
//
// PUFFIN_LAUNCH(kernel, blocks, threads, stream, arguments...)  launch, and check the launch
// PUFFIN_SHARED(type, name)                                     static shared memory; an array is T[n]
// PUFFIN_UNROLL(), PUFFIN_UNROLL(n)                             unroll the loop that follows, or n steps of it
// PUFFIN_KERNELS(m)                                             register implementations
#pragma once

#ifdef PUFFIN_EMULATED
#include "../emulate/launch.h"
#else

#include "../common.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <cuda_runtime.h>

namespace puffin::cuda {

constexpr int64_t most_blocks = int64_t(1) << 20;  // of a grid

// Makes the tensor's device current as long as it lives, and holds that device's current stream.
struct Scope {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;
  explicit Scope(const Tensor& on) : guard(on.get_device_index()) {
    void* current = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(on.get_device_index(), &current));
    stream = static_cast<cudaStream_t>(current);
  }
};

template <class T>
using Itself = T;  // lets a macro declare a variable of an array type

inline void check_launch() { STD_CUDA_KERNEL_LAUNCH_CHECK(); }

}  // namespace puffin::cuda

#define PUFFIN_LAUNCH(kernel, blocks, threads, stream, ...)    \
  do {                                                         \
    kernel<<<(blocks), (threads), 0, (stream)>>>(__VA_ARGS__); \
    ::puffin::cuda::check_launch();                            \
  } while (false)

#define PUFFIN_SHARED(type, name) __shared__::puffin::cuda::Itself<type> name

#define PUFFIN_PRAGMA(text) _Pragma(#text)
#define PUFFIN_UNROLL(steps) PUFFIN_PRAGMA(unroll steps)

#define PUFFIN_KERNELS(m) STABLE_TORCH_LIBRARY_IMPL(puffin, CUDA, m)

#endif
