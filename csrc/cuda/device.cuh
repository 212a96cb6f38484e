// Helpers of the CUDA kernels: sizes of launches, warps, lengths of events, distances.
#pragma once

#include "../common.h"
#include "launch.cuh"

#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>

namespace puffin::cuda {

constexpr int warp = 32;
constexpr unsigned all_lanes = 0xffffffffu;
constexpr int threads_per_block = 128;
constexpr int64_t last_key = std::numeric_limits<int64_t>::max();

// Number of blocks for `threads` threads in total; kernels loop with the stride of the grid.
inline unsigned blocks_for(int64_t threads) {
  return unsigned(std::min<int64_t>((threads + threads_per_block - 1) / threads_per_block, most_blocks));
}

__device__ inline int64_t thread_id() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t thread_count() { return int64_t(gridDim.x) * blockDim.x; }
__device__ inline int lane_id() { return threadIdx.x % warp; }

// The length of an event; a value outside 0..rows is clamped, since checking it would wait for the device.
__device__ inline int64_t event_size(const int64_t* lengths, int64_t event, int64_t rows) {
  const int64_t n = lengths[event];
  return n < 0 ? 0 : n > rows ? rows : n;
}

// The first row of each segment; its values are not checked either.
inline void check_ptr(const Tensor& ptr, const Tensor& like) {
  STD_TORCH_CHECK(ptr.dim() == 1 && ptr.size(0) > 0 && ptr.is_contiguous() && ptr.scalar_type() == ScalarType::Long &&
                      ptr.device() == like.device(),
                  "ptr: expected contiguous (S + 1,) int64 on the device of the rows");
}

template <class T>
__device__ inline T larger(T a, T b) {
  return a > b ? a : b;
}

template <class T>
__device__ inline T smaller(T a, T b) {
  return a < b ? a : b;
}

// Summed from left to right, and compiled with --fmad=false: the same numbers as on the CPU.
template <class T>
__device__ inline T squared_distance(T dx, T dy, T dz) {
  return dx * dx + dy * dy + dz * dz;
}

template <class T>
__device__ inline T infinity() {
  return T(INFINITY);
}

// x: the first three of the `stride` values of a row, for each lane its own row, or zeros for row -1. All lanes call
// it. Together they read all values of row after row, which takes a third of the transactions of reading x, y and z in
// turn.
template <class T>
__device__ inline void load_points(const T* points, int64_t row, int64_t stride, T* x) {
  for (int k = 0; k < 3; ++k) {  // this lane reads value number k * 32 + lane of the 3 * 32
    const int mine = k * warp + lane_id();
    const int64_t from = __shfl_sync(all_lanes, row, mine / 3);
    const T value = from < 0 ? T(0) : points[from * stride + mine % 3];
    for (int c = 0; c < 3; ++c) {
      const int wanted = lane_id() * 3 + c;
      const T received = __shfl_sync(all_lanes, value, wanted % warp);
      x[c] = wanted / warp == k ? received : x[c];
    }
  }
}

inline std::tuple<Tensor, Tensor> sort_rows(const Tensor& keys) {
  std::array<StableIValue, 4> stack{
      torch::stable::detail::from(keys), torch::stable::detail::from(std::optional<bool>(true)),
      torch::stable::detail::from(int64_t(1)), torch::stable::detail::from(false)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

}  // namespace puffin::cuda
