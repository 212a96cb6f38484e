// Sparse convolutions on CUDA; defined in src/puffin/ops/sparse_conv.py. A row of the left factor holds the inputs of
// all offsets of an output side by side, with zeros where there is none; no such table is in global memory.
#include "outer.cuh"
#include "tile.cuh"

namespace puffin::cuda {
namespace {

// The inputs (rows, offsets channels) that a table, stored by columns (offsets, rows), finds in x (inputs, channels).
template <class T>
struct Found {
  const T* x;
  const int32_t* table;
  int64_t inputs, rows;
  int channels;
  __device__ One<T> at(int64_t row, int64_t column) const {
    const int k = int(column) / channels;
    const int64_t input = table[k * rows + row];
    return {{input >= 0 && input < inputs ? x[input * channels + int(column) - k * channels] : T(0)}};
  }
};

template <class Number>
struct Convolution {
  using T = Number;
  using Value = One<T>;
  using State = Nothing;
  using Notes = Nothing;
  static constexpr int parts = 1;
  static constexpr bool stored_by_columns = false;

  Found<T> found;
  const T* weight;  // (offsets channels, outer)
  T* y;             // (rows, outer)
  int64_t rows, inner, outer;

  __device__ Value left(int64_t row, int64_t k) const { return found.at(row, k); }
  __device__ Value right(int64_t k, int64_t c) const { return {{weight[k * outer + c]}}; }
  __device__ void note(Notes&, int, int64_t) const {}
  __device__ void finish(const Products<T>& tile, const Notes&, State&) const { store_products(tile, y, outer); }
  __device__ void end(Notes&, const State&, int64_t, int, int64_t) const {}
};

template <class Number>
struct ConvolutionWeights {
  using T = Number;
  using Value = One<T>;
  static constexpr int parts = 1;

  Found<T> found;
  const T* grad;  // (rows, right_columns)
  T* result;      // (left_columns, right_columns)
  int64_t rows, left_columns, right_columns;

  __device__ Value left(int64_t row, int64_t k) const { return found.at(row, k); }
  __device__ Value right(int64_t row, int64_t c) const { return {{grad[row * right_columns + c]}}; }
  __device__ void store(int, int64_t k, int64_t c, T value) const { result[k * right_columns + c] = value; }
};

void check_features(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() == 2, name, ": expected (rows, channels)");
  check_floating(x, name);
}

void check_table(const Tensor& table, const Tensor& like, int64_t channels) {
  STD_TORCH_CHECK(table.dim() == 2 && table.scalar_type() == ScalarType::Int && table.device() == like.device() &&
                      table.size(1) * channels < INT32_MAX,
                  "table: expected (T, K) int32 on the device of x");
}

template <class T>
Found<T> found_in(const Tensor& x, const Tensor& table) {
  return {x.const_data_ptr<T>(), table.const_data_ptr<int32_t>(), x.size(0), table.size(1), int(x.size(1))};
}

}  // namespace

Tensor sparse_conv(const Tensor x_in, const Tensor weight_in, const Tensor table_in, const Tensor) {
  check_features(x_in, "x");
  check_table(table_in, x_in, x_in.size(1));
  STD_TORCH_CHECK(weight_in.dim() == 3 && weight_in.size(0) == table_in.size(1) && weight_in.size(1) == x_in.size(1) &&
                      weight_in.scalar_type() == x_in.scalar_type() && weight_in.device() == x_in.device(),
                  "weight: expected (K, Cin, Cout) like x");
  const Scope scope(x_in);
  const Tensor x = torch::stable::contiguous(x_in), table = stored_by_columns(table_in);
  const Tensor weight = torch::stable::contiguous(weight_in);
  const int64_t rows = table.size(1), inner = weight.size(0) * weight.size(1), outer = weight.size(2);
  Tensor y = new_tensor(x, {rows, outer}, x.scalar_type());
  if (y.numel() == 0) return y;
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    const Convolution<T> job{
        found_in<T>(x, table), weight.const_data_ptr<T>(), y.mutable_data_ptr<T>(), rows, inner, outer};
    const TilePlan plan = plan_tiles(job);
    PUFFIN_LAUNCH(multiply_tiles<Convolution<T>>, plan.blocks, tile_threads, scope.stream, job, plan);
  });
  return y;
}

Tensor sparse_conv_weight(const Tensor x_in, const Tensor grad_in, const Tensor table_in) {
  check_features(x_in, "x");
  check_features(grad_in, "grad");
  check_table(table_in, x_in, x_in.size(1));
  STD_TORCH_CHECK(grad_in.size(0) == table_in.size(0) && grad_in.scalar_type() == x_in.scalar_type() &&
                      grad_in.device() == x_in.device(),
                  "grad: expected (T, Cout) like x");
  const Scope scope(x_in);
  const Tensor x = torch::stable::contiguous(x_in), table = stored_by_columns(table_in);
  const Tensor grad = torch::stable::contiguous(grad_in);
  const int64_t offsets = table.size(0), in = x.size(1), out = grad.size(1);
  Tensor result = new_tensor(x, {offsets, in, out}, x.scalar_type());
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    const ConvolutionWeights<T> job{
        found_in<T>(x, table),
        grad.const_data_ptr<T>(),
        result.mutable_data_ptr<T>(),
        table.size(1),
        offsets * in,
        out};
    sum_outer_products(job, x, scope);
  });
  return result;
}

}  // namespace puffin::cuda

PUFFIN_KERNELS(m) {
  m.impl("sparse_conv", TORCH_BOX(&puffin::cuda::sparse_conv));
  m.impl("sparse_conv_weight", TORCH_BOX(&puffin::cuda::sparse_conv_weight));
}
