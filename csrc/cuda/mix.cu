// pair_mix on CUDA: the products, sums and activation of all pairs in one pass; defined in src/puffin/ops/pairs.py.
//
// A row of the products is an *entry*: a diagonal pair, or a pair i < j together with its transpose. So entry e has its
// first pair in row e of a packed feature, and its second in row e + U. The even product takes the sum of the two
// pairs, the odd one their difference: for a diagonal pair 2 x and 0.
#include "nodes.cuh"
#include "outer.cuh"
#include "tile.cuh"

namespace puffin::cuda {
namespace {

template <class T>
struct EvenOdd {
  T part[2];
};

// Positions of the entries of a batch, with the pointers of the events (B + 1).
struct Entries {
  const int64_t *node_ptr, *upper_ptr;
  int64_t events, nodes, uppers;

  __device__ bool diagonal(int64_t entry) const { return entry < nodes; }
  // Row of the second pair; that of a diagonal pair is the pair itself.
  __device__ int64_t mirror(int64_t entry) const { return diagonal(entry) ? entry : entry + uppers; }
  __device__ Ends ends(int64_t entry) const {
    if (diagonal(entry)) return {entry, entry};
    const Ends e = ends_of(entry - nodes, node_ptr, upper_ptr, events);
    const auto clamped = [this](int64_t node) { return node < 0 ? 0 : node >= nodes ? nodes - 1 : node; };
    return {clamped(e.i), clamped(e.j)};  // pointers that do not fit must not lead outside the memory
  }
};

// x (P, C), with C channels
template <class T>
__device__ EvenOdd<T> even_and_odd(const Entries& entries, const T* x, int64_t channels, int64_t entry, int64_t c) {
  const T a = x[entry * channels + c], b = x[entries.mirror(entry) * channels + c];
  return {{a + b, a - b}};
}

// The gradient before the activation, from the gradient and the result y (P, S) of the leaky ReLU.
template <class Number>
struct Activated {
  using T = Number;
  const T *grad, *y;
  T slope;
  __device__ T at(int64_t position) const {
    const T g = grad[position];
    return y[position] > T(0) ? g : g * slope;
  }
};

// Its sums and differences. For a diagonal pair the odd number is the gradient, not 0: it is multiplied by an odd input
// of 0, or not used.
template <class T>
__device__ EvenOdd<T> even_and_odd(const Entries& entries, const Activated<T>& g, int64_t channels, int64_t entry,
                                   int64_t s) {
  const T a = g.at(entry * channels + s);
  const T b = entries.diagonal(entry) ? T(0) : g.at(entries.mirror(entry) * channels + s);
  return {{a + b, a - b}};
}

template <class Number>
struct MixForward {
  using T = Number;
  using Value = EvenOdd<T>;
  using State = Nothing;
  static constexpr int parts = 2;
  static constexpr bool stored_by_columns = false;
  struct Notes {
    Ends ends[tile_most_rows];
  };

  Entries entries;
  const T *x, *even, *odd, *u, *v, *d;  // x (P, C); even, odd (C, S); u, v, d (N, S), d may be null
  T* y;                                 // (P, S)
  int64_t rows, inner, outer;
  T slope;

  __device__ Value left(int64_t entry, int64_t c) const { return even_and_odd(entries, x, inner, entry, c); }
  __device__ Value right(int64_t c, int64_t s) const { return {{even[c * outer + s], odd[c * outer + s]}}; }
  __device__ void note(Notes& notes, int r, int64_t entry) const { notes.ends[r] = entries.ends(entry); }

  __device__ void finish(const Products<T>& tile, const Notes& notes, State&) const {
    for_each_element<Value>(
        tile.height, tile.width,
        [&](int r, int c) {
          const int64_t i = notes.ends[r].i * outer + tile.first_column + c;
          const int64_t j = notes.ends[r].j * outer + tile.first_column + c;
          const T sum = tile.at(0, r, c), difference = tile.at(1, r, c);
          const T own = d && entries.diagonal(tile.first_row + r) ? d[i] : T(0);
          return Value{{sum + difference + (u[i] + v[j]) + own, sum - difference + (u[j] + v[i])}};
        },
        [&](int r, int c, const Value& value) {
          const int64_t entry = tile.first_row + r, column = tile.first_column + c;
          y[entry * outer + column] = larger(value.part[0], value.part[0] * slope);  // leaky ReLU, since slope <= 1
          if (!entries.diagonal(entry))
            y[entries.mirror(entry) * outer + column] = larger(value.part[1], value.part[1] * slope);
        });
  }
  __device__ void end(Notes&, const State&, int64_t, int, int64_t) const {}
};

// The gradient of x: that before the activation, times the transposed matrices.
template <class Number>
struct MixBackward {
  using T = Number;
  using Value = EvenOdd<T>;
  using State = Nothing;
  using Notes = Nothing;
  static constexpr int parts = 2;
  static constexpr bool stored_by_columns = true;

  Entries entries;
  Activated<T> grad;           // (P, S)
  const T *even, *odd;         // (C, S)
  T* grad_x;                   // (P, C)
  int64_t rows, inner, outer;  // inner: S, outer: C

  __device__ Value left(int64_t entry, int64_t s) const { return even_and_odd(entries, grad, inner, entry, s); }
  __device__ Value right(int64_t s, int64_t c) const { return {{even[c * inner + s], odd[c * inner + s]}}; }
  __device__ void note(Notes&, int, int64_t) const {}

  __device__ void finish(const Products<T>& tile, const Notes&, State&) const {
    for_each_element<Value>(
        tile.height, tile.width, [&](int r, int c) { return Value{{tile.at(0, r, c), tile.at(1, r, c)}}; },
        [&](int r, int c, const Value& value) {
          const int64_t entry = tile.first_row + r, column = tile.first_column + c;
          const T p = value.part[0], q = entries.diagonal(entry) ? p : value.part[1];
          grad_x[entry * outer + column] = p + q;
          if (!entries.diagonal(entry)) grad_x[entries.mirror(entry) * outer + column] = p - q;
        });
  }
  __device__ void end(Notes&, const State&, int64_t, int, int64_t) const {}
};

// The gradients of the two matrices: sums over all entries.
template <class Number>
struct MixWeights {
  using T = Number;
  using Value = EvenOdd<T>;
  static constexpr int parts = 2;

  Entries entries;
  const T* x;                                 // (P, C)
  Activated<T> grad;                          // (P, S)
  T *grad_even, *grad_odd;                    // (C, S)
  int64_t rows, left_columns, right_columns;  // C, S

  __device__ Value left(int64_t entry, int64_t c) const { return even_and_odd(entries, x, left_columns, entry, c); }
  __device__ Value right(int64_t entry, int64_t s) const {
    return even_and_odd(entries, grad, right_columns, entry, s);
  }
  __device__ void store(int part, int64_t c, int64_t s, T value) const {
    (part ? grad_odd : grad_even)[c * right_columns + s] = value;
  }
};

Entries entries_of(const Tensor& node_ptr, const Tensor& upper_ptr, int64_t nodes, int64_t rows) {
  return {node_ptr.const_data_ptr<int64_t>(), upper_ptr.const_data_ptr<int64_t>(), node_ptr.size(0) - 1, nodes,
          (rows - nodes) / 2};
}

void check_rows(const Tensor& x, int64_t nodes) {
  STD_TORCH_CHECK(x.dim() == 2 && nodes >= 0 && nodes <= x.size(0) && (x.size(0) - nodes) % 2 == 0,
                  "x: expected num_nodes + 2 num_upper rows");
  check_floating(x, "x");
}

}  // namespace

Tensor pair_mix(const Tensor x_in, const Tensor even_in, const Tensor odd_in, const Tensor u_in, const Tensor v_in,
                const std::optional<Tensor> d_in, const Tensor node_ptr, const Tensor upper_ptr, double slope) {
  STD_TORCH_CHECK(even_in.dim() == 2 && u_in.dim() == 2, "even, u: expected matrices");
  const int64_t nodes = u_in.size(0), in = even_in.size(0), out = even_in.size(1);
  check_rows(x_in, nodes);
  check_like(x_in, x_in, x_in.size(0), in, "x");
  check_like(even_in, x_in, in, out, "even");
  check_like(odd_in, x_in, in, out, "odd");
  check_like(u_in, x_in, nodes, out, "u");
  check_like(v_in, x_in, nodes, out, "v");
  if (d_in) check_like(*d_in, x_in, nodes, out, "w");
  check_ptr(node_ptr, upper_ptr, x_in);
  STD_TORCH_CHECK(slope >= 0 && slope <= 1, "slope: expected 0..1, got ", slope);
  const Scope scope(x_in);
  const Tensor x = torch::stable::contiguous(x_in), even = torch::stable::contiguous(even_in);
  const Tensor odd = torch::stable::contiguous(odd_in), u = torch::stable::contiguous(u_in);
  const Tensor v = torch::stable::contiguous(v_in);
  const std::optional<Tensor> d = contiguous(d_in);
  Tensor y = new_tensor(x, {x.size(0), out}, x.scalar_type());
  if (y.numel() == 0) return y;
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    const Entries entries = entries_of(node_ptr, upper_ptr, nodes, x.size(0));
    const MixForward<T> job{
        entries,
        x.const_data_ptr<T>(),
        even.const_data_ptr<T>(),
        odd.const_data_ptr<T>(),
        u.const_data_ptr<T>(),
        v.const_data_ptr<T>(),
        data_or_null<T>(d),
        y.mutable_data_ptr<T>(),
        nodes + entries.uppers,
        in,
        out,
        T(slope)};
    const TilePlan plan = plan_tiles(job);
    PUFFIN_LAUNCH(multiply_tiles<MixForward<T>>, plan.blocks, tile_threads, scope.stream, job, plan);
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> pair_mix_backward(
    const Tensor grad_in, const Tensor y_in, const Tensor x_in, const Tensor even_in, const Tensor odd_in,
    const Tensor node_ptr, const Tensor upper_ptr, int64_t nodes, double slope) {
  check_rows(x_in, nodes);
  STD_TORCH_CHECK(even_in.dim() == 2, "even: expected a matrix");
  const int64_t pairs = x_in.size(0), in = even_in.size(0), out = even_in.size(1);
  check_like(x_in, x_in, pairs, in, "x");
  check_like(grad_in, x_in, pairs, out, "grad");
  check_like(y_in, x_in, pairs, out, "y");
  check_like(even_in, x_in, in, out, "even");
  check_like(odd_in, x_in, in, out, "odd");
  check_ptr(node_ptr, upper_ptr, x_in);
  const Scope scope(x_in);
  const Tensor x = torch::stable::contiguous(x_in), y = torch::stable::contiguous(y_in);
  const Tensor grad = torch::stable::contiguous(grad_in);
  const Tensor even = torch::stable::contiguous(even_in), odd = torch::stable::contiguous(odd_in);
  Tensor grad_x = torch::stable::empty_like(x);
  Tensor grad_even = torch::stable::empty_like(even), grad_odd = torch::stable::empty_like(odd);
  Tensor rows = new_tensor(x, {nodes, out}, x.scalar_type());
  Tensor columns = torch::stable::empty_like(rows), diagonal = torch::stable::empty_like(rows);
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    const Entries entries = entries_of(node_ptr, upper_ptr, nodes, pairs);
    const int64_t count = nodes + entries.uppers;
    const Activated<T> before{grad.const_data_ptr<T>(), y.const_data_ptr<T>(), T(slope)};
    const T *e = even.const_data_ptr<T>(), *o = odd.const_data_ptr<T>();
    if (grad_x.numel() > 0) {
      const MixBackward<T> job{entries, before, e, o, grad_x.mutable_data_ptr<T>(), count, out, in};
      const TilePlan plan = plan_tiles(job);
      PUFFIN_LAUNCH(multiply_tiles<MixBackward<T>>, plan.blocks, tile_threads, scope.stream, job, plan);
    }
    const MixWeights<T> job{
        entries,
        x.const_data_ptr<T>(),
        before,
        grad_even.mutable_data_ptr<T>(),
        grad_odd.mutable_data_ptr<T>(),
        count,
        in,
        out};
    sum_outer_products(job, x, scope);
    if (rows.numel() > 0)
      PUFFIN_LAUNCH(
          reduce_nodes<Activated<T>>, blocks_for(nodes * warp), threads_per_block, scope.stream, before,
          static_cast<const T*>(nullptr), entries.node_ptr, entries.upper_ptr, entries.events, nodes, entries.uppers,
          out, diagonal.mutable_data_ptr<T>(), rows.mutable_data_ptr<T>(), columns.mutable_data_ptr<T>());
  });
  return {grad_x, grad_even, grad_odd, rows, columns, diagonal};
}

}  // namespace puffin::cuda

PUFFIN_KERNELS(m) {
  m.impl("pair_mix", TORCH_BOX(&puffin::cuda::pair_mix));
  m.impl("pair_mix_backward", TORCH_BOX(&puffin::cuda::pair_mix_backward));
}
