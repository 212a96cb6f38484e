// Sums of piecewise linear functions on CUDA; defined in src/puffin/ops/piecewise_linear.py. Neighbouring threads are
// on neighbouring channels. Nothing is added atomically, so results are reproducible.
#include "device.cuh"

namespace puffin::cuda {
namespace {

constexpr int64_t slice_rows = 256, most_slices = 64;  // points whose gradients of the values one thread adds up

// Sizes, and where a number lies between the knots.
template <class T>
struct Functions {
  int64_t points, features, knots, channels;
  T low, steps;

  // The knot to the left of a number, the fraction of the step beyond it, and whether the function has a slope there.
  struct Place {
    int64_t knot;
    T fraction;
    bool sloped;
  };

  __device__ Place place(T x) const {
    const T t = (x - low) * steps, last = T(knots - 1);
    const bool sloped = t >= T(0) && t < last;
    const int64_t knot = sloped ? int64_t(t) : t >= last ? knots - 2 : 0;
    return {knot, t < T(0) ? T(0) : t >= last ? T(1) : t - T(knot), sloped};  // NaN stays
  }
};

// One thread per point and channel.
template <class T>
__global__ void interpolate(const Functions<T> f, const T* x, const T* values, T* y) {
  for (int64_t i = thread_id(); i < f.points * f.channels; i += thread_count()) {
    const int64_t p = i / f.channels, c = i % f.channels;
    T sum(0);
    for (int64_t j = 0; j < f.features; ++j) {
      const auto at = f.place(x[p * f.features + j]);
      const T* left = values + (j * f.knots + at.knot) * f.channels + c;
      sum += (T(1) - at.fraction) * left[0] + at.fraction * left[f.channels];
    }
    y[i] = sum;
  }
}

// The gradient of x, one warp per point and feature.
template <class T>
__global__ void differentiate(const Functions<T> f, const T* grad, const T* x, const T* values, T* grad_x) {
  for (int64_t i = thread_id() / warp; i < f.points * f.features; i += thread_count() / warp) {
    const auto at = f.place(x[i]);
    const T* left = values + (i % f.features * f.knots + at.knot) * f.channels;
    const T* own = grad + i / f.features * f.channels;
    T slope(0);
    for (int64_t c = lane_id(); c < f.channels; c += warp) slope += own[c] * (left[f.channels + c] - left[c]);
    for (int offset = warp / 2; offset; offset /= 2) slope += __shfl_xor_sync(all_lanes, slope, offset);
    if (lane_id() == 0) grad_x[i] = at.sloped ? slope * f.steps : T(0);
  }
}

// partial (slices, features, knots, channels): the gradient of the values from `rows` consecutive points. One thread
// per slice, feature and channel adds to its own column of knots.
template <class T>
__global__ void add_slices(const Functions<T> f, const T* grad, const T* x, int64_t rows, int64_t slices, T* partial) {
  const int64_t columns = f.features * f.channels;
  for (int64_t i = thread_id(); i < slices * columns; i += thread_count()) {
    const int64_t c = i % f.channels, j = i / f.channels % f.features, first = i / columns * rows;
    T* column = partial + i / f.channels * f.knots * f.channels + c;
    for (int64_t k = 0; k < f.knots; ++k) column[k * f.channels] = T(0);
    for (int64_t p = first; p < smaller(first + rows, f.points); ++p) {
      const auto at = f.place(x[p * f.features + j]);
      const T g = grad[p * f.channels + c];
      T* left = column + at.knot * f.channels;
      left[0] += (T(1) - at.fraction) * g;
      left[f.channels] += at.fraction * g;
    }
  }
}

template <class T>
__global__ void merge_slices(const T* partial, int64_t slices, int64_t size, T* grad_values) {
  for (int64_t i = thread_id(); i < size; i += thread_count()) {
    T sum(0);
    for (int64_t s = 0; s < slices; ++s) sum += partial[s * size + i];
    grad_values[i] = sum;
  }
}

void check_functions(const Tensor& x, const Tensor& values, double low, double high) {
  check_floating(x, "x");
  STD_TORCH_CHECK(x.dim() == 2, "x: expected (P, F)");
  STD_TORCH_CHECK(values.dim() == 3 && values.size(0) == x.size(1) && values.size(1) > 1 &&
                      values.scalar_type() == x.scalar_type() && values.device() == x.device(),
                  "values: expected (F, K > 1, C) like x");
  STD_TORCH_CHECK(low < high, "high: expected more than low");
}

template <class T>
Functions<T> functions(const Tensor& x, const Tensor& values, double low, double high) {
  const int64_t knots = values.size(1);
  return {x.size(0), x.size(1), knots, values.size(2), T(low), T(double(knots - 1) / (high - low))};
}

}  // namespace

Tensor piecewise_linear(const Tensor x_in, const Tensor values_in, double low, double high) {
  check_functions(x_in, values_in, low, high);
  const Scope scope(x_in);
  const Tensor x = torch::stable::contiguous(x_in), values = torch::stable::contiguous(values_in);
  Tensor y = new_tensor(x, {x.size(0), values.size(2)}, x.scalar_type());
  if (y.numel() == 0) return y;
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    PUFFIN_LAUNCH(
        interpolate<T>, blocks_for(y.numel()), threads_per_block, scope.stream, functions<T>(x, values, low, high),
        x.const_data_ptr<T>(), values.const_data_ptr<T>(), y.mutable_data_ptr<T>());
  });
  return y;
}

std::tuple<Tensor, Tensor> piecewise_linear_backward(const Tensor grad_in, const Tensor x_in, const Tensor values_in,
                                                     double low, double high) {
  check_functions(x_in, values_in, low, high);
  STD_TORCH_CHECK(grad_in.dim() == 2 && grad_in.size(0) == x_in.size(0) && grad_in.size(1) == values_in.size(2) &&
                      grad_in.scalar_type() == x_in.scalar_type() && grad_in.device() == x_in.device(),
                  "grad: expected (P, C) like x");
  const Scope scope(x_in);
  const Tensor x = torch::stable::contiguous(x_in), values = torch::stable::contiguous(values_in);
  const Tensor grad = torch::stable::contiguous(grad_in);
  Tensor grad_x = torch::stable::empty_like(x), grad_values = torch::stable::empty_like(values);
  const int64_t points = x.size(0), size = values.numel();
  const int64_t rows = std::max(slice_rows, (points + most_slices - 1) / most_slices);
  const int64_t slices = (points + rows - 1) / rows;
  Tensor partial = new_tensor(x, {slices, size}, x.scalar_type());
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    const Functions<T> f = functions<T>(x, values, low, high);
    const T *from = x.const_data_ptr<T>(), *g = grad.const_data_ptr<T>();
    if (x.numel() > 0)
      PUFFIN_LAUNCH(differentiate<T>, blocks_for(x.numel() * warp), threads_per_block, scope.stream, f, g, from,
                    values.const_data_ptr<T>(), grad_x.mutable_data_ptr<T>());
    if (partial.numel() > 0)
      PUFFIN_LAUNCH(add_slices<T>, blocks_for(slices * f.features * f.channels), threads_per_block, scope.stream, f, g,
                    from, rows, slices, partial.mutable_data_ptr<T>());
    if (size > 0)
      PUFFIN_LAUNCH(merge_slices<T>, blocks_for(size), threads_per_block, scope.stream, partial.const_data_ptr<T>(),
                    slices, size, grad_values.mutable_data_ptr<T>());
  });
  return {grad_x, grad_values};
}

}  // namespace puffin::cuda

PUFFIN_KERNELS(m) {
  m.impl("piecewise_linear", TORCH_BOX(&puffin::cuda::piecewise_linear));
  m.impl("piecewise_linear_backward", TORCH_BOX(&puffin::cuda::piecewise_linear_backward));
}
