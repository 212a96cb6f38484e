// Centrality-based non-maximum suppression on the CPU; defined in src/puffin/ops/cnms.py.
#define PUFFIN_KERNEL "cnms_kernel.h"
#include "targets.h"

namespace puffin {
namespace {

// Indices in descending order of the counts; ties go to the lowest index.
std::vector<int32_t> by_priority(const std::vector<int64_t>& counts) {
  std::vector<uint64_t> keys(counts.size());
  for (size_t i = 0; i < keys.size(); ++i) keys[i] = uint64_t(counts.size() - counts[i]) << 32 | i;
  std::sort(keys.begin(), keys.end());
  std::vector<int32_t> order(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) order[i] = int32_t(uint32_t(keys[i]));
  return order;
}

}  // namespace

std::tuple<Tensor, Tensor> cnms(const Tensor points_in, const Tensor lengths_in, double radius) {
  check_points(points_in, "points");
  check_per_event(lengths_in, points_in, "lengths");
  const Tensor points = torch::stable::contiguous(points_in), lengths = torch::stable::contiguous(lengths_in);
  const int64_t batch = points.size(0), rows = points.size(1);
  const int64_t* n = checked_lengths(lengths, rows, "lengths");
  Tensor index = new_index(points, {batch, rows}), kept = new_index(points, {batch});
  int64_t *out = index.mutable_data_ptr<int64_t>(), *kept_out = kept.mutable_data_ptr<int64_t>();
  for_float_type(points, [&](auto type) {
    using T = decltype(type);
    const T r2 = T(radius) * T(radius);
    const std::vector<KdTree<T>> trees = build_trees<T>(points, n, 32);
    std::vector<std::vector<int64_t>> counts(batch);
    struct Task {
      int64_t event;
      int32_t first, last;
    };
    std::vector<Task> tasks;
    for (int64_t b = 0; b < batch; ++b) {
      counts[b].resize(n[b]);
      const int32_t buckets = trees[b].buckets, step = std::clamp(buckets / 16, 8, 256);
      for (int32_t i = 0; i < buckets; i += step) tasks.push_back({b, i, std::min(buckets, i + step)});
    }
    for_each_task(int64_t(tasks.size()), [&](int64_t i) {
      const auto [b, first, last] = tasks[i];
      PUFFIN_CALL(ball_count_buckets<T>, trees[b], trees[b], first, last, r2, counts[b].data());
    });
    for_each_task(batch, [&](int64_t b) {
      std::vector<char> stays(n[b]);
      if (n[b] > 0) PUFFIN_CALL(suppress_greedily<T>, trees[b], by_priority(counts[b]), r2, stays.data());
      int64_t* row = out + b * rows;
      int64_t count = 0;
      for (int64_t i = 0; i < n[b]; ++i)
        if (stays[i]) row[count++] = i;
      std::fill(row + count, row + rows, int64_t(-1));
      kept_out[b] = count;
    });
  });
  return {index, kept};
}

}  // namespace puffin

STABLE_TORCH_LIBRARY_IMPL(puffin, CPU, m) { m.impl("cnms", TORCH_BOX(&puffin::cnms)); }
