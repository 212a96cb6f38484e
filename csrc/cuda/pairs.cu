// Packed pairs on CUDA; defined in src/puffin/ops/pairs.py. One warp works on one node, its lanes on the channels:
// every memory access is coalesced, and every sum runs in the order of the nodes, so results are reproducible. There is
// no pair_mix for CUDA: PyTorch's matrix products are faster there.
#include "device.cuh"

namespace puffin::cuda {
namespace {

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
  int64_t low = 0, high = events;  // the last event that starts at or before the node
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (node_ptr[middle] <= node)
      low = middle;
    else
      high = middle;
  }
  return {node_ptr[low], upper_ptr[low], node_ptr[low + 1] - node_ptr[low], node - node_ptr[low]};
}

template <class T>
__global__ void reduce_nodes(const T* x, const T* weights, const int64_t* node_ptr, const int64_t* upper_ptr,
                             int64_t events, int64_t nodes, int64_t uppers, int64_t channels, T* diagonal, T* rows,
                             T* columns) {
  const int64_t warps = thread_count() / warp;
  for (int64_t node = thread_id() / warp; node < nodes; node += warps) {
    const Place at = place_of(node, node_ptr, upper_ptr, events);
    const T *upper = x + nodes * channels, *lower = upper + uppers * channels;
    for (int64_t c = lane_id(); c < channels; c += warp) {
      const T own = x[node * channels + c];
      T row = T(0), column = T(0);
      for (int64_t j = 0; j < at.size; ++j) {
        const T w = weights ? weights[at.first_node + j] : T(1);
        T a = own, b = own;  // x_ij and x_ji
        if (j != at.local) {
          const bool above = at.local < j;
          const int64_t p = (above ? at.upper(at.local, j) : at.upper(j, at.local)) * channels + c;
          a = above ? upper[p] : lower[p];
          b = above ? lower[p] : upper[p];
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

template <class T>
__global__ void expand_nodes(const T* u, const T* v, const T* d, const T* weights, const T* base,
                             const int64_t* node_ptr, const int64_t* upper_ptr, int64_t events, int64_t nodes,
                             int64_t uppers, int64_t channels, T* out) {
  const int64_t warps = thread_count() / warp, above = nodes * channels, below = above + uppers * channels;
  for (int64_t node = thread_id() / warp; node < nodes; node += warps) {
    const Place at = place_of(node, node_ptr, upper_ptr, events);
    const T wi = weights ? weights[node] : T(1);
    const auto write = [&](int64_t p, T value) { out[p] = base ? base[p] + value : value; };
    for (int64_t c = lane_id(); c < channels; c += warp) {
      const T ui = u[node * channels + c], vi = v[node * channels + c];
      write(node * channels + c, ui * wi + vi * wi + (d ? d[node * channels + c] : T(0)));
      for (int64_t j = at.local + 1; j < at.size; ++j) {
        const int64_t other = at.first_node + j, p = at.upper(at.local, j) * channels + c;
        const T wj = weights ? weights[other] : T(1);
        write(above + p, ui * wj + v[other * channels + c] * wi);
        write(below + p, u[other * channels + c] * wi + vi * wj);
      }
    }
  }
}

void check_like(const Tensor& x, const Tensor& like, int64_t rows, int64_t channels, const char* name) {
  STD_TORCH_CHECK(x.dim() == 2 && x.size(0) == rows && x.size(1) == channels && x.device() == like.device() &&
                      x.scalar_type() == like.scalar_type(),
                  name, ": expected (", rows, ", ", channels, ") with dtype and device of the rest");
}

void check_ptr(const Tensor& node_ptr, const Tensor& upper_ptr, const Tensor& like) {
  for (const Tensor& t : {node_ptr, upper_ptr})
    STD_TORCH_CHECK(t.dim() == 1 && t.size(0) == node_ptr.size(0) && t.size(0) > 0 && t.is_contiguous() &&
                        t.scalar_type() == ScalarType::Long && t.device() == like.device(),
                    "node_ptr, upper_ptr: expected contiguous (B + 1,) int64 on the device of the features");
}

void check_weights(const std::optional<Tensor>& weights, const Tensor& like, int64_t nodes) {
  if (weights)
    STD_TORCH_CHECK(weights->dim() == 1 && weights->size(0) == nodes && weights->device() == like.device() &&
                        weights->scalar_type() == like.scalar_type(),
                    "weights: expected one number of the features' dtype for each node");
}

}  // namespace

// The caller passes the number of nodes: reading it from node_ptr would make the host wait for the device.
std::tuple<Tensor, Tensor, Tensor> pair_reduce(const Tensor x_in, const std::optional<Tensor> weights_in,
                                               const Tensor node_ptr, const Tensor upper_ptr, int64_t nodes) {
  STD_TORCH_CHECK(x_in.dim() == 2 && nodes >= 0 && nodes <= x_in.size(0) && (x_in.size(0) - nodes) % 2 == 0,
                  "x: expected num_nodes + 2 num_upper rows");
  check_ptr(node_ptr, upper_ptr, x_in);
  check_weights(weights_in, x_in, nodes);
  const Scope scope(x_in);
  const Tensor x = torch::stable::contiguous(x_in);
  const std::optional<Tensor> weights = contiguous(weights_in);
  const int64_t channels = x.size(1), uppers = (x.size(0) - nodes) / 2;
  Tensor diagonal = new_tensor(x, {nodes, channels}, x.scalar_type());
  Tensor rows = torch::stable::empty_like(diagonal), columns = torch::stable::empty_like(diagonal);
  if (diagonal.numel() == 0) return {diagonal, rows, columns};
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    PUFFIN_LAUNCH(reduce_nodes<T>, blocks_for(nodes * warp), threads_per_block, scope.stream, x.const_data_ptr<T>(),
                  data_or_null<T>(weights), node_ptr.const_data_ptr<int64_t>(), upper_ptr.const_data_ptr<int64_t>(),
                  node_ptr.size(0) - 1, nodes, uppers, channels, diagonal.mutable_data_ptr<T>(),
                  rows.mutable_data_ptr<T>(), columns.mutable_data_ptr<T>());
  });
  return {diagonal, rows, columns};
}

Tensor pair_expand(const Tensor u_in, const Tensor v_in, const std::optional<Tensor> d_in,
                   const std::optional<Tensor> weights_in, const std::optional<Tensor> base_in, const Tensor node_ptr,
                   const Tensor upper_ptr, int64_t uppers) {
  STD_TORCH_CHECK(u_in.dim() == 2 && uppers >= 0, "u: expected (N, C)");
  const int64_t nodes = u_in.size(0), channels = u_in.size(1);
  check_like(v_in, u_in, nodes, channels, "v");
  if (d_in) check_like(*d_in, u_in, nodes, channels, "w");
  if (base_in) check_like(*base_in, u_in, nodes + 2 * uppers, channels, "base");
  check_ptr(node_ptr, upper_ptr, u_in);
  check_weights(weights_in, u_in, nodes);
  const Scope scope(u_in);
  const Tensor u = torch::stable::contiguous(u_in), v = torch::stable::contiguous(v_in);
  const std::optional<Tensor> d = contiguous(d_in), weights = contiguous(weights_in), base = contiguous(base_in);
  Tensor out = new_tensor(u, {nodes + 2 * uppers, channels}, u.scalar_type());
  if (out.numel() == 0) return out;
  for_float_type(u, [&](auto type) {
    using T = decltype(type);
    PUFFIN_LAUNCH(expand_nodes<T>, blocks_for(nodes * warp), threads_per_block, scope.stream, u.const_data_ptr<T>(),
                  v.const_data_ptr<T>(), data_or_null<T>(d), data_or_null<T>(weights), data_or_null<T>(base),
                  node_ptr.const_data_ptr<int64_t>(), upper_ptr.const_data_ptr<int64_t>(), node_ptr.size(0) - 1, nodes,
                  uppers, channels, out.mutable_data_ptr<T>());
  });
  return out;
}

}  // namespace puffin::cuda

PUFFIN_KERNELS(m) {
  m.impl("pair_reduce", TORCH_BOX(&puffin::cuda::pair_reduce));
  m.impl("pair_expand", TORCH_BOX(&puffin::cuda::pair_expand));
}
