// Farthest point sampling on the CPU; defined in src/puffin/ops/fps.py.
#define PUFFIN_KERNEL "fps_kernel.h"
#include "targets.h"

namespace puffin {
namespace {

// A cloud of up to this many points is one bucket, which gives the plain algorithm.
constexpr int64_t plain_size = 256;

template <class T>
void sample_event(const T* points, int64_t stride, int64_t size, int64_t start, int64_t count, int64_t* out,
                  bool parallel) {
  if (count <= 0) return;
  const int32_t capacity = int32_t(size <= plain_size ? (size + 15) / 16 * 16 : size <= 32768 ? 32 : 64);
  KdTree<T> tree;
  build_tree(tree, points, stride, size, capacity, parallel, true);
  PUFFIN_CALL(sample_tree<T>, tree, start, count, out);
}

}  // namespace

Tensor farthest_point_sampling(const Tensor points_in, const Tensor lengths_in, const Tensor k_in,
                               const Tensor start_in, int64_t width) {
  check_points(points_in, "points");
  for (const Tensor& t : {lengths_in, k_in, start_in}) check_per_event(t, points_in, "lengths, k, start");
  const Tensor points = torch::stable::contiguous(points_in), lengths = torch::stable::contiguous(lengths_in);
  const Tensor k = torch::stable::contiguous(k_in), start = torch::stable::contiguous(start_in);
  const int64_t batch = points.size(0), rows = points.size(1), stride = points.size(2);
  const int64_t* n = checked_lengths(lengths, rows, "lengths");
  const int64_t *wanted = k.const_data_ptr<int64_t>(), *first = start.const_data_ptr<int64_t>();
  Tensor out = new_index(points, {batch, width});
  int64_t* result = out.mutable_data_ptr<int64_t>();
  std::fill(result, result + batch * width, int64_t(-1));
  for_float_type(points, [&](auto type) {
    using T = decltype(type);
    const T* data = points.const_data_ptr<T>();
    const auto sample = [&](int64_t b, bool parallel) {
      const int64_t count = std::min({wanted[b], n[b], width});
      const int64_t from = std::clamp<int64_t>(first[b], 0, std::max<int64_t>(n[b] - 1, 0));
      sample_event(data + b * rows * stride, stride, n[b], from, count, result + b * width, parallel);
    };
    if (batch > 1)
      for_each_task(batch, [&](int64_t b) { sample(b, false); });
    else if (batch == 1)
      sample(0, true);
  });
  return out;
}

}  // namespace puffin

STABLE_TORCH_LIBRARY_IMPL(puffin, CPU, m) {
  m.impl("farthest_point_sampling", TORCH_BOX(&puffin::farthest_point_sampling));
}
