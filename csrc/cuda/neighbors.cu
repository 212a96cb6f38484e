// k nearest neighbours, ball query and ball count on CUDA; defined in src/puffin/ops/neighbors.py. One warp per query.
#include "boxes.cuh"

namespace puffin::cuda {
namespace {

// Whether a comes before b: smaller distance, then lower index; index -1 (no point) comes last.
template <class T>
__device__ bool before(T a, int64_t a_index, T b, int64_t b_index) {
  return a < b || (a == b && uint64_t(a_index) < uint64_t(b_index));
}

// The nearest points found so far for k <= 32: one per lane, in ascending order.
template <class T>
struct LaneList {
  int k;
  T distance = infinity<T>();
  int64_t index = -1;
  __device__ LaneList(int64_t k_, T*, int64_t*) : k(int(k_)) {}
  __device__ void insert(T d, int64_t i) {
    const int place = __popc(__ballot_sync(all_lanes, lane_id() < k && before(distance, index, d, i)));
    const T lower = __shfl_up_sync(all_lanes, distance, 1);
    const int64_t lower_index = __shfl_up_sync(all_lanes, index, 1);
    if (lane_id() >= place) {
      distance = lane_id() == place ? d : lower;
      index = lane_id() == place ? i : lower_index;
    }
  }
  __device__ T worst() const { return __shfl_sync(all_lanes, distance, k - 1); }
  __device__ int64_t worst_index() const { return __shfl_sync(all_lanes, index, k - 1); }
  __device__ void write(T* distances, int64_t* indices) const {
    if (lane_id() >= k) return;
    distances[lane_id()] = distance;
    indices[lane_id()] = index;
  }
};

// The nearest points found so far for any k, stored in the output row itself.
template <class T>
struct MemoryList {
  int64_t k;
  T* distances;
  int64_t* indices;
  __device__ MemoryList(int64_t k_, T* d, int64_t* i) : k(k_), distances(d), indices(i) {
    for (int64_t j = lane_id(); j < k; j += warp) {
      distances[j] = infinity<T>();
      indices[j] = -1;
    }
    __syncwarp();
  }
  __device__ void insert(T d, int64_t i) {
    int64_t place = 0;
    for (int64_t j = lane_id(); j < k; j += warp) place += before(distances[j], indices[j], d, i);
    for (int offset = warp / 2; offset; offset /= 2) place += __shfl_xor_sync(all_lanes, place, offset);
    for (int64_t base = (k - 1) / warp * warp; base + warp > place; base -= warp) {  // shift up from the end
      const int64_t j = base + lane_id();
      const bool moves = j > place && j < k;
      const T from = moves ? distances[j - 1] : T(0);
      const int64_t from_index = moves ? indices[j - 1] : 0;
      __syncwarp();
      if (moves) {
        distances[j] = from;
        indices[j] = from_index;
      }
      if (base == 0) break;
    }
    if (lane_id() == 0 && place < k) {
      distances[place] = d;
      indices[place] = i;
    }
    __syncwarp();
  }
  __device__ T worst() const { return distances[k - 1]; }
  __device__ int64_t worst_index() const { return indices[k - 1]; }
  __device__ void write(T*, int64_t*) const {}
};

template <class T, class List>
__global__ void find_nearest(View<T> view, const T* queries, const int64_t* lengths, int64_t rows, int64_t stride,
                             int64_t k, T* distances, int64_t* indices) {
  const int lane = lane_id();
  for (int64_t i = thread_id() / warp; i < view.batch * rows; i += thread_count() / warp) {
    const int64_t event = i / rows;
    List list(k, distances + i * k, indices + i * k);
    const int64_t n = i % rows < event_size(lengths, event, rows) ? view.size(event) : 0;
    if (n > 0) {
      const T q[3] = {queries[i * stride], queries[i * stride + 1], queries[i * stride + 2]};
      T worst = list.worst();
      int64_t worst_index = list.worst_index();
      const auto visit = [&](int64_t block) {
        const int64_t slot = block * warp + lane;
        const T* x = view.x(event) + slot;
        const bool used = slot < n;
        const T d = used ? squared_distance(q[0] - x[0], q[1] - x[view.slots], q[2] - x[2 * view.slots]) : T(0);
        const int64_t point = used ? view.indices(event)[slot] : -1;
        for (unsigned m = __ballot_sync(all_lanes, used && before(d, point, worst, worst_index)); m; m &= m - 1) {
          const T candidate = __shfl_sync(all_lanes, d, __ffs(m) - 1);
          const int64_t candidate_index = __shfl_sync(all_lanes, point, __ffs(m) - 1);
          if (!before(candidate, candidate_index, worst, worst_index)) continue;
          list.insert(candidate, candidate_index);
          worst = list.worst();
          worst_index = list.worst_index();
        }
        return true;
      };
      // start with the block of 1024 points whose box is nearest: its distances exclude most other blocks
      const int64_t n0 = (n + 31) / 32, n1 = (n0 + 31) / 32;
      T near = infinity<T>();
      int64_t seed = 0;
      for (int64_t b = lane; b < n1; b += warp) {
        const T g = gap(q, view.box(1, event, b));
        if (g < near) {
          near = g;
          seed = b;
        }
      }
      for (int offset = warp / 2; offset; offset /= 2) {
        const T g = __shfl_xor_sync(all_lanes, near, offset);
        const int64_t b = __shfl_xor_sync(all_lanes, seed, offset);
        if (g < near || (g == near && b < seed)) {
          near = g;
          seed = b;
        }
      }
      for (int64_t block = seed * warp; block < n0 && block < seed * warp + warp; ++block)
        if (!(gap(q, view.box(0, event, block)) > worst)) visit(block);
      const auto enter = [&](int level, int64_t block) {  // at an equal distance, a lower index still wins
        return !(level == 1 && block == seed) && !(gap(q, view.box(level, event, block)) > worst);
      };
      walk(n, enter, [&](int64_t block) { return gap(q, view.box(0, event, block)) > worst ? true : visit(block); });
    }
    list.write(distances + i * k, indices + i * k);
  }
}

// The view keeps the order of the points, so hits are found in ascending order of their index.
template <class T>
__global__ void find_inside(View<T> view, const T* queries, const int64_t* lengths, int64_t rows, int64_t stride, T r2,
                            int64_t k, int64_t* indices) {
  const int lane = lane_id();
  for (int64_t i = thread_id() / warp; i < view.batch * rows; i += thread_count() / warp) {
    const int64_t event = i / rows;
    const int64_t n = i % rows < event_size(lengths, event, rows) ? view.size(event) : 0;
    int64_t* row = indices + i * k;
    int64_t found = 0;
    if (n > 0) {
      const T q[3] = {queries[i * stride], queries[i * stride + 1], queries[i * stride + 2]};
      const auto enter = [&](int level, int64_t block) { return gap(q, view.box(level, event, block)) < r2; };
      walk(n, enter, [&](int64_t block) {
        const int64_t slot = block * warp + lane;
        const T* x = view.x(event) + slot;
        const bool hit = slot < n && squared_distance(q[0] - x[0], q[1] - x[view.slots], q[2] - x[2 * view.slots]) < r2;
        const unsigned hits = __ballot_sync(all_lanes, hit);
        const int64_t place = found + __popc(hits & ((1u << lane) - 1));
        if (hit && place < k) row[place] = slot;
        found += __popc(hits);
        return found < k;
      });
    }
    for (int64_t j = found + lane; j < k; j += warp) row[j] = -1;
  }
}

struct Inputs {
  Scope scope;
  Tensor queries, points, lengths1, lengths2;
  int64_t batch, rows, stride;
  Inputs(const Tensor& q, const Tensor& p, const Tensor& l1, const Tensor& l2) : scope(q) {
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
    stride = q.size(2);
  }
};

}  // namespace

std::tuple<Tensor, Tensor> knn(const Tensor queries, const Tensor points, const Tensor lengths1, const Tensor lengths2,
                               int64_t k) {
  STD_TORCH_CHECK(k >= 0, "k: expected k >= 0, got ", k);
  const Inputs in(queries, points, lengths1, lengths2);
  Tensor distance = new_tensor(in.queries, {in.batch, in.rows, k}, in.queries.scalar_type());
  Tensor index = new_index(in.queries, {in.batch, in.rows, k});
  if (index.numel() == 0) return {distance, index};
  for_float_type(in.queries, [&](auto type) {
    using T = decltype(type);
    const Blocks<T> blocks(in.points, in.lengths2, true, in.scope.stream);
    const auto find_neighbors = k <= warp ? &find_nearest<T, LaneList<T>> : &find_nearest<T, MemoryList<T>>;
    PUFFIN_LAUNCH(find_neighbors, blocks_for(in.batch * in.rows * warp), threads_per_block, in.scope.stream,
                  blocks.view, in.queries.const_data_ptr<T>(), in.lengths1.const_data_ptr<int64_t>(), in.rows,
                  in.stride, k, distance.mutable_data_ptr<T>(), index.mutable_data_ptr<int64_t>());
  });
  return {distance, index};
}

Tensor ball_count(const Tensor queries, const Tensor points, const Tensor lengths1, const Tensor lengths2,
                  double radius) {
  const Inputs in(queries, points, lengths1, lengths2);
  Tensor counts = new_index(in.queries, {in.batch, in.rows});
  for_float_type(in.queries, [&](auto type) {
    using T = decltype(type);
    const Blocks<T> blocks(in.points, in.lengths2, true, in.scope.stream);
    launch_count<T>(blocks.view, in.queries, in.lengths1, T(radius) * T(radius), counts.mutable_data_ptr<int64_t>(),
                    in.scope.stream);
  });
  return counts;
}

Tensor ball_query(const Tensor queries, const Tensor points, const Tensor lengths1, const Tensor lengths2,
                  double radius, int64_t k) {
  STD_TORCH_CHECK(k >= 0, "k: expected k >= 0, got ", k);
  const Inputs in(queries, points, lengths1, lengths2);
  Tensor index = new_index(in.queries, {in.batch, in.rows, k});
  if (index.numel() == 0) return index;
  for_float_type(in.queries, [&](auto type) {
    using T = decltype(type);
    const Blocks<T> blocks(in.points, in.lengths2, false, in.scope.stream);
    PUFFIN_LAUNCH(find_inside<T>, blocks_for(in.batch * in.rows * warp), threads_per_block, in.scope.stream,
                  blocks.view, in.queries.const_data_ptr<T>(), in.lengths1.const_data_ptr<int64_t>(), in.rows,
                  in.stride, T(radius) * T(radius), k, index.mutable_data_ptr<int64_t>());
  });
  return index;
}

}  // namespace puffin::cuda

PUFFIN_KERNELS(m) {
  m.impl("knn", TORCH_BOX(&puffin::cuda::knn));
  m.impl("ball_count", TORCH_BOX(&puffin::cuda::ball_count));
  m.impl("ball_query", TORCH_BOX(&puffin::cuda::ball_query));
}
