// Local geometry of points and their connected components on the CPU; defined in src/puffin/ops/geometry.py.
#include "../shape.h"

#define PUFFIN_KERNEL "geometry_kernel.h"
#include "targets.h"

namespace puffin {
namespace {

struct Inputs {
  Tensor points;
  int64_t rows, batch;
  const int64_t* first;

  Inputs(const Tensor& x, const Tensor& ptr)
      : points(torch::stable::contiguous(x)), rows(x.size(0)), batch(ptr.size(0) - 1), first(checked_ptr(ptr, rows)) {
    STD_TORCH_CHECK(x.dim() == 2 && x.size(1) == 4, "points: expected (P, 4)");
    check_floating(x, "points");
  }

  template <class T>
  const T* event(int64_t b) const {
    return points.const_data_ptr<T>() + 4 * first[b];
  }
  template <class T>
  std::vector<KdTree<T>> trees() const {
    return build_trees<T>(batch, [&](int64_t b) { return std::pair(event<T>(b), first[b + 1] - first[b]); }, 4, 16);
  }
};

}  // namespace

Tensor local_geometry(const Tensor points, const Tensor ptr, const std::vector<int64_t> neighbours,
                      const std::vector<double> radii) {
  const Inputs in(points, ptr);
  const int64_t scales = int64_t(neighbours.size()), columns = 9 * scales - (scales > 0) + 2 * int64_t(radii.size());
  for (int64_t s = 0; s < scales; ++s)
    STD_TORCH_CHECK(neighbours[s] > (s ? neighbours[s - 1] : 0), "neighbours: expected numbers >= 1, ascending");
  Tensor out = new_tensor(in.points, {in.rows, columns}, in.points.scalar_type());
  for_float_type(in.points, [&](auto type) {
    using T = decltype(type);
    std::vector<T> r2;
    for (const double radius : radii) r2.push_back(T(radius) * T(radius));
    const std::vector<KdTree<T>> trees = in.trees<T>();
    const std::vector<BucketRange> ranges = bucket_ranges(trees);
    T* data = out.mutable_data_ptr<T>();
    for_each_task(int64_t(ranges.size()), [&](int64_t i) {
      const auto [b, first, last] = ranges[i];
      PUFFIN_CALL(geometry_buckets<T>, trees[b], in.event<T>(b), first, last, neighbours, r2, columns,
                  data + in.first[b] * columns);
    });
  });
  return out;
}

Tensor components(const Tensor points, const Tensor ptr, double radius) {
  const Inputs in(points, ptr);
  Tensor out = new_index(in.points, {in.rows});
  int64_t* labels = out.mutable_data_ptr<int64_t>();
  for_float_type(in.points, [&](auto type) {
    using T = decltype(type);
    const std::vector<KdTree<T>> trees = in.trees<T>();
    const T r2 = T(radius) * T(radius);
    for_each_task(
        in.batch, [&](int64_t b) { PUFFIN_CALL(find_components<T>, trees[b], r2, in.first[b], labels + in.first[b]); });
  });
  return out;
}

}  // namespace puffin

STABLE_TORCH_LIBRARY_IMPL(puffin, CPU, m) {
  m.impl("local_geometry", TORCH_BOX(&puffin::local_geometry));
  m.impl("components", TORCH_BOX(&puffin::components));
}
