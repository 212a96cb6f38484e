// Reductions of consecutive rows on CUDA; defined in src/puffin/ops/segments.py. One thread per segment and channel,
// with neighbouring threads on neighbouring channels. Every sum runs in the order of the rows, so results are
// reproducible.
#include "device.cuh"

namespace puffin::cuda {
namespace {

// Rows of a segment, clamped to the table: checking ptr instead would make the host wait for the device.
struct Run {
  int64_t first, last;
  __device__ Run(const int64_t* ptr, int64_t segment, int64_t rows)
      : first(clamped(ptr[segment], rows)), last(clamped(ptr[segment + 1], rows)) {}
};

// sign 0: the sum; 1: the largest; -1: the smallest
template <class T>
__global__ void reduce_runs(const T* x, const int64_t* ptr, int64_t segments, int64_t rows, int64_t channels, int sign,
                            T* out) {
  for (int64_t k = thread_id(); k < segments * channels; k += thread_count()) {
    const int64_t c = k % channels;
    const Run run(ptr, k / channels, rows);
    T best = T(0);
    for (int64_t r = run.first; r < run.last; ++r) {
      const T value = x[r * channels + c];
      if (sign == 0)
        best += value;
      else if (r == run.first || (sign > 0 ? value > best : value < best) || value != value)
        best = value;
    }
    out[k] = best;
  }
}

// One warp writes 32 consecutive rows, so that it searches for a segment once, and reads each row of x once.
template <class T>
__global__ void expand_runs(const T* x, const int64_t* ptr, int64_t segments, int64_t rows, int64_t channels, T* out) {
  const int64_t strips = (rows + warp - 1) / warp, groups = (channels + warp - 1) / warp;
  for (int64_t k = thread_id() / warp; k < strips * groups; k += thread_count() / warp) {
    const int64_t first = k / groups * warp, last = first + warp < rows ? first + warp : rows;
    const int64_t c = k % groups * warp + lane_id();
    int64_t segment = segment_of(ptr, segments, first);
    for (int64_t row = first; row < last;) {
      while (segment + 1 < segments && ptr[segment + 1] <= row) ++segment;
      const int64_t next = segment + 1 < segments ? ptr[segment + 1] : rows;  // the last segment takes all other rows
      const int64_t stop = next < last ? next : last;
      const T value = c < channels ? x[segment * channels + c] : T(0);
      for (; row < stop; ++row)
        if (c < channels) out[row * channels + c] = value;
    }
  }
}

template <class T>
__global__ void share_gradient(const T* grad, const T* extremum, const T* x, const int64_t* ptr, int64_t segments,
                               int64_t rows, int64_t channels, T* out) {
  for (int64_t k = thread_id(); k < segments * channels; k += thread_count()) {
    const int64_t c = k % channels;
    const Run run(ptr, k / channels, rows);
    const T value = extremum[k];
    int64_t ties = 0;
    for (int64_t r = run.first; r < run.last; ++r) ties += x[r * channels + c] == value;
    const T share = grad[k] / T(ties > 0 ? ties : 1);
    for (int64_t r = run.first; r < run.last; ++r) out[r * channels + c] = x[r * channels + c] == value ? share : T(0);
  }
}

void check_rows(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() == 2, name, ": expected (rows, C)");
  check_floating(x, name);
}

void check_segments(const Tensor& x, const Tensor& ptr, const Tensor& like, const char* name) {
  check_rows(x, name);
  STD_TORCH_CHECK(x.size(0) == ptr.size(0) - 1 && x.size(1) == like.size(1) && x.scalar_type() == like.scalar_type() &&
                      x.device() == like.device(),
                  name, ": expected a row for each segment, like the rest");
}

Tensor reduced(const Tensor& x_in, const Tensor& ptr, int sign) {
  check_rows(x_in, "x");
  check_ptr(ptr, x_in);
  const Scope scope(x_in);
  const Tensor x = torch::stable::contiguous(x_in);
  const int64_t segments = ptr.size(0) - 1, channels = x.size(1);
  Tensor out = new_tensor(x, {segments, channels}, x.scalar_type());
  if (out.numel() == 0) return out;
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    PUFFIN_LAUNCH(
        reduce_runs<T>, blocks_for(segments * channels), threads_per_block, scope.stream, x.const_data_ptr<T>(),
        ptr.const_data_ptr<int64_t>(), segments, x.size(0), channels, sign, out.mutable_data_ptr<T>());
  });
  return out;
}

}  // namespace

Tensor segment_sum(const Tensor x, const Tensor ptr) { return reduced(x, ptr, 0); }

Tensor segment_extremum(const Tensor x, const Tensor ptr, bool largest) { return reduced(x, ptr, largest ? 1 : -1); }

Tensor segment_expand(const Tensor x_in, const Tensor ptr, int64_t rows) {
  check_ptr(ptr, x_in);
  check_segments(x_in, ptr, x_in, "x");
  STD_TORCH_CHECK(rows >= 0 && (rows == 0 || ptr.size(0) > 1), "rows: expected none without segments");
  const Scope scope(x_in);
  const Tensor x = torch::stable::contiguous(x_in);
  const int64_t channels = x.size(1);
  Tensor out = new_tensor(x, {rows, channels}, x.scalar_type());
  if (out.numel() == 0) return out;
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    PUFFIN_LAUNCH(expand_runs<T>, blocks_for((rows + warp - 1) / warp * ((channels + warp - 1) / warp) * warp),
                  threads_per_block, scope.stream, x.const_data_ptr<T>(), ptr.const_data_ptr<int64_t>(),
                  ptr.size(0) - 1, rows, channels, out.mutable_data_ptr<T>());
  });
  return out;
}

Tensor segment_extremum_backward(const Tensor grad_in, const Tensor extremum_in, const Tensor x_in, const Tensor ptr) {
  check_rows(x_in, "x");
  check_ptr(ptr, x_in);
  check_segments(grad_in, ptr, x_in, "grad");
  check_segments(extremum_in, ptr, x_in, "extremum");
  const Scope scope(x_in);
  const Tensor x = torch::stable::contiguous(x_in), grad = torch::stable::contiguous(grad_in);
  const Tensor extremum = torch::stable::contiguous(extremum_in);
  const int64_t segments = ptr.size(0) - 1, channels = x.size(1);
  Tensor out = torch::stable::empty_like(x);
  if (out.numel() == 0) return out;
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    PUFFIN_LAUNCH(share_gradient<T>, blocks_for(segments * channels), threads_per_block, scope.stream,
                  grad.const_data_ptr<T>(), extremum.const_data_ptr<T>(), x.const_data_ptr<T>(),
                  ptr.const_data_ptr<int64_t>(), segments, x.size(0), channels, out.mutable_data_ptr<T>());
  });
  return out;
}

}  // namespace puffin::cuda

PUFFIN_KERNELS(m) {
  m.impl("segment_sum", TORCH_BOX(&puffin::cuda::segment_sum));
  m.impl("segment_expand", TORCH_BOX(&puffin::cuda::segment_expand));
  m.impl("segment_extremum", TORCH_BOX(&puffin::cuda::segment_extremum));
  m.impl("segment_extremum_backward", TORCH_BOX(&puffin::cuda::segment_extremum_backward));
}
