// Packed pairs on CUDA; defined in src/puffin/ops/pairs.py. One warp works on one node, its lanes on the channels:
// every memory access is coalesced, and every sum runs in the order of the nodes, so results are reproducible.
// pair_mix is in mix.cu.
#include "nodes.cuh"

namespace puffin::cuda {
namespace {

// A stored feature.
template <class Number>
struct Stored {
  using T = Number;
  const T* x;
  __device__ T at(int64_t position) const { return x[position]; }
};

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
    const Stored<T> feature{x.const_data_ptr<T>()};
    PUFFIN_LAUNCH(reduce_nodes<Stored<T>>, blocks_for(nodes * warp), threads_per_block, scope.stream, feature,
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
