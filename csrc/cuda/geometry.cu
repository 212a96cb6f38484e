// Local geometry of points on CUDA; defined in src/puffin/ops/geometry.py. One warp per point and scale. No neighbours
// are stored: the k-th distance is found by counting, each time among fewer points.
#include "../shape.h"
#include "boxes.cuh"

namespace puffin::cuda {
namespace {

template <class T>
constexpr T most = std::numeric_limits<T>::max();

// The point of a slot, and its event. visit functions call each(slot, squared distance) for every lane's own points.
template <class T>
struct Query {
  const View<T, Packed>& view;
  int64_t event, own, n;
  const T* x;
  T q[4];

  __device__ Query(const View<T, Packed>& view_, int64_t event_, int64_t own_, int64_t n_)
      : view(view_), event(event_), own(own_), n(n_), x(view.x(event)) {
    for (int c = 0; c < 4; ++c) q[c] = at(own, c);
  }
  __device__ int64_t row() const { return view.first_row(event) + view.indices(event)[own]; }
  __device__ T at(int64_t slot, int column) const { return x[column * view.slots + slot]; }
  template <class Each>
  __device__ void visit_block(int64_t block, const Each& each) const {
    const int64_t slot = block * warp + lane_id();
    if (slot < n) each(slot, squared_distance(q[0] - at(slot, 0), q[1] - at(slot, 1), q[2] - at(slot, 2)));
  }
  // all points at most as far as the limit, and others
  template <class Each>
  __device__ void visit_near(T limit, const Each& each) const {
    const auto enter = [&](int level, int64_t block) { return !(gap(q, view.box(level, event, block)) > limit); };
    walk(n, enter, [&](int64_t block) {
      visit_block(block, each);
      return true;
    });
  }
};

// The k-th smallest distance. hi: a distance that occurs and has at least k up to it, or infinity; until: about their
// number, more than k; visit(hi, each) visits all of them. The bounds are distances that occur, so the search ends
// quickly where many are equal.
template <class T, class Visit>
__device__ T select_distance(int64_t k, T hi, int64_t until, const Visit& visit) {
  T lo = 0;
  int64_t before = 0;  // number of distances below lo
  for (bool halve = false; lo < hi && k < until; halve = !halve) {
    // alternating with a guess by the counts, which is better unless the points are spread very unevenly
    const T fraction = halve ? T(0.5) : (T(k - before) - T(0.5)) / T(until - before);
    T middle = hi < infinity<T>() ? lo + (hi - lo) * fraction : most<T>;
    if (!(middle < hi)) middle = lo;
    int64_t found = 0;
    T below = 0, above = infinity<T>();
    visit(hi, [&](int64_t, T d) {
      found += d <= middle;
      below = d <= middle ? larger(d, below) : below;
      above = d > middle ? smaller(d, above) : above;
    });
    for (int offset = warp / 2; offset; offset /= 2) {
      found += __shfl_xor_sync(all_lanes, found, offset);
      below = larger(below, __shfl_xor_sync(all_lanes, below, offset));
      above = smaller(above, __shfl_xor_sync(all_lanes, above, offset));
    }
    if (found >= k) {
      hi = below;
      until = found;
    } else {
      lo = above;
      before = found;
      if (found == k - 1) return lo;
    }
  }
  return hi;
}

// The squared distance of the k-th nearest point, or of the farthest if there are fewer. The points in nearby blocks
// give a bound.
template <class T>
__device__ T find_reach(const Query<T>& query, int64_t k) {
  k = smaller(k, query.n);
  const int64_t blocks = (query.n + warp - 1) / warp, wanted = smaller((k + warp - 1) / warp + 1, blocks);
  const int64_t first = smaller(larger<int64_t>(query.own / warp - wanted / 2, 0), blocks - wanted);
  const int64_t last = first + wanted, until = wanted * warp + 1;
  const T bound = select_distance(k, infinity<T>(), until, [&](T, const auto& each) {
    for (int64_t block = first; block < last; ++block) query.visit_block(block, each);
  });
  if (wanted == blocks) return bound;
  return select_distance(k, bound, 2 * k, [&](T limit, const auto& each) { query.visit_near(limit, each); });
}

// Writes the columns of one k. covariance (P, 6) holds those of the k before, if there is one, and then of this one.
template <class T>
__global__ void describe_neighbours(View<T, Packed> view, int64_t k, bool is_first, double* covariance, int64_t columns,
                                    T* out) {
  for (int64_t i = thread_id() / warp; i < view.slots; i += thread_count() / warp) {
    const auto [event, own] = view.place_of_slot(i);
    const int64_t n = view.size(event);
    if (own >= n) continue;
    const Query<T> query(view, event, own, n);
    const T reach = find_reach(query, k);
    int64_t count = 0;
    double sums[shape_sums] = {};
    query.visit_near(reach, [&](int64_t slot, T d) {
      if (!(d <= reach)) return;
      double r[4];
      for (int c = 0; c < 4; ++c) r[c] = double(query.at(slot, c)) - double(query.q[c]);
      ++count;
      int next = 4;
      PUFFIN_UNROLL()
      for (int a = 0; a < 4; ++a) {
        sums[a] += r[a];
        PUFFIN_UNROLL()
        for (int b = a; b < 3; ++b) sums[next++] += r[a] * r[b];
      }
      sums[10] += r[3] * r[3];
    });
    for (int offset = warp / 2; offset; offset /= 2) {
      count += __shfl_xor_sync(all_lanes, count, offset);
      PUFFIN_UNROLL()
      for (int s = 0; s < shape_sums; ++s) sums[s] += __shfl_xor_sync(all_lanes, sums[s], offset);
    }
    const Shape shape = shape_of(count, sums, double(query.q[3]));
    double* own_covariance = covariance + 6 * query.row();
    double before[6];
    for (int c = 0; c < 6; ++c) before[c] = is_first ? 0 : own_covariance[c];
    T values[9];
    write_shape(shape, is_first ? nullptr : before, reach, values);
    __syncwarp();  // all lanes have read the covariance before
    T value = values[0];
    double written = shape.covariance[0];
    for (int c = 1; c < 9; ++c) value = lane_id() == c ? values[c] : value;
    for (int c = 1; c < 6; ++c) written = lane_id() == c ? shape.covariance[c] : written;
    if (lane_id() < (is_first ? 8 : 9)) out[query.row() * columns + lane_id()] = value;
    if (lane_id() < 6) own_covariance[lane_id()] = written;
  }
}

constexpr int most_radii = 8;  // of one launch

template <class T>
struct Radii {
  int count;
  T widest, squared[most_radii];
};

// Writes the number and the energy of the points at squared distance < r2, for each radius.
template <class T>
__global__ void describe_balls(View<T, Packed> view, Radii<T> radii, int64_t columns, T* out) {
  for (int64_t i = thread_id() / warp; i < view.slots; i += thread_count() / warp) {
    const auto [event, own] = view.place_of_slot(i);
    const int64_t n = view.size(event);
    if (own >= n) continue;
    const Query<T> query(view, event, own, n);
    int64_t count[most_radii] = {};
    double energy[most_radii] = {};
    query.visit_near(radii.widest, [&](int64_t slot, T d) {
      if (!(d < radii.widest)) return;
      const double e = double(query.at(slot, 3));
      PUFFIN_UNROLL()
      for (int r = 0; r < most_radii; ++r) {
        const bool inside = r < radii.count && d < radii.squared[r];
        count[r] += inside;
        energy[r] += inside ? e : 0.0;
      }
    });
    T value = T(0);
    PUFFIN_UNROLL()
    for (int r = 0; r < most_radii; ++r) {
      for (int offset = warp / 2; offset; offset /= 2) {
        count[r] += __shfl_xor_sync(all_lanes, count[r], offset);
        energy[r] += __shfl_xor_sync(all_lanes, energy[r], offset);
      }
      if (lane_id() / 2 == r) value = lane_id() % 2 ? T(energy[r]) : T(count[r]);
    }
    if (lane_id() < 2 * radii.count) out[query.row() * columns + lane_id()] = value;
  }
}

}  // namespace

Tensor local_geometry(const Tensor points_in, const Tensor ptr, const std::vector<int64_t> neighbours,
                      const std::vector<double> radii) {
  check_packed(points_in, ptr);
  const int64_t scales = int64_t(neighbours.size()), columns = 9 * scales - (scales > 0) + 2 * int64_t(radii.size());
  for (int64_t s = 0; s < scales; ++s)
    STD_TORCH_CHECK(neighbours[s] > (s ? neighbours[s - 1] : 0), "neighbours: expected numbers >= 1, ascending");
  const Scope scope(points_in);
  const Tensor points = torch::stable::contiguous(points_in);
  Tensor out = new_tensor(points, {points.size(0), columns}, points.scalar_type());
  if (out.numel() == 0) return out;
  Tensor covariance = new_tensor(points, {points.size(0), 6}, ScalarType::Double);
  for_float_type(points, [&](auto type) {
    using T = decltype(type);
    const Blocks<T, Packed> blocks(points, ptr, true, scope.stream);
    const unsigned grid = blocks_for(blocks.view.slots * warp);
    T* column = out.mutable_data_ptr<T>();
    for (int64_t s = 0; s < scales; column += s++ == 0 ? 8 : 9)
      PUFFIN_LAUNCH(describe_neighbours<T>, grid, threads_per_block, scope.stream, blocks.view, neighbours[s], s == 0,
                    covariance.mutable_data_ptr<double>(), columns, column);
    for (size_t first = 0; first < radii.size(); first += most_radii, column += 2 * most_radii) {
      Radii<T> some{int(std::min<size_t>(radii.size() - first, most_radii)), T(0), {}};
      for (int r = 0; r < some.count; ++r) {
        some.squared[r] = T(radii[first + r]) * T(radii[first + r]);
        some.widest = std::max(some.widest, some.squared[r]);
      }
      PUFFIN_LAUNCH(describe_balls<T>, grid, threads_per_block, scope.stream, blocks.view, some, columns, column);
    }
  });
  return out;
}

}  // namespace puffin::cuda

PUFFIN_KERNELS(m) { m.impl("local_geometry", TORCH_BOX(&puffin::cuda::local_geometry)); }
