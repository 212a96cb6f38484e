// Sparse convolutions on the CPU; defined in src/puffin/ops/sparse_conv.py.
#include "table_types.h"

#include <vector>

#define PUFFIN_KERNEL "sparse_conv_kernel.h"
#include "targets.h"

#include "../common.h"
#include "parallel.h"

namespace puffin {
namespace {

constexpr int64_t task_rows = 1024;         // outputs of a task
constexpr int64_t most_weight_tasks = 16;   // each has a gradient of all weights of its own
constexpr int64_t weight_task_rows = 4096;  // fewest outputs of such a task, unless there is one

// x or a gradient: (rows, channels)
void check_features(const Tensor& x, const char* name) {
  check_table(x, {any, any}, name);
  STD_TORCH_CHECK(x.size(0) < INT32_MAX, name, ": expected fewer than 2^31 rows");
}

// Calls fn(first row, rows) for runs of `size` rows, and raises an error unless each returns true.
template <class F>
void for_each_run(int64_t rows, int64_t size, const F& fn) {
  std::atomic<bool> good{true};
  for_each_task((rows + size - 1) / size, [&](int64_t i) {
    if (!fn(i * size, std::min(size, rows - i * size))) good = false;
  });
  STD_TORCH_CHECK(good, "table: expected -1 or rows of x");
}

// Features in the type of their sums: those of bfloat16 are converted once, as several products read each row.
Tensor widened(const Tensor& x) { return torch::stable::to(torch::stable::contiguous(x), type_of_sums(x)); }

}  // namespace

Tensor sparse_conv(const Tensor x_in, const Tensor weight_in, const Tensor table_in, const Tensor) {
  check_features(x_in, "x");
  check_tensor(table_in, {any, any}, ScalarType::Int, "table");
  check_tensor(weight_in, {table_in.size(1), x_in.size(1), any}, type_of_sums(x_in), "weight");
  const Tensor x = widened(x_in), table = stored_by_columns(table_in);
  const Tensor weight = torch::stable::contiguous(weight_in);
  const int64_t offsets = table.size(0), rows = table.size(1), in = x.size(1), out = weight.size(2);
  Tensor y = new_tensor(x, {rows, out}, x_in.scalar_type());
  for_table_type(x_in, [&](auto type) {
    using E = decltype(type);
    using T = baseline::Sum<E>;
    baseline::Buffer<T> matrices(offsets * in * baseline::padded<T>(out));
    PUFFIN_CALL(read_rows<T>, weight.const_data_ptr<T>(), out, offsets * in, out, matrices.data());
    const T* from = x.const_data_ptr<T>();
    const int32_t* entries = table.const_data_ptr<int32_t>();
    E* to = mutable_table_data<E>(y);
    for_each_run(rows, task_rows, [&](int64_t first, int64_t n) {
      return PUFFIN_CALL(convolve_rows<E>, from, x.size(0), matrices.data(), entries + first, rows, offsets, n, in, out,
                         to + first * out);
    });
  });
  return y;
}

Tensor sparse_conv_weight(const Tensor x_in, const Tensor grad_in, const Tensor table_in) {
  check_features(x_in, "x");
  check_features(grad_in, "grad");
  check_tensor(table_in, {any, any}, ScalarType::Int, "table");
  check_tensor(grad_in, {table_in.size(0), any}, x_in.scalar_type(), "grad");
  const Tensor x = widened(x_in), grad = widened(grad_in), table = stored_by_columns(table_in);
  const int64_t offsets = table.size(0), rows = table.size(1), in = x.size(1), out = grad.size(1);
  Tensor result = new_tensor(x, {offsets, in, out}, x.scalar_type());
  const int64_t run = std::max(weight_task_rows, (rows + most_weight_tasks - 1) / most_weight_tasks);
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    const int64_t ld = baseline::padded<T>(out), size = offsets * in * ld, tasks = (rows + run - 1) / run;
    std::vector<T> parts(tasks * size, T(0));
    const T *from = x.const_data_ptr<T>(), *g = grad.const_data_ptr<T>();
    const int32_t* entries = table.const_data_ptr<int32_t>();
    for_each_run(rows, run, [&](int64_t first, int64_t n) {
      return PUFFIN_CALL(add_weight_gradient<T>, from, x.size(0), g + first * out, entries + first, rows, offsets, n,
                         in, out, parts.data() + first / run * size);
    });
    T* to = result.mutable_data_ptr<T>();
    for (int64_t r = 0; r < offsets * in; ++r)
      for (int64_t c = 0; c < out; ++c) {
        T sum(0);
        for (int64_t t = 0; t < tasks; ++t) sum += parts[t * size + r * ld + c];
        to[r * out + c] = sum;
      }
  });
  return result;
}

}  // namespace puffin

STABLE_TORCH_LIBRARY_IMPL(puffin, CPU, m) {
  m.impl("sparse_conv", TORCH_BOX(&puffin::sparse_conv));
  m.impl("sparse_conv_weight", TORCH_BOX(&puffin::sparse_conv_weight));
}
