// Bounding boxes of blocks of 32, 32^2 and 32^3 consecutive points of each event, and the search of one warp through
// them.
//
// The points are in Morton order, or in their own order where indices must be found in ascending order. Blocks of real
// clouds are then compact; for other clouds the search is slower, with the same result. The bounds are safe in floating
// point, because the rounding of differences, products and sums is monotonic.
#pragma once

#include "device.cuh"

namespace puffin::cuda {

template <class T>
struct Box {
  T lo[3], hi[3];
};

// What kernels need of the boxes. Slot: position of a point in the order of the blocks.
template <class T>
struct View {
  int64_t batch, rows, slots;  // slots: rows rounded up to whole blocks
  int64_t blocks[3];           // boxes per event and level
  const T* coords;             // (B, 3, slots)
  const int32_t* index;        // (B, slots) the point of a slot
  const T* boxes[3];           // (B, 6, blocks[level]): all lo x, lo y, lo z, hi x, hi y, hi z
  const int64_t* lengths;      // (B,)

  __device__ int64_t size(int64_t event) const { return event_size(lengths, event, rows); }
  __device__ const T* x(int64_t event) const { return coords + event * 3 * slots; }
  __device__ const int32_t* indices(int64_t event) const { return index + event * slots; }
  __device__ Box<T> box(int level, int64_t event, int64_t i) const {
    const T* p = boxes[level] + event * 6 * blocks[level] + i;
    Box<T> box;
    for (int c = 0; c < 3; ++c) {
      box.lo[c] = p[c * blocks[level]];
      box.hi[c] = p[(c + 3) * blocks[level]];
    }
    return box;
  }
};

template <class T>
__device__ inline T gap(const T* q, const Box<T>& box) {
  T d[3];
  for (int c = 0; c < 3; ++c) d[c] = larger(larger(box.lo[c] - q[c], q[c] - box.hi[c]), T(0));
  return squared_distance(d[0], d[1], d[2]);
}

template <class T>
__device__ inline T span(const T* q, const Box<T>& box) {
  T d[3];
  for (int c = 0; c < 3; ++c) d[c] = larger(box.hi[c] - q[c], q[c] - box.lo[c]);
  return squared_distance(d[0], d[1], d[2]);
}

// One warp visits the blocks of 32 points for which enter(level, i) is true. Each lane calls enter for its own boxes of
// a level; all lanes call visit(block) together, which returns whether to continue. Returns false if visit stopped the
// search.
template <class T, class Enter, class Visit>
__device__ bool walk(const View<T>& view, int64_t event, int64_t size, const Enter& enter, const Visit& visit) {
  const int lane = lane_id();
  const int64_t n0 = (size + 31) / 32, n1 = (n0 + 31) / 32, n2 = (n1 + 31) / 32;
  for (int64_t base2 = 0; base2 < n2; base2 += warp) {
    const int64_t i2 = base2 + lane;
    for (unsigned m2 = __ballot_sync(all_lanes, i2 < n2 && enter(2, i2)); m2; m2 &= m2 - 1) {
      const int64_t i1 = (base2 + __ffs(m2) - 1) * warp + lane;
      for (unsigned m1 = __ballot_sync(all_lanes, i1 < n1 && enter(1, i1)); m1; m1 &= m1 - 1) {
        const int64_t first = (i1 - lane + __ffs(m1) - 1) * warp, i0 = first + lane;
        for (unsigned m0 = __ballot_sync(all_lanes, i0 < n0 && enter(0, i0)); m0; m0 &= m0 - 1)
          if (!visit(first + __ffs(m0) - 1)) return false;
      }
    }
  }
  return true;
}

template <class T>
__device__ Box<T> empty_box() {
  Box<T> box;
  for (int c = 0; c < 3; ++c) {
    box.lo[c] = infinity<T>();
    box.hi[c] = -infinity<T>();
  }
  return box;
}

// Comparisons with NaN are false, so a NaN coordinate does not change a box.
template <class T>
__device__ void enclose(Box<T>& box, const T* lo, const T* hi) {
  for (int c = 0; c < 3; ++c) {
    box.lo[c] = lo[c] < box.lo[c] ? lo[c] : box.lo[c];
    box.hi[c] = hi[c] > box.hi[c] ? hi[c] : box.hi[c];
  }
}

// The box around the boxes of all lanes.
template <class T>
__device__ void enclose_lanes(Box<T>& box) {
  for (int offset = warp / 2; offset; offset /= 2) {
    T lo[3], hi[3];
    for (int c = 0; c < 3; ++c) {
      lo[c] = __shfl_xor_sync(all_lanes, box.lo[c], offset);
      hi[c] = __shfl_xor_sync(all_lanes, box.hi[c], offset);
    }
    enclose(box, lo, hi);
  }
}

template <class T>
__global__ void find_bounds(const T* points, const int64_t* lengths, int64_t rows, int64_t stride, Box<T>* bounds) {
  PUFFIN_SHARED(Box<T>[warp], part);
  const int64_t event = blockIdx.x, n = event_size(lengths, event, rows);
  Box<T> box = empty_box<T>();
  for (int64_t base = int64_t(threadIdx.x) - lane_id(); base < n; base += blockDim.x) {
    const int64_t i = base + lane_id();
    T x[3];
    load_points(points + event * rows * stride, i < n ? i : -1, stride, x);
    if (i < n) enclose(box, x, x);
  }
  enclose_lanes(box);
  if (lane_id() == 0) part[threadIdx.x / warp] = box;
  __syncthreads();
  if (threadIdx.x >= warp) return;
  box = part[min(int(threadIdx.x), int(blockDim.x) / warp - 1)];
  enclose_lanes(box);
  if (threadIdx.x == 0) bounds[event] = box;
}

__device__ inline int64_t spread_bits(uint64_t v) {  // moves bit i to bit 3 i, for 21 bits
  v = (v | v << 32) & 0x1f00000000ffffull;
  v = (v | v << 16) & 0x1f0000ff0000ffull;
  v = (v | v << 8) & 0x100f00f00f00f00full;
  v = (v | v << 4) & 0x10c30c30c30c30c3ull;
  v = (v | v << 2) & 0x1249249249249249ull;
  return int64_t(v);
}

// Morton codes; padding sorts last.
template <class T>
__global__ void make_keys(const T* points, const int64_t* lengths, int64_t batch, int64_t rows, int64_t stride,
                          const Box<T>* bounds, int64_t* keys) {
  for (int64_t base = thread_id() - lane_id(); base < batch * rows; base += thread_count()) {
    const int64_t i = base + lane_id(), event = i / rows;
    const bool used = i < batch * rows && i % rows < event_size(lengths, event, rows);
    T x[3];
    load_points(points, used ? i : -1, stride, x);
    int64_t key = used ? 0 : last_key;
    for (int c = 0; c < 3 && used; ++c) {
      const T lo = bounds[event].lo[c], extent = bounds[event].hi[c] - lo;
      T t = (x[c] - lo) / extent * T(2097152);
      t = t >= T(0) ? t : T(0);  // also 0 where the extent is 0 or NaN
      key |= spread_bits(t < T(2097151) ? uint64_t(t) : 2097151u) << c;
    }
    if (i < batch * rows) keys[i] = key;
  }
}

// order (B, rows): the point of each slot, or null to keep the order of the points
template <class T>
__global__ void fill_slots(const T* points, const int64_t* lengths, const int64_t* order, int64_t batch, int64_t rows,
                           int64_t slots, int64_t stride, T* coords, int32_t* index) {
  for (int64_t i = thread_id(); i < batch * slots; i += thread_count()) {  // slots is a multiple of a warp
    const int64_t event = i / slots, slot = i % slots;
    const bool used = slot < event_size(lengths, event, rows);
    const int64_t point = !used ? -1 : order ? order[event * rows + slot] : slot;
    T x[3];
    load_points(points, used ? event * rows + point : -1, stride, x);
    index[i] = int32_t(point);
    for (int c = 0; c < 3; ++c) coords[(event * 3 + c) * slots + slot] = x[c];
  }
}

// Computes the boxes of one level from those of the level below (level 0: from the points), one warp per box.
template <class T>
__global__ void fill_boxes(View<T> view, int level, T* out) {
  const int64_t blocks = view.blocks[level];
  for (int64_t i = thread_id() / warp; i < view.batch * blocks; i += thread_count() / warp) {
    const int64_t event = i / blocks, block = i % blocks, n = view.size(event), j = block * warp + lane_id();
    const int64_t below = level == 0 ? n : level == 1 ? (n + 31) / 32 : (n + 1023) / 1024;
    Box<T> box = empty_box<T>();
    if (j < below && level == 0) {
      const T* p = view.x(event) + j;
      const T x[3] = {p[0], p[view.slots], p[2 * view.slots]};
      enclose(box, x, x);
    } else if (j < below) {
      box = view.box(level - 1, event, j);
    }
    enclose_lanes(box);
    const int c = lane_id();  // lanes 0 to 5 write lo x, lo y, lo z, hi x, hi y, hi z
    T value = box.lo[0];
    for (int k = 1; k < 6; ++k) value = c == k ? (k < 3 ? box.lo[k] : box.hi[k - 3]) : value;
    if (c < 6) out[(event * 6 + c) * blocks + block] = value;
  }
}

// Owns the memory of a view. All work is queued on the stream; the host does not wait.
template <class T>
struct Blocks {
  Tensor coords, index, boxes[3];
  View<T> view;

  Blocks(const Tensor& points, const Tensor& lengths, bool sorted, cudaStream_t stream) {
    const int64_t batch = points.size(0), rows = points.size(1), stride = points.size(2);
    STD_TORCH_CHECK(rows < (int64_t(1) << 31) - 64, "expected fewer than 2^31 points per event");
    view.batch = batch;
    view.rows = rows;
    view.blocks[0] = (rows + 31) / 32;
    view.blocks[1] = (view.blocks[0] + 31) / 32;
    view.blocks[2] = (view.blocks[1] + 31) / 32;
    view.slots = view.blocks[0] * 32;
    coords = new_tensor(points, {batch, 3, view.slots}, points.scalar_type());
    index = new_tensor(points, {batch, view.slots}, ScalarType::Int);
    for (int level = 0; level < 3; ++level)
      boxes[level] = new_tensor(points, {batch, 6, view.blocks[level]}, points.scalar_type());
    view.coords = coords.template const_data_ptr<T>();
    view.index = index.template const_data_ptr<int32_t>();
    for (int level = 0; level < 3; ++level) view.boxes[level] = boxes[level].template const_data_ptr<T>();
    view.lengths = lengths.const_data_ptr<int64_t>();
    if (batch == 0 || rows == 0) return;
    const T* data = points.const_data_ptr<T>();
    Tensor order;  // must live until fill_slots is queued; then the allocator keeps stream order
    const int64_t* order_data = nullptr;
    if (sorted) {
      Tensor bounds = new_tensor(points, {batch, 6}, points.scalar_type()), keys = new_index(points, {batch, rows});
      Box<T>* bounds_data = reinterpret_cast<Box<T>*>(bounds.template mutable_data_ptr<T>());
      PUFFIN_LAUNCH(find_bounds<T>, unsigned(batch), 1024, stream, data, view.lengths, rows, stride, bounds_data);
      PUFFIN_LAUNCH(make_keys<T>, blocks_for(batch * rows), threads_per_block, stream, data, view.lengths, batch, rows,
                    stride, bounds_data, keys.mutable_data_ptr<int64_t>());
      order = std::get<1>(sort_rows(keys));
      order_data = order.const_data_ptr<int64_t>();
    }
    PUFFIN_LAUNCH(
        fill_slots<T>, blocks_for(batch * view.slots), threads_per_block, stream, data, view.lengths, order_data, batch,
        rows, view.slots, stride, coords.template mutable_data_ptr<T>(), index.mutable_data_ptr<int32_t>());
    for (int level = 0; level < 3; ++level) {
      PUFFIN_LAUNCH(fill_boxes<T>, blocks_for(batch * view.blocks[level] * warp), threads_per_block, stream, view,
                    level, boxes[level].template mutable_data_ptr<T>());
    }
  }
};

// counts[event, i]: number of points of the view at squared distance < r2 from query i; 0 for padding. One warp per
// query.
template <class T>
__global__ void count_inside(View<T> view, const T* queries, const int64_t* lengths, int64_t rows, int64_t stride, T r2,
                             int64_t* counts) {
  const int lane = lane_id();
  for (int64_t i = thread_id() / warp; i < view.batch * rows; i += thread_count() / warp) {
    const int64_t event = i / rows, n = view.size(event);
    int64_t count = 0;
    if (i % rows < event_size(lengths, event, rows)) {
      const T q[3] = {queries[i * stride], queries[i * stride + 1], queries[i * stride + 2]};
      const auto enter = [&](int level, int64_t block) {
        const Box<T> box = view.box(level, event, block);
        if (!(gap(q, box) < r2)) return false;
        if (!(span(q, box) < r2)) return true;
        const int64_t width = int64_t(32) << (5 * level), left = n - block * width;
        count += left < width ? left : width;  // the whole block is inside
        return false;
      };
      walk(view, event, n, enter, [&](int64_t block) {
        const int64_t slot = block * warp + lane;
        const T* x = view.x(event) + slot;
        if (slot < n) count += squared_distance(q[0] - x[0], q[1] - x[view.slots], q[2] - x[2 * view.slots]) < r2;
        return true;
      });
    }
    for (int offset = warp / 2; offset; offset /= 2) count += __shfl_xor_sync(all_lanes, count, offset);
    if (lane == 0) counts[i] = count;
  }
}

template <class T>
void launch_count(const View<T>& view, const Tensor& queries, const Tensor& lengths, T r2, int64_t* counts,
                  cudaStream_t stream) {
  const int64_t total = queries.size(0) * queries.size(1);
  if (total == 0) return;
  PUFFIN_LAUNCH(count_inside<T>, blocks_for(total * warp), threads_per_block, stream, view, queries.const_data_ptr<T>(),
                lengths.const_data_ptr<int64_t>(), queries.size(1), queries.size(2), r2, counts);
}

}  // namespace puffin::cuda
