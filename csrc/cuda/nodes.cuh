// Positions of nodes and pairs in packed features (src/puffin/ops/pairs.py), sums over the pairs of a node, and checks:
// what the kernels of pairs on CUDA have in common.
#pragma once

#include "device.cuh"

namespace puffin::cuda {

// The last event that starts at or before a node or pair; start (B + 1).
__device__ inline int64_t event_of(int64_t at, const int64_t* start, int64_t events) {
  int64_t low = 0, high = events;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (start[middle] <= at)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// Position of a node: its event, and its number within the event. The pointers (B + 1) hold the first node and the
// first pair of each event.
struct Place {
  int64_t first_node, first_upper, size;  // of the event
  int64_t local;                          // number of the node within the event

  // Row of pair (a, b), a < b, in the block of pairs above the diagonal; a and b are local numbers.
  __device__ int64_t upper(int64_t a, int64_t b) const {
    return first_upper + a * (2 * size - a - 1) / 2 + (b - a - 1);
  }
};

__device__ inline Place place_of(int64_t node, const int64_t* node_ptr, const int64_t* upper_ptr, int64_t events) {
  const int64_t event = event_of(node, node_ptr, events);
  return {node_ptr[event], upper_ptr[event], node_ptr[event + 1] - node_ptr[event], node - node_ptr[event]};
}

// Nodes i < j of a pair above the diagonal. Row i of an event of n nodes starts at pair i (2 n - i - 1) / 2 of the
// event.
struct Ends {
  int64_t i, j;
};

__device__ inline Ends ends_of(int64_t pair, const int64_t* node_ptr, const int64_t* upper_ptr, int64_t events) {
  const int64_t event = event_of(pair, upper_ptr, events), first = node_ptr[event], size = node_ptr[event + 1] - first;
  const int64_t local = pair - upper_ptr[event];
  int64_t low = 0, high = size - 1;  // a search in integers is exact, unlike the root of the quadratic equation
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (middle * (2 * size - middle - 1) / 2 <= local)
      low = middle;
    else
      high = middle;
  }
  return {first + low, first + low + 1 + local - low * (2 * size - low - 1) / 2};
}

// Diagonal, row sums and column sums of a feature, whose number at a position is feature.at(position).
template <class Feature>
__global__ void reduce_nodes(const Feature feature, const typename Feature::T* weights, const int64_t* node_ptr,
                             const int64_t* upper_ptr, int64_t events, int64_t nodes, int64_t uppers, int64_t channels,
                             typename Feature::T* diagonal, typename Feature::T* rows, typename Feature::T* columns) {
  using T = typename Feature::T;
  const int64_t warps = thread_count() / warp;
  for (int64_t node = thread_id() / warp; node < nodes; node += warps) {
    const Place at = place_of(node, node_ptr, upper_ptr, events);
    const int64_t upper = nodes * channels, lower = upper + uppers * channels;
    for (int64_t c = lane_id(); c < channels; c += warp) {
      const T own = feature.at(node * channels + c);
      T row = T(0), column = T(0);
      for (int64_t j = 0; j < at.size; ++j) {
        const T w = weights ? weights[at.first_node + j] : T(1);
        T a = own, b = own;  // x_ij and x_ji
        if (j != at.local) {
          const bool above = at.local < j;
          const int64_t p = (above ? at.upper(at.local, j) : at.upper(j, at.local)) * channels + c;
          a = feature.at((above ? upper : lower) + p);
          b = feature.at((above ? lower : upper) + p);
        }
        row += w * a;
        column += w * b;
      }
      diagonal[node * channels + c] = own;
      rows[node * channels + c] = row;
      columns[node * channels + c] = column;
    }
  }
}

inline void check_like(const Tensor& x, const Tensor& like, int64_t rows, int64_t channels, const char* name) {
  STD_TORCH_CHECK(x.dim() == 2 && x.size(0) == rows && x.size(1) == channels && x.device() == like.device() &&
                      x.scalar_type() == like.scalar_type(),
                  name, ": expected (", rows, ", ", channels, ") with dtype and device of the rest");
}

inline void check_ptr(const Tensor& node_ptr, const Tensor& upper_ptr, const Tensor& like) {
  for (const Tensor& t : {node_ptr, upper_ptr})
    STD_TORCH_CHECK(t.dim() == 1 && t.size(0) == node_ptr.size(0) && t.size(0) > 0 && t.is_contiguous() &&
                        t.scalar_type() == ScalarType::Long && t.device() == like.device(),
                    "node_ptr, upper_ptr: expected contiguous (B + 1,) int64 on the device of the features");
}

inline void check_weights(const std::optional<Tensor>& weights, const Tensor& like, int64_t nodes) {
  if (weights)
    STD_TORCH_CHECK(weights->dim() == 1 && weights->size(0) == nodes && weights->device() == like.device() &&
                        weights->scalar_type() == like.scalar_type(),
                    "weights: expected one number of the features' dtype for each node");
}

}  // namespace puffin::cuda
