// Reductions of consecutive rows on the CPU; defined in src/puffin/ops/segments.py. A task is a group of whole
// segments. The groups depend only on the sizes of the segments, so that no sum depends on the number of threads.
#define PUFFIN_KERNEL "segments_kernel.h"
#include "targets.h"

#include "checks.h"
#include "parallel.h"

#include <vector>

namespace puffin {
namespace {

// Calls fn(segment, first row, number of rows) for every segment; the threads share groups of at least 1024 rows.
template <class F>
void for_each_segment(const Tensor& ptr, int64_t rows, const F& fn) {
  const int64_t* first = checked_ptr(ptr, rows);
  const int64_t count = ptr.size(0) - 1;
  std::vector<int64_t> groups{0};
  for (int64_t s = 0; s < count; ++s)
    if (s + 1 == count || first[s + 1] - first[groups.back()] + (s - groups.back()) >= 1024) groups.push_back(s + 1);
  for_each_task(int64_t(groups.size()) - 1, [&](int64_t g) {
    for (int64_t s = groups[g]; s < groups[g + 1]; ++s) fn(s, first[s], first[s + 1] - first[s]);
  });
}

void check_rows(const Tensor& x, const char* name) {
  check_sizes(x, {any, any}, name);
  check_floating(x, name);
}

void check_segments(const Tensor& x, const Tensor& ptr, const Tensor& like, const char* name) {
  check_rows(x, name);
  check_tensor(x, {ptr.size(0) - 1, like.size(1)}, like.scalar_type(), name);
}

// Reduces each segment to one row with reduce(rows, count, channels, out), called with pointers of the dtype of x.
template <class F>
Tensor reduced(const Tensor& x_in, const Tensor& ptr, const F& reduce) {
  check_rows(x_in, "x");
  const Tensor x = torch::stable::contiguous(x_in);
  const int64_t channels = x.size(1);
  Tensor out = new_tensor(x, {ptr.size(0) - 1, channels}, x.scalar_type());
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    const T* from = x.const_data_ptr<T>();
    T* to = out.mutable_data_ptr<T>();
    for_each_segment(ptr, x.size(0), [&](int64_t s, int64_t first, int64_t n) {
      reduce(from + first * channels, n, channels, to + s * channels);
    });
  });
  return out;
}

}  // namespace

Tensor segment_sum(const Tensor x, const Tensor ptr) {
  return reduced(x, ptr, [](const auto* rows, int64_t n, int64_t channels, auto* out) {
    PUFFIN_CALL(sum_rows, rows, n, channels, out);
  });
}

Tensor segment_extremum(const Tensor x, const Tensor ptr, bool largest) {
  return reduced(x, ptr, [largest](const auto* rows, int64_t n, int64_t channels, auto* out) {
    PUFFIN_CALL(extremum_rows, rows, n, channels, largest, out);
  });
}

Tensor segment_expand(const Tensor x_in, const Tensor ptr, int64_t rows) {
  check_segments(x_in, ptr, x_in, "x");
  const Tensor x = torch::stable::contiguous(x_in);
  const int64_t channels = x.size(1);
  Tensor out = new_tensor(x, {rows, channels}, x.scalar_type());
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    const T* from = x.const_data_ptr<T>();
    T* to = out.mutable_data_ptr<T>();
    for_each_segment(ptr, rows, [&](int64_t s, int64_t first, int64_t n) {
      for (int64_t r = first; r < first + n; ++r)
        std::copy(from + s * channels, from + (s + 1) * channels, to + r * channels);
    });
  });
  return out;
}

Tensor segment_extremum_backward(const Tensor grad_in, const Tensor extremum_in, const Tensor x_in, const Tensor ptr) {
  check_rows(x_in, "x");
  check_segments(grad_in, ptr, x_in, "grad");
  check_segments(extremum_in, ptr, x_in, "extremum");
  const Tensor x = torch::stable::contiguous(x_in), grad = torch::stable::contiguous(grad_in);
  const Tensor extremum = torch::stable::contiguous(extremum_in);
  const int64_t channels = x.size(1);
  Tensor out = torch::stable::empty_like(x);
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    const T *from = x.const_data_ptr<T>(), *pg = grad.const_data_ptr<T>(), *pe = extremum.const_data_ptr<T>();
    T* to = out.mutable_data_ptr<T>();
    for_each_segment(ptr, x.size(0), [&](int64_t s, int64_t first, int64_t n) {
      PUFFIN_CALL(share_gradient<T>, pg + s * channels, pe + s * channels, from + first * channels, n, channels,
                  to + first * channels);
    });
  });
  return out;
}

}  // namespace puffin

STABLE_TORCH_LIBRARY_IMPL(puffin, CPU, m) {
  m.impl("segment_sum", TORCH_BOX(&puffin::segment_sum));
  m.impl("segment_expand", TORCH_BOX(&puffin::segment_expand));
  m.impl("segment_extremum", TORCH_BOX(&puffin::segment_extremum));
  m.impl("segment_extremum_backward", TORCH_BOX(&puffin::segment_extremum_backward));
}
