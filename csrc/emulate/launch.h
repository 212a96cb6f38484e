// What csrc/cuda/launch.cuh is for nvcc: launches, shared memory and registration, for the emulator.
#pragma once

#include "cuda_runtime.h"

#include <tuple>

namespace puffin::emulate {

// The arguments of a launch, which every thread reads; on a GPU they are in constant memory.
struct Call {
  const void* arguments;
  size_t size;
  void (*run)(const void* arguments);
};

// Run the call once for every thread of a grid of one-dimensional blocks. Throws std::runtime_error, which names the
// kernel, the block and the thread, if the threads do what a GPU would not do.
void launch(const char* kernel, unsigned blocks, unsigned threads, const Call& call);

template <class... Parameters, class... Arguments>
void launch_kernel(const char* name, unsigned blocks, unsigned threads, void (*kernel)(Parameters...),
                   const Arguments&... arguments) {
  using Values = std::tuple<void (*)(Parameters...), Parameters...>;
  const Values values(kernel, arguments...);  // evaluated once, on the host, as for a GPU
  launch(name, blocks, threads,
         {&values, sizeof values, [](const void* all) {
            std::apply([](auto run, const auto&... each) { run(each...); }, *static_cast<const Values*>(all));
          }});
}

template <class T>
T& shared_variable(const char* name, Site site) {
  return *static_cast<T*>(shared(name, sizeof(T), site));
}

}  // namespace puffin::emulate

#define PUFFIN_LAUNCH(kernel, blocks, threads, stream, ...) \
  ((void)(stream), ::puffin::emulate::launch_kernel(#kernel, blocks, threads, kernel, __VA_ARGS__))

#define PUFFIN_SHARED(type, name) \
  auto& name = ::puffin::emulate::shared_variable<type>(#name, ::puffin::emulate::Site{__FILE__, __LINE__})

#define PUFFIN_UNROLL(steps)  // changes the speed only

// The CUDA kernels take the place of the CPU kernels, so that the tests of these run unchanged.
#define PUFFIN_KERNELS(m) STABLE_TORCH_LIBRARY_IMPL(puffin, CPU, m)

namespace puffin::cuda {

// Few, so that the loops of the kernels over more threads than a grid has run in tests.
constexpr int64_t most_blocks = 8;

struct Scope {
  cudaStream_t stream = nullptr;
  template <class Tensor>
  explicit Scope(const Tensor&) {}
};

}  // namespace puffin::cuda
