// Centrality-based non-maximum suppression on CUDA; defined in src/puffin/ops/cnms.py.
//
// Exact: a point is kept if and only if no kept point of higher priority is within the radius. Warps take points in the
// order of priority, and a point waits until all its neighbours of higher priority are decided. This cannot deadlock:
// the first undecided point of an event waits for no other point, and every point that is waited for belongs to a
// running warp. The second holds also where not all blocks fit on the GPU: a warp draws its number when it runs,
// numbers ascend, and a block that has started runs to its end. A state is one word that changes once, and no other
// memory is read because of it, so volatile accesses are enough and no fence is needed.
#include "boxes.cuh"

namespace puffin::cuda {
namespace {

enum State : int32_t { undecided = 0, kept = 1, suppressed = 2 };

// Sorts by descending count, then index; padding last. Also clears the states.
__global__ void make_priorities(const int64_t* counts, const int64_t* lengths, int64_t batch, int64_t rows,
                                int64_t* keys, int32_t* state) {
  for (int64_t i = thread_id(); i < batch * rows; i += thread_count()) {
    const int64_t point = i % rows;
    const bool used = point < event_size(lengths, i / rows, rows);
    keys[i] = used ? (rows - counts[i]) << 32 | point : last_key;
    state[i] = undecided;
  }
}

template <class T>
__global__ void suppress(View<T> view, const T* points, int64_t stride, const int64_t* counts, const int64_t* keys,
                         T r2, volatile int32_t* state, unsigned long long* drawn) {
  const int lane = lane_id();
  const int64_t total = view.batch * view.rows;
  for (;;) {
    unsigned long long ticket = 0;
    if (lane == 0) ticket = atomicAdd(drawn, 1ull);
    ticket = __shfl_sync(all_lanes, ticket, 0);
    if (ticket >= (unsigned long long)total) return;
    const int64_t event = int64_t(ticket) % view.batch, rank = int64_t(ticket) / view.batch, n = view.size(event);
    if (rank >= n) continue;
    const int64_t point = keys[event * view.rows + rank] & 0xffffffff;
    const int64_t* count = counts + event * view.rows;
    volatile int32_t* states = state + event * view.rows;
    const int64_t own = count[point];
    const T* p = points + (event * view.rows + point) * stride;
    const T q[3] = {p[0], p[1], p[2]};
    for (;;) {
      bool waits = false;
      const auto enter = [&](int level, int64_t block) { return gap(q, view.box(level, event, block)) < r2; };
      const bool stays = walk(n, enter, [&](int64_t block) {
        const int64_t slot = block * warp + lane;
        const T* x = view.x(event) + slot;
        int32_t found = suppressed;  // a neighbour of lower priority does not matter
        if (slot < n && squared_distance(q[0] - x[0], q[1] - x[view.slots], q[2] - x[2 * view.slots]) < r2) {
          const int64_t other = view.indices(event)[slot];
          if (count[other] > own || (count[other] == own && other < point)) found = states[other];
        }
        if (__any_sync(all_lanes, found == kept)) return false;
        waits = waits || __any_sync(all_lanes, found == undecided);
        return true;
      });
      if (stays && waits) {
        __nanosleep(100);
        continue;
      }
      if (lane == 0) states[point] = stays ? kept : suppressed;
      __syncwarp();
      break;
    }
  }
}

// One block of threads per event: the kept indices in ascending order, then -1.
__global__ void compact(const int32_t* state, const int64_t* lengths, int64_t rows, int64_t* index, int64_t* count) {
  PUFFIN_SHARED(int[warp], in_warp);
  PUFFIN_SHARED(int64_t, written);
  const int64_t event = blockIdx.x, n = event_size(lengths, event, rows);
  const int lane = lane_id(), group = threadIdx.x / warp, groups = blockDim.x / warp;
  if (threadIdx.x == 0) written = 0;
  __syncthreads();
  for (int64_t base = 0; base < n; base += blockDim.x) {
    const int64_t i = base + threadIdx.x;
    const bool stays = i < n && state[event * rows + i] == kept;
    const unsigned mask = __ballot_sync(all_lanes, stays);
    if (lane == 0) in_warp[group] = __popc(mask);
    __syncthreads();
    int64_t place = written + __popc(mask & ((1u << lane) - 1));
    for (int g = 0; g < group; ++g) place += in_warp[g];
    if (stays) index[event * rows + place] = i;
    __syncthreads();
    if (threadIdx.x == 0)
      for (int g = 0; g < groups; ++g) written += in_warp[g];
    __syncthreads();
  }
  for (int64_t i = written + threadIdx.x; i < rows; i += blockDim.x) index[event * rows + i] = -1;
  if (threadIdx.x == 0) count[event] = written;
}

}  // namespace

std::tuple<Tensor, Tensor> cnms(const Tensor points_in, const Tensor lengths_in, double radius) {
  check_points(points_in, "points");
  check_per_event(lengths_in, points_in, "lengths");
  const Scope scope(points_in);
  const Tensor points = torch::stable::contiguous(points_in), lengths = torch::stable::contiguous(lengths_in);
  const int64_t batch = points.size(0), rows = points.size(1), stride = points.size(2);
  Tensor index = new_index(points, {batch, rows}), count = new_index(points, {batch});
  if (batch == 0) return {index, count};
  Tensor counts = new_index(points, {batch, rows}), keys = new_index(points, {batch, rows});
  Tensor state = new_tensor(points, {batch, rows}, ScalarType::Int);
  Tensor drawn = new_index(points, {1});
  const int64_t* n = lengths.const_data_ptr<int64_t>();
  if (rows > 0) {
    torch::stable::zero_(drawn);
    for_float_type(points, [&](auto type) {
      using T = decltype(type);
      const T r2 = T(radius) * T(radius);
      const Blocks<T> blocks(points, lengths, true, scope.stream);
      launch_count<T>(blocks.view, points, lengths, r2, counts.mutable_data_ptr<int64_t>(), scope.stream);
      PUFFIN_LAUNCH(
          make_priorities, blocks_for(batch * rows), threads_per_block, scope.stream, counts.const_data_ptr<int64_t>(),
          n, batch, rows, keys.mutable_data_ptr<int64_t>(), state.mutable_data_ptr<int32_t>());
      const Tensor sorted = std::get<0>(sort_rows(keys));
      const unsigned grid = std::min(blocks_for(batch * rows * warp), 4096u);
      PUFFIN_LAUNCH(
          suppress<T>, grid, threads_per_block, scope.stream, blocks.view, points.const_data_ptr<T>(), stride,
          counts.const_data_ptr<int64_t>(), sorted.const_data_ptr<int64_t>(), r2, state.mutable_data_ptr<int32_t>(),
          reinterpret_cast<unsigned long long*>(drawn.mutable_data_ptr<int64_t>()));
    });
  }
  PUFFIN_LAUNCH(compact, unsigned(batch), 1024, scope.stream, state.const_data_ptr<int32_t>(), n, rows,
                index.mutable_data_ptr<int64_t>(), count.mutable_data_ptr<int64_t>());
  return {index, count};
}

}  // namespace puffin::cuda

PUFFIN_KERNELS(m) { m.impl("cnms", TORCH_BOX(&puffin::cuda::cnms)); }
