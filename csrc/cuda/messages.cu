// Linear layer, leaky ReLU and batch statistics on CUDA, in one pass; defined in src/puffin/ops/messages.py.
//
// Each thread keeps the mean and the squared deviations of its rows of one column, tile after tile (Chan's formula, in
// double). The threads of a block, and then the blocks, are merged in a fixed order, so results are reproducible.
#include "moments.cuh"
#include "outer.cuh"
#include "tile.cuh"

namespace puffin::cuda {
namespace {

template <class Number>
struct MessageForward {
  using T = Number;
  using Value = One<T>;
  using State = Moments;
  static constexpr int parts = 1;
  static constexpr bool stored_by_columns = true;
  struct Notes {
    Moments moments[tile_threads];
  };

  const T *x, *weight, *bias;  // (M, C), (S, C), (S)
  T* y;                        // (M, S)
  Moments* partial;            // (blocks, S)
  int64_t rows, inner, outer;
  T slope;

  __device__ Value left(int64_t row, int64_t c) const { return {{x[row * inner + c]}}; }
  __device__ Value right(int64_t c, int64_t s) const { return {{weight[s * inner + c]}}; }
  __device__ void note(Notes&, int, int64_t) const {}

  // Neighbouring threads take neighbouring columns; each keeps its column, and every slices-th row.
  __device__ void finish(const Products<T>& tile, const Notes&, State& state) const {
    const int c = threadIdx.x % tile.width, first = threadIdx.x / tile.width, slices = tile_threads / tile.width;
    if (first >= slices || first >= tile.height) return;
    const T shift = bias[tile.first_column + c];
    const auto value = [&](int r) {
      const T before = tile.at(0, r, c) + shift;
      return larger(before, before * slope);  // leaky ReLU, since slope <= 1
    };
    T sum = T(0), deviations = T(0);
    for (int r = first; r < tile.height; r += slices) {
      const T own = value(r);
      y[(tile.first_row + r) * outer + tile.first_column + c] = own;
      sum += own;
    }
    const int count = (tile.height - first + slices - 1) / slices;
    const T mean = sum / T(count);
    for (int r = first; r < tile.height; r += slices) {  // again: deviations from the mean lose no digits
      const T deviation = value(r) - mean;
      deviations += deviation * deviation;
    }
    state.merge({double(count), double(mean), double(deviations)});
  }

  __device__ void end(Notes& notes, const State& state, int64_t first_column, int width, int64_t slot) const {
    notes.moments[threadIdx.x] = state;
    __syncthreads();
    if (int(threadIdx.x) >= width) return;
    Moments total = state;
    for (int slice = 1; slice < tile_threads / width; ++slice) total.merge(notes.moments[slice * width + threadIdx.x]);
    partial[slot * outer + first_column + threadIdx.x] = total;
  }
};

// The gradient before the activation: (g + offset + (y - mean) factor) leaky'(y). All (M, S) or (S).
template <class T>
struct BeforeActivation {
  const T *grad, *y, *mean, *offset, *factor;
  T slope;
  __device__ One<T> at(int64_t row, int64_t s, int64_t columns) const {
    const T own = y[row * columns + s];
    const T value = grad[row * columns + s] + (offset[s] + (own - mean[s]) * factor[s]);
    return {{own > T(0) ? value : value * slope}};
  }
};

template <class Number>
struct MessageBackward {
  using T = Number;
  using Value = One<T>;
  using State = Nothing;
  using Notes = Nothing;
  static constexpr int parts = 1;
  static constexpr bool stored_by_columns = false;

  BeforeActivation<T> grad;
  const T* weight;             // (S, C)
  T* grad_x;                   // (M, C)
  int64_t rows, inner, outer;  // inner: S, outer: C

  __device__ Value left(int64_t row, int64_t s) const { return grad.at(row, s, inner); }
  __device__ Value right(int64_t s, int64_t c) const { return {{weight[s * outer + c]}}; }
  __device__ void note(Notes&, int, int64_t) const {}
  __device__ void finish(const Products<T>& tile, const Notes&, State&) const { store_products(tile, grad_x, outer); }
  __device__ void end(Notes&, const State&, int64_t, int, int64_t) const {}
};

// The gradients of weight and bias: the bias is the weight of one more channel of x, which is always 1.
template <class Number>
struct MessageWeights {
  using T = Number;
  using Value = One<T>;
  static constexpr int parts = 1;

  const T* x;  // (M, C)
  BeforeActivation<T> grad;
  T *grad_weight, *grad_bias;                 // (S, C), (S)
  int64_t rows, left_columns, right_columns;  // C + 1, S

  __device__ Value left(int64_t row, int64_t c) const {
    return {{c + 1 == left_columns ? T(1) : x[row * (left_columns - 1) + c]}};
  }
  __device__ Value right(int64_t row, int64_t s) const { return grad.at(row, s, right_columns); }
  __device__ void store(int, int64_t c, int64_t s, T value) const {
    if (c + 1 == left_columns)
      grad_bias[s] = value;
    else
      grad_weight[s * (left_columns - 1) + c] = value;
  }
};

void check_matrix(const Tensor& x, const Tensor& like, int64_t rows, int64_t columns, const char* name) {
  STD_TORCH_CHECK(
      x.dim() == 2 && x.size(0) == rows && x.size(1) == columns, name, ": expected (", rows, ", ", columns, ")");
  check_floating(x, name);
  STD_TORCH_CHECK(x.scalar_type() == like.scalar_type() && x.device() == like.device(), name,
                  ": expected dtype and device of the rest");
}

void check_vector(const Tensor& x, const Tensor& like, int64_t size, const char* name) {
  STD_TORCH_CHECK(
      x.dim() == 1 && x.size(0) == size && x.scalar_type() == like.scalar_type() && x.device() == like.device(), name,
      ": expected (", size, ",) with dtype and device of the rest");
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> message(const Tensor x_in, const Tensor weight_in, const Tensor bias_in,
                                           double slope) {
  STD_TORCH_CHECK(x_in.dim() == 2 && weight_in.dim() == 2, "x, weight: expected matrices");
  const int64_t rows = x_in.size(0), out = weight_in.size(0), in = weight_in.size(1);
  check_matrix(x_in, x_in, rows, in, "x");
  check_matrix(weight_in, x_in, out, in, "weight");
  check_vector(bias_in, x_in, out, "bias");
  STD_TORCH_CHECK(slope >= 0 && slope <= 1, "slope: expected 0..1, got ", slope);
  const Scope scope(x_in);
  const Tensor x = torch::stable::contiguous(x_in), weight = torch::stable::contiguous(weight_in);
  const Tensor bias = torch::stable::contiguous(bias_in);
  Tensor y = new_tensor(x, {rows, out}, x.scalar_type());
  Tensor mean = new_tensor(x, {out}, x.scalar_type()), variance = new_tensor(x, {out}, x.scalar_type());
  if (out == 0) return {y, mean, variance};
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    MessageForward<T> job{
        x.const_data_ptr<T>(),
        weight.const_data_ptr<T>(),
        bias.const_data_ptr<T>(),
        y.mutable_data_ptr<T>(),
        nullptr,
        rows,
        in,
        out,
        T(slope)};
    const TilePlan plan = plan_tiles(job);
    const int64_t blocks = plan.blocks / plan.column_chunks;  // for each column
    Tensor partial = new_tensor(x, {blocks, out, moments_doubles}, ScalarType::Double);
    job.partial = reinterpret_cast<Moments*>(partial.mutable_data_ptr<double>());
    if (rows > 0) PUFFIN_LAUNCH(multiply_tiles<MessageForward<T>>, plan.blocks, tile_threads, scope.stream, job, plan);
    PUFFIN_LAUNCH(merge_moments<T>, blocks_for(out * warp), threads_per_block, scope.stream, job.partial, blocks, out,
                  mean.mutable_data_ptr<T>(), variance.mutable_data_ptr<T>());
  });
  return {y, mean, variance};
}

std::tuple<Tensor, Tensor, Tensor> message_backward(const Tensor grad_in, const Tensor y_in, const Tensor x_in,
                                                    const Tensor weight_in, const Tensor mean_in,
                                                    const Tensor offset_in, const Tensor factor_in, double slope) {
  STD_TORCH_CHECK(x_in.dim() == 2 && weight_in.dim() == 2, "x, weight: expected matrices");
  const int64_t rows = x_in.size(0), out = weight_in.size(0), in = weight_in.size(1);
  check_matrix(x_in, x_in, rows, in, "x");
  check_matrix(weight_in, x_in, out, in, "weight");
  check_matrix(grad_in, x_in, rows, out, "grad");
  check_matrix(y_in, x_in, rows, out, "y");
  check_vector(mean_in, x_in, out, "mean");
  check_vector(offset_in, x_in, out, "offset");
  check_vector(factor_in, x_in, out, "factor");
  const Scope scope(x_in);
  const Tensor x = torch::stable::contiguous(x_in), y = torch::stable::contiguous(y_in);
  const Tensor grad = torch::stable::contiguous(grad_in), weight = torch::stable::contiguous(weight_in);
  const Tensor mean = torch::stable::contiguous(mean_in), offset = torch::stable::contiguous(offset_in);
  const Tensor factor = torch::stable::contiguous(factor_in);
  Tensor grad_x = torch::stable::empty_like(x), grad_weight = torch::stable::empty_like(weight);
  Tensor grad_bias = new_tensor(x, {out}, x.scalar_type());
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    const BeforeActivation<T> before{grad.const_data_ptr<T>(),   y.const_data_ptr<T>(),      mean.const_data_ptr<T>(),
                                     offset.const_data_ptr<T>(), factor.const_data_ptr<T>(), T(slope)};
    if (grad_x.numel() > 0) {
      const MessageBackward<T> job{before, weight.const_data_ptr<T>(), grad_x.mutable_data_ptr<T>(), rows, out, in};
      const TilePlan plan = plan_tiles(job);
      PUFFIN_LAUNCH(multiply_tiles<MessageBackward<T>>, plan.blocks, tile_threads, scope.stream, job, plan);
    }
    const MessageWeights<T> job{
        x.const_data_ptr<T>(),
        before,
        grad_weight.mutable_data_ptr<T>(),
        grad_bias.mutable_data_ptr<T>(),
        rows,
        in + 1,
        out};
    sum_outer_products(job, x, scope);
  });
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace puffin::cuda

PUFFIN_KERNELS(m) {
  m.impl("message", TORCH_BOX(&puffin::cuda::message));
  m.impl("message_backward", TORCH_BOX(&puffin::cuda::message_backward));
}
