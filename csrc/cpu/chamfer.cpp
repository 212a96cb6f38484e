// Chamfer distance on the CPU; defined in src/puffin/ops/chamfer.py.
#define PUFFIN_KERNEL "chamfer_kernel.h"
#include "targets.h"

namespace puffin {
namespace {

constexpr int64_t plain_pairs = 256 * 256;  // clouds with fewer pairs are compared pair by pair

// Finds the nearest point of y for every point of x, for one event; rows from nx on are padding.
template <class T>
void nearest(const T* x, const T* y, int64_t nx, int64_t ny, int64_t rows, int64_t dims, bool parallel,
             std::vector<T>& scratch, T* distance, int64_t* index) {
  const int64_t used = ny > 0 ? nx : 0;
  std::fill(distance + used, distance + rows, T(0));
  std::fill(index + used, index + rows, int64_t(-1));
  if (used == 0) return;
  if (nx * ny < plain_pairs) {
    PUFFIN_CALL(nearest_plain<T>, x, y, nx, ny, dims, scratch, distance, index);
    return;
  }
  KdTree<T> queries, points;
  build_tree(queries, x, dims, nx, 16, parallel);
  build_tree(points, y, dims, ny, 16, parallel);
  const int32_t step = parallel ? 64 : queries.buckets;
  for_each_task((queries.buckets + step - 1) / step, [&](int64_t i) {
    const int32_t first = int32_t(i) * step, last = std::min(queries.buckets, first + step);
    PUFFIN_CALL(nearest_buckets<T>, queries, points, first, last, x, y, dims, distance, index);
  });
}

// The threads share the events with few pairs in blocks of `grain`; each other event is processed by all threads
// together.
template <class F>
void for_each_event(int64_t batch, const int64_t* nx, const int64_t* ny, const F& fn) {
  std::vector<int64_t> small, large;
  for (int64_t b = 0; b < batch; ++b) (nx[b] * ny[b] < 64 * plain_pairs ? small : large).push_back(b);
  const int64_t grain = 32, count = int64_t(small.size());
  for_each_task((count + grain - 1) / grain, [&](int64_t t) {
    for (int64_t i = t * grain; i < std::min(count, (t + 1) * grain); ++i) fn(small[i], false);
  });
  for (const int64_t b : large) fn(b, true);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> chamfer(const Tensor x_in, const Tensor y_in, const Tensor lengths_x_in,
                                                   const Tensor lengths_y_in) {
  check_points(x_in, "x");
  check_points(y_in, "y");
  check_alike(x_in, y_in, "y");
  STD_TORCH_CHECK(x_in.size(2) == y_in.size(2), "y: expected as many coordinates as x");
  check_per_event(lengths_x_in, x_in, "lengths_x");
  check_per_event(lengths_y_in, y_in, "lengths_y");
  const Tensor x = torch::stable::contiguous(x_in), y = torch::stable::contiguous(y_in);
  const Tensor lengths_x = torch::stable::contiguous(lengths_x_in), lengths_y = torch::stable::contiguous(lengths_y_in);
  const int64_t batch = x.size(0), rx = x.size(1), ry = y.size(1), dims = x.size(2);
  const int64_t* nx = checked_lengths(lengths_x, rx, "lengths_x");
  const int64_t* ny = checked_lengths(lengths_y, ry, "lengths_y");
  Tensor dx = new_tensor(x, {batch, rx}, x.scalar_type()), dy = new_tensor(x, {batch, ry}, x.scalar_type());
  Tensor ix = new_index(x, {batch, rx}), iy = new_index(x, {batch, ry});
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    const T *px = x.const_data_ptr<T>(), *py = y.const_data_ptr<T>();
    T *ox = dx.mutable_data_ptr<T>(), *oy = dy.mutable_data_ptr<T>();
    int64_t *jx = ix.mutable_data_ptr<int64_t>(), *jy = iy.mutable_data_ptr<int64_t>();
    for_each_event(batch, nx, ny, [&](int64_t b, bool parallel) {
      std::vector<T> scratch;
      const T *a = px + b * rx * dims, *c = py + b * ry * dims;
      nearest(a, c, nx[b], ny[b], rx, dims, parallel, scratch, ox + b * rx, jx + b * rx);
      nearest(c, a, ny[b], nx[b], ry, dims, parallel, scratch, oy + b * ry, jy + b * ry);
    });
  });
  return {dx, ix, dy, iy};
}

// Gradients of sum(grad_x dist_x) + sum(grad_y dist_y) for the nearest pairs, summed in ascending order of the index.
std::tuple<Tensor, Tensor> chamfer_backward(const Tensor grad_x_in, const Tensor grad_y_in, const Tensor x_in,
                                            const Tensor y_in, const Tensor index_x_in, const Tensor index_y_in) {
  check_points(x_in, "x");
  check_points(y_in, "y");
  const Tensor x = torch::stable::contiguous(x_in), y = torch::stable::contiguous(y_in);
  const Tensor grad_x = torch::stable::contiguous(grad_x_in), grad_y = torch::stable::contiguous(grad_y_in);
  const Tensor index_x = torch::stable::contiguous(index_x_in), index_y = torch::stable::contiguous(index_y_in);
  const int64_t batch = x.size(0), rx = x.size(1), ry = y.size(1), dims = x.size(2);
  STD_TORCH_CHECK(y.size(0) == batch && y.size(2) == dims && y.scalar_type() == x.scalar_type(), "y: expected like x");
  for (const Tensor& t : {grad_x, index_x})
    STD_TORCH_CHECK(t.dim() == 2 && t.size(0) == batch && t.size(1) == rx, "grad_x, index_x: expected (B, N)");
  for (const Tensor& t : {grad_y, index_y})
    STD_TORCH_CHECK(t.dim() == 2 && t.size(0) == batch && t.size(1) == ry, "grad_y, index_y: expected (B, M)");
  Tensor out_x = torch::stable::empty_like(x), out_y = torch::stable::empty_like(y);
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    const T *px = x.const_data_ptr<T>(), *py = y.const_data_ptr<T>();
    const T *gx = grad_x.const_data_ptr<T>(), *gy = grad_y.const_data_ptr<T>();
    const int64_t *jx = index_x.const_data_ptr<int64_t>(), *jy = index_y.const_data_ptr<int64_t>();
    T *ox = out_x.mutable_data_ptr<T>(), *oy = out_y.mutable_data_ptr<T>();
    // d/da of g |a_i - b_j|^2, and minus that for b_j
    const auto scatter =
        [dims](const T* a, const T* b, const T* g, const int64_t* j, int64_t n, int64_t m, T* ga, T* gb) {
          for (int64_t i = 0; i < n; ++i) {
            if (j[i] < 0 || j[i] >= m) continue;
            for (int64_t c = 0; c < dims; ++c) {
              const T pull = T(2) * g[i] * (a[i * dims + c] - b[j[i] * dims + c]);
              ga[i * dims + c] += pull;
              gb[j[i] * dims + c] -= pull;
            }
          }
        };
    for_each_task((batch + 31) / 32, [&](int64_t t) {
      for (int64_t b = t * 32; b < std::min(batch, (t + 1) * 32); ++b) {
        T *a = ox + b * rx * dims, *c = oy + b * ry * dims;
        std::fill(a, a + rx * dims, T(0));
        std::fill(c, c + ry * dims, T(0));
        scatter(px + b * rx * dims, py + b * ry * dims, gx + b * rx, jx + b * rx, rx, ry, a, c);
        scatter(py + b * ry * dims, px + b * rx * dims, gy + b * ry, jy + b * ry, ry, rx, c, a);
      }
    });
  });
  return {out_x, out_y};
}

}  // namespace puffin

STABLE_TORCH_LIBRARY_IMPL(puffin, CPU, m) {
  m.impl("chamfer", TORCH_BOX(&puffin::chamfer));
  m.impl("chamfer_backward", TORCH_BOX(&puffin::chamfer_backward));
}
