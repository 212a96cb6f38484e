// Means and squared deviations of columns, merged by Chan's formula (Chan, Golub, LeVeque 1979), in double.
#pragma once

#include "device.cuh"

namespace puffin::cuda {

struct Moments {                   // without initialisers, which shared memory does not allow; Moments{} is empty
  double count, mean, deviations;  // deviations: sum of the squared deviations from the mean

  __device__ void merge(const Moments& more) {
    const double total = count + more.count;
    if (total == 0) return;
    const double share = more.count / total, delta = more.mean - mean;
    mean += delta * share;
    deviations += more.deviations + delta * delta * count * share;
    count = total;
  }
};

constexpr int64_t moments_doubles = sizeof(Moments) / sizeof(double);

// Mean and biased variance (columns) of partial (parts, columns); 0 without parts. A warp merges one column: each lane
// every 32nd part, then the lanes in pairs.
template <class T>
__global__ void merge_moments(const Moments* partial, int64_t parts, int64_t columns, T* mean, T* variance) {
  for (int64_t c = thread_id() / warp; c < columns; c += thread_count() / warp) {
    Moments total{};
    for (int64_t p = lane_id(); p < parts; p += warp) total.merge(partial[p * columns + c]);
    for (int by = warp / 2; by > 0; by /= 2) {
      total.merge({__shfl_down_sync(all_lanes, total.count, by), __shfl_down_sync(all_lanes, total.mean, by),
                   __shfl_down_sync(all_lanes, total.deviations, by)});
    }
    if (lane_id() > 0) continue;
    mean[c] = T(total.mean);
    variance[c] = total.count > 0 ? T(total.deviations / total.count) : T(0);
  }
}

}  // namespace puffin::cuda
