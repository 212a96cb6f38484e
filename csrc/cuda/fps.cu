// Farthest point sampling on CUDA; defined in src/puffin/ops/fps.py. One block of threads per event. As on the CPU, it
// skips blocks of 32 points in which no point is nearer to the new sample than to the earlier ones.
#include "boxes.cuh"

namespace puffin::cuda {
namespace {

constexpr int sampling_threads = 1024;
constexpr int32_t nobody = std::numeric_limits<int32_t>::max();

// Keep the farther of two candidates; ties go to the lowest index.
template <class T>
__device__ void take_farther(T& distance, int32_t& index, T other_distance, int32_t other_index) {
  if (other_distance > distance || (other_distance == distance && other_index < index)) {
    distance = other_distance;
    index = other_index;
  }
}

template <class T>
__device__ void farthest_of_warp(T& distance, int32_t& index) {
  for (int offset = warp / 2; offset; offset /= 2) {
    const T d = __shfl_xor_sync(all_lanes, distance, offset);
    const int32_t i = __shfl_xor_sync(all_lanes, index, offset);
    take_farther(distance, index, d, i);
  }
}

template <class T>
__global__ void prepare(View<T> view, T* distance, T* farthest, int32_t* farthest_index, int32_t* slot_of) {
  for (int64_t i = thread_id(); i < view.batch * view.slots; i += thread_count()) {  // a warp has one block of points
    const int64_t event = i / view.slots, slot = i % view.slots;
    const int32_t point = view.index[i];
    const T far = point >= 0 ? infinity<T>() : T(-1);  // -1: already chosen, or padding
    distance[i] = far;
    if (point >= 0) slot_of[event * view.slots + point] = int32_t(slot);
    T farthest_here = far;
    int32_t lowest = point >= 0 ? point : nobody;  // nothing is chosen yet, so every point is infinitely far
    farthest_of_warp(farthest_here, lowest);
    if (slot % warp) continue;
    farthest[event * view.blocks[0] + slot / warp] = farthest_here;
    farthest_index[event * view.blocks[0] + slot / warp] = lowest;
  }
}

// distance (B, slots); farthest and farthest_index (B, blocks[0]): one value per block, used by one lane only
template <class T>
__global__ void __launch_bounds__(sampling_threads)
    sample(View<T> view, const int64_t* k, const int64_t* start, int64_t width, T* distance, T* farthest,
           int32_t* farthest_index, const int32_t* slot_of, int64_t* out) {
  PUFFIN_SHARED(T[warp], part_distance);
  PUFFIN_SHARED(int32_t[warp], part_index);
  PUFFIN_SHARED(int32_t, next);
  const int lane = lane_id(), group = threadIdx.x / warp, groups = blockDim.x / warp;
  const int64_t event = blockIdx.x, n = view.size(event), blocks = (n + warp - 1) / warp;
  int64_t count = k[event] < n ? k[event] : n;
  count = count < width ? count : width;
  count = count < 0 ? 0 : count;
  int64_t* row = out + event * width;
  for (int64_t i = count + threadIdx.x; i < width; i += blockDim.x) row[i] = -1;
  if (count == 0) return;
  distance += event * view.slots;
  farthest += event * view.blocks[0];
  farthest_index += event * view.blocks[0];
  slot_of += event * view.slots;
  const T* x = view.x(event);
  const int32_t* index = view.indices(event);
  const int64_t first = start[event] < 0 ? 0 : start[event] < n ? start[event] : n - 1;
  int32_t chosen = int32_t(first);
  for (int64_t step = 0;; ++step) {
    if (threadIdx.x == 0) row[step] = chosen;
    if (step + 1 == count) return;
    const int64_t at = slot_of[chosen], home = at / warp;
    const T s[3] = {x[at], x[at + view.slots], x[at + 2 * view.slots]};
    T best = T(-1);
    int32_t best_index = nobody;
    for (int64_t base = int64_t(group) * warp; base < blocks; base += int64_t(groups) * warp) {
      const int64_t own = base + lane;
      T own_farthest = own < blocks ? farthest[own] : T(-1);
      int32_t own_index = own < blocks ? farthest_index[own] : nobody;
      const bool touched = own < blocks && (own == home || gap(s, view.box(0, event, own)) < own_farthest);
      for (unsigned m = __ballot_sync(all_lanes, touched); m; m &= m - 1) {
        const int owner = __ffs(m) - 1;
        const int64_t slot = (base + owner) * warp + lane;
        T d = T(-1);
        int32_t i = nobody;
        if (slot < n) {
          d = distance[slot];
          const T to_s = squared_distance(x[slot] - s[0], x[slot + view.slots] - s[1], x[slot + 2 * view.slots] - s[2]);
          d = slot == at ? T(-1) : to_s < d ? to_s : d;
          distance[slot] = d;
          i = index[slot];
        }
        farthest_of_warp(d, i);
        if (lane == owner) {
          own_farthest = farthest[own] = d;
          own_index = farthest_index[own] = i;
        }
      }
      take_farther(best, best_index, own_farthest, own_index);
    }
    farthest_of_warp(best, best_index);
    if (lane == 0) {
      part_distance[group] = best;
      part_index[group] = best_index;
    }
    __syncthreads();
    if (group == 0) {
      best = lane < groups ? part_distance[lane] : T(-1);
      best_index = lane < groups ? part_index[lane] : nobody;
      farthest_of_warp(best, best_index);
      if (lane == 0) next = best_index < n ? best_index : int32_t(first);  // `first` only if coordinates are not finite
    }
    __syncthreads();
    chosen = next;
  }
}

}  // namespace

Tensor farthest_point_sampling(const Tensor points_in, const Tensor lengths_in, const Tensor k_in,
                               const Tensor start_in, int64_t width) {
  check_points(points_in, "points");
  for (const Tensor& t : {lengths_in, k_in, start_in}) check_per_event(t, points_in, "lengths, k, start");
  const Scope scope(points_in);
  const Tensor points = torch::stable::contiguous(points_in), lengths = torch::stable::contiguous(lengths_in);
  const Tensor k = torch::stable::contiguous(k_in), start = torch::stable::contiguous(start_in);
  const int64_t batch = points.size(0);
  Tensor out = new_index(points, {batch, width});
  if (batch == 0 || width == 0) return out;
  for_float_type(points, [&](auto type) {
    using T = decltype(type);
    const Blocks<T> blocks(points, lengths, true, scope.stream);
    const View<T>& view = blocks.view;
    Tensor distance = new_tensor(points, {batch, view.slots}, points.scalar_type());
    Tensor farthest = new_tensor(points, {batch, view.blocks[0]}, points.scalar_type());
    Tensor farthest_index = new_tensor(points, {batch, view.blocks[0]}, ScalarType::Int);
    Tensor slot_of = new_tensor(points, {batch, view.slots}, ScalarType::Int);
    if (view.slots > 0) {
      PUFFIN_LAUNCH(prepare<T>, blocks_for(batch * view.slots), threads_per_block, scope.stream, view,
                    distance.mutable_data_ptr<T>(), farthest.mutable_data_ptr<T>(),
                    farthest_index.mutable_data_ptr<int32_t>(), slot_of.mutable_data_ptr<int32_t>());
    }
    PUFFIN_LAUNCH(
        sample<T>, unsigned(batch), sampling_threads, scope.stream, view, k.const_data_ptr<int64_t>(),
        start.const_data_ptr<int64_t>(), width, distance.mutable_data_ptr<T>(), farthest.mutable_data_ptr<T>(),
        farthest_index.mutable_data_ptr<int32_t>(), slot_of.const_data_ptr<int32_t>(), out.mutable_data_ptr<int64_t>());
  });
  return out;
}

}  // namespace puffin::cuda

PUFFIN_KERNELS(m) { m.impl("farthest_point_sampling", TORCH_BOX(&puffin::cuda::farthest_point_sampling)); }
