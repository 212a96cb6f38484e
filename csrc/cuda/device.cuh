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

__device__ inline int64_t clamped(int64_t row, int64_t rows) { return row < 0 ? 0 : row > rows ? rows : row; }

// The length of an event; a value outside 0..rows is clamped, since checking it would wait for the device.
__device__ inline int64_t event_size(const int64_t* lengths, int64_t event, int64_t rows) {
  return clamped(lengths[event], rows);
}

// The last of the ascending numbers first(0) to first(count - 1) that is at most i; 0 if none is.
template <class First>
__device__ inline int64_t last_at_most(const First& first, int64_t count, int64_t i) {
  int64_t found = 0, end = count;
  while (end - found > 1) {
    const int64_t middle = (found + end) / 2;
    if (first(middle) <= i)
      found = middle;
    else
      end = middle;
  }
  return found;
}

// The segment of a row.
__device__ inline int64_t segment_of(const int64_t* ptr, int64_t segments, int64_t row) {
  return last_at_most([&](int64_t segment) { return ptr[segment]; }, segments, row);
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

// x: the first `columns` of the `stride` values of a row, for each lane its own row, or zeros for row -1. All lanes
// call it. Together they read all values of row after row, which takes a third of the transactions of reading x, y and
// z in turn.
template <class T, int columns>
__device__ inline void load_points(const T* points, int64_t row, int64_t stride, T (&x)[columns]) {
  for (int k = 0; k < columns; ++k) {  // this lane reads value number k * 32 + lane of the columns * 32
    const int mine = k * warp + lane_id();
    const int64_t from = __shfl_sync(all_lanes, row, mine / columns);
    const T value = from < 0 ? T(0) : points[from * stride + mine % columns];
    for (int c = 0; c < columns; ++c) {
      const int wanted = lane_id() * columns + c;
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
