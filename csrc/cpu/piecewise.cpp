// Sums of piecewise linear functions on the CPU; defined in src/puffin/ops/piecewise_linear.py.
#include "table_types.h"

#include <vector>

#define PUFFIN_KERNEL "piecewise_kernel.h"
#include "targets.h"

#include "checks.h"
#include "parallel.h"

namespace puffin {
namespace {

constexpr int64_t task_rows = 512;      // points of a task; several runs of them share a gradient of the values
constexpr int64_t cached_rows = 64;     // points whose gradients stay in the cache
constexpr int64_t most_gradients = 16;  // gradients of all values, which are added in the end

struct Functions {
  Tensor x, values;
  int64_t points, features, last, channels;
  double low, steps;

  Functions(const Tensor& x_in, const Tensor& values_in, double low_, double high)
      : x(torch::stable::contiguous(x_in)), values(torch::stable::contiguous(values_in)), low(low_) {
    check_floating(x, "x");
    check_sizes(x, {any, any}, "x");
    points = x.size(0);
    features = x.size(1);
    check_tensor(values, {features, any, any}, x.scalar_type(), "values");
    STD_TORCH_CHECK(values.size(1) > 1, "values: expected more than one knot");
    STD_TORCH_CHECK(low < high, "high: expected more than low");
    last = values.size(1) - 1;
    channels = values.size(2);
    steps = last / (high - low);
  }

  int64_t knots() const { return features * (last + 1); }
};

// (rows, channels), contiguous, as (rows, padded channels)
template <class T>
std::vector<T> pad_rows(const Tensor& x, int64_t rows, int64_t channels) {
  std::vector<T> result(rows * baseline::padded<T>(channels));
  PUFFIN_CALL(read_rows<T>, x.const_data_ptr<T>(), channels, rows, channels, result.data());
  return result;
}

}  // namespace

Tensor piecewise_linear(const Tensor x, const Tensor values, double low, double high) {
  const Functions f(x, values, low, high);
  Tensor y = new_tensor(f.x, {f.points, f.channels}, f.x.scalar_type());
  for_float_type(f.x, [&](auto type) {
    using T = decltype(type);
    const std::vector<T> table = pad_rows<T>(f.values, f.knots(), f.channels);
    const T* from = f.x.const_data_ptr<T>();
    T* to = y.mutable_data_ptr<T>();
    for_each_task((f.points + task_rows - 1) / task_rows, [&](int64_t i) {
      const int64_t p = i * task_rows, n = std::min(task_rows, f.points - p);
      PUFFIN_CALL(interpolate<T>, from + p * f.features, table.data(), n, f.features, f.last, f.channels, T(f.low),
                  T(f.steps), to + p * f.channels);
    });
  });
  return y;
}

std::tuple<Tensor, Tensor> piecewise_linear_backward(const Tensor grad_in, const Tensor x, const Tensor values,
                                                     double low, double high) {
  const Functions f(x, values, low, high);
  check_tensor(grad_in, {f.points, f.channels}, f.x.scalar_type(), "grad");
  const Tensor grad = torch::stable::contiguous(grad_in);
  Tensor grad_x = torch::stable::empty_like(f.x), grad_values = torch::stable::empty_like(f.values);
  for_float_type(f.x, [&](auto type) {
    using T = decltype(type);
    const std::vector<T> table = pad_rows<T>(f.values, f.knots(), f.channels);
    const std::vector<T> g = pad_rows<T>(grad, f.points, f.channels);
    const int64_t ld = baseline::padded<T>(f.channels), size = f.knots() * ld;
    const int64_t run = std::max(task_rows, (f.points + most_gradients - 1) / most_gradients);
    const int64_t tasks = (f.points + run - 1) / run;
    std::vector<T> parts(tasks * size, T(0));
    const T* from = f.x.const_data_ptr<T>();
    T* to = grad_x.mutable_data_ptr<T>();
    for_each_task(tasks, [&](int64_t i) {
      for (int64_t p = i * run; p < std::min((i + 1) * run, f.points); p += cached_rows) {
        const int64_t n = std::min({cached_rows, (i + 1) * run - p, f.points - p});
        PUFFIN_CALL(interpolate_backward<T>, g.data() + p * ld, from + p * f.features, table.data(), n, f.features,
                    f.last, ld, T(f.low), T(f.steps), to + p * f.features, parts.data() + i * size);
      }
    });
    T* sums = grad_values.mutable_data_ptr<T>();
    for (int64_t r = 0; r < f.knots(); ++r)
      for (int64_t c = 0; c < f.channels; ++c) {
        T sum(0);
        for (int64_t i = 0; i < tasks; ++i) sum += parts[i * size + r * ld + c];
        sums[r * f.channels + c] = sum;
      }
  });
  return {grad_x, grad_values};
}

}  // namespace puffin

STABLE_TORCH_LIBRARY_IMPL(puffin, CPU, m) {
  m.impl("piecewise_linear", TORCH_BOX(&puffin::piecewise_linear));
  m.impl("piecewise_linear_backward", TORCH_BOX(&puffin::piecewise_linear_backward));
}
