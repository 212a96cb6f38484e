// k nearest neighbours, ball query and ball count on the CPU; defined in src/puffin/ops/neighbors.py.
#define PUFFIN_KERNEL "neighbors_kernel.h"
#include "targets.h"

namespace puffin {
namespace {

// The trees of both clouds of every event, and the tasks: ranges of query buckets.
template <class T>
struct Join {
  std::vector<KdTree<T>> own, other;
  bool same;  // whether the queries are the points themselves
  std::vector<BucketRange> tasks;

  Join(const Tensor& queries, const Tensor& points, const int64_t* lengths1, const int64_t* lengths2, int32_t capacity)
      : other(build_trees<T>(points, lengths2, capacity)) {
    const int64_t batch = points.size(0);
    same = queries.const_data_ptr() == points.const_data_ptr() && queries.size(1) == points.size(1) &&
           queries.size(2) == points.size(2) && std::equal(lengths1, lengths1 + batch, lengths2);
    if (!same) own = build_trees<T>(queries, lengths1, capacity);
    tasks = bucket_ranges(query_trees());
  }
  const std::vector<KdTree<T>>& query_trees() const { return same ? other : own; }

  // Calls fn(query tree, point tree, event, first bucket, last bucket) for every task.
  template <class F>
  void run(const F& fn) const {
    for_each_task(int64_t(tasks.size()), [&](int64_t i) {
      const BucketRange& task = tasks[i];
      fn(query_trees()[task.event], other[task.event], task.event, task.first, task.last);
    });
  }
};

struct Inputs {
  Tensor queries, points, lengths1, lengths2;
  const int64_t *n1, *n2;
  int64_t batch, rows;
  Inputs(const Tensor& q, const Tensor& p, const Tensor& l1, const Tensor& l2) {
    check_points(q, "queries");
    check_points(p, "points");
    check_alike(q, p, "points");
    check_per_event(l1, q, "lengths1");
    check_per_event(l2, p, "lengths2");
    queries = torch::stable::contiguous(q);
    points = torch::stable::contiguous(p);
    lengths1 = torch::stable::contiguous(l1);
    lengths2 = torch::stable::contiguous(l2);
    batch = q.size(0);
    rows = q.size(1);
    n1 = checked_lengths(lengths1, rows, "lengths1");
    n2 = checked_lengths(lengths2, p.size(1), "lengths2");
  }
};

}  // namespace

std::tuple<Tensor, Tensor> knn(const Tensor queries, const Tensor points, const Tensor lengths1, const Tensor lengths2,
                               int64_t k) {
  STD_TORCH_CHECK(k >= 0, "k: expected k >= 0, got ", k);
  const Inputs in(queries, points, lengths1, lengths2);
  Tensor distance = new_tensor(in.queries, {in.batch, in.rows, k}, in.queries.scalar_type());
  Tensor index = new_index(in.queries, {in.batch, in.rows, k});
  for_float_type(in.queries, [&](auto type) {
    using T = decltype(type);
    T* d = distance.mutable_data_ptr<T>();
    int64_t* i = index.mutable_data_ptr<int64_t>();
    for (int64_t b = 0; b < in.batch; ++b) {
      const int64_t from = (b * in.rows + in.n1[b]) * k, to = (b + 1) * in.rows * k;
      std::fill(d + from, d + to, std::numeric_limits<T>::infinity());
      std::fill(i + from, i + to, int64_t(-1));
    }
    if (k == 0) return;
    const Join<T> join(in.queries, in.points, in.n1, in.n2, 16);
    join.run([&](const KdTree<T>& own, const KdTree<T>& other, int64_t b, int32_t first, int32_t last) {
      const int64_t at = b * in.rows * k;
      PUFFIN_CALL(knn_buckets<T>, own, other, first, last, k, d + at, i + at);
    });
  });
  return {distance, index};
}

Tensor ball_count(const Tensor queries, const Tensor points, const Tensor lengths1, const Tensor lengths2,
                  double radius) {
  const Inputs in(queries, points, lengths1, lengths2);
  Tensor counts = new_index(in.queries, {in.batch, in.rows});
  int64_t* out = counts.mutable_data_ptr<int64_t>();
  std::fill(out, out + in.batch * in.rows, int64_t(0));
  for_float_type(in.queries, [&](auto type) {
    using T = decltype(type);
    const Join<T> join(in.queries, in.points, in.n1, in.n2, 32);
    join.run([&](const KdTree<T>& own, const KdTree<T>& other, int64_t b, int32_t first, int32_t last) {
      const T r2 = T(radius) * T(radius);
      PUFFIN_CALL(ball_count_buckets<T>, own, other, first, last, r2, out + b * in.rows);
    });
  });
  return counts;
}

Tensor ball_query(const Tensor queries, const Tensor points, const Tensor lengths1, const Tensor lengths2,
                  double radius, int64_t k) {
  STD_TORCH_CHECK(k >= 0, "k: expected k >= 0, got ", k);
  const Inputs in(queries, points, lengths1, lengths2);
  Tensor index = new_index(in.queries, {in.batch, in.rows, k});
  int64_t* out = index.mutable_data_ptr<int64_t>();
  const int64_t block = 1 << 16;
  const int64_t total = in.batch * in.rows * k;
  for_each_task((total + block - 1) / block,
                [&](int64_t i) { std::fill(out + i * block, out + std::min(total, (i + 1) * block), int64_t(-1)); });
  if (k == 0) return index;
  for_float_type(in.queries, [&](auto type) {
    using T = decltype(type);
    const Join<T> join(in.queries, in.points, in.n1, in.n2, 16);
    join.run([&](const KdTree<T>& own, const KdTree<T>& other, int64_t b, int32_t first, int32_t last) {
      const T r2 = T(radius) * T(radius);
      PUFFIN_CALL(ball_query_buckets<T>, own, other, first, last, r2, k, out + b * in.rows * k);
    });
  });
  return index;
}

}  // namespace puffin

STABLE_TORCH_LIBRARY_IMPL(puffin, CPU, m) {
  m.impl("knn", TORCH_BOX(&puffin::knn));
  m.impl("ball_count", TORCH_BOX(&puffin::ball_count));
  m.impl("ball_query", TORCH_BOX(&puffin::ball_query));
}
