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

// Where a row, slot or box is: its event, and its number within the event.
struct Place {
  int64_t event, number;
};

// The events of a padded batch, each with tables of its own (of rows, slots and boxes). first_slot and first_box: where
// an event begins in a table with `width` columns, which are stored one after another.
struct Padded {
  static constexpr int columns = 3;  // of a point, which are copied into its slot

  int64_t batch, rows, slots;  // rows and slots per event; slots: rows rounded up to whole blocks
  int64_t blocks[3];           // boxes per event and level
  const int64_t* lengths;      // (B,)

  Padded(const Tensor& points, const Tensor& sizes)
      : batch(points.size(0)), rows(points.size(1)), lengths(sizes.const_data_ptr<int64_t>()) {
    blocks[0] = (rows + 31) / 32;
    blocks[1] = (blocks[0] + 31) / 32;
    blocks[2] = (blocks[1] + 31) / 32;
    slots = blocks[0] * 32;
  }
  __host__ __device__ int64_t tables() const { return batch; }
  __device__ int64_t size(int64_t event) const { return event_size(lengths, event, rows); }
  __device__ int64_t first_row(int64_t event) const { return event * rows; }
  __device__ int64_t first_slot(int64_t event, int64_t width) const { return event * width * slots; }
  __device__ int64_t first_box(int level, int64_t event, int64_t width) const { return event * width * blocks[level]; }
  __device__ int64_t key(int64_t, int64_t morton) const { return morton; }  // sorts the rows of a table
  __device__ int64_t number(int64_t, int64_t row) const { return row; }     // within its event, of a row of the table
  __device__ Place place_of_row(int64_t i) const { return {i / rows, i % rows}; }
  __device__ Place place_of_slot(int64_t i) const { return {i / slots, i % slots}; }
  __device__ Place place_of_box(int level, int64_t i) const { return {i / blocks[level], i % blocks[level]}; }
};

// Events one after another, points (P, 4) with energies, in tables of all events. The host does not know how many
// blocks an event has; but b events of p points in total have at most p / width + b of them, so the next event starts
// there.
struct Packed {
  static constexpr int columns = 4, key_bits = 39;  // of a key, for the order of the points of an event
  static constexpr int64_t most_events = int64_t(1) << (63 - key_bits);

  int64_t batch, rows, slots;  // of all events
  int64_t blocks[3];           // boxes of each level, of all events
  const int64_t* ptr;          // (B + 1,)

  Packed(const Tensor& points, const Tensor& first_rows)
      : batch(first_rows.size(0) - 1), rows(points.size(0)), ptr(first_rows.const_data_ptr<int64_t>()) {
    for (int level = 0; level < 3; ++level) blocks[level] = (rows >> shift(level)) + batch;
    slots = blocks[0] * 32;
  }
  __host__ __device__ int64_t tables() const { return 1; }
  __host__ __device__ static int shift(int level) { return 5 * level + 5; }
  __device__ int64_t first_row(int64_t event) const { return event > 0 ? clamped(ptr[event], rows) : 0; }
  __device__ int64_t size(int64_t event) const { return larger<int64_t>(first_row(event + 1) - first_row(event), 0); }
  __device__ int64_t first_box(int level, int64_t event, int64_t = 1) const {
    return (first_row(event) >> shift(level)) + event;
  }
  __device__ int64_t first_slot(int64_t event, int64_t = 1) const { return first_box(0, event) * 32; }
  __device__ int64_t key(int64_t event, int64_t morton) const { return event << key_bits | morton >> (63 - key_bits); }
  __device__ int64_t number(int64_t event, int64_t row) const { return row - first_row(event); }
  __device__ Place place_of_row(int64_t i) const {
    const int64_t event = segment_of(ptr, batch, i);
    return {event, i - first_row(event)};
  }
  __device__ Place place_of_box(int level, int64_t i) const {
    const int64_t event = last_at_most([&](int64_t e) { return first_box(level, e); }, batch, i);
    return {event, i - first_box(level, event)};
  }
  __device__ Place place_of_slot(int64_t i) const {
    const Place block = place_of_box(0, i / 32);
    return {block.event, block.number * 32 + i % 32};
  }
};

inline void check_packed(const Tensor& points, const Tensor& ptr) {
  STD_TORCH_CHECK(points.dim() == 2 && points.size(1) == Packed::columns, "points: expected (P, 4)");
  check_floating(points, "points");
  check_ptr(ptr, points);
  STD_TORCH_CHECK(ptr.size(0) > 1 || points.size(0) == 0, "ptr: expected an event, as there are points");
  STD_TORCH_CHECK(ptr.size(0) < Packed::most_events, "ptr: expected fewer than 2^24 events");
}

// What kernels need of the boxes. Slot: position of a point in the order of the blocks.
template <class T, class Events = Padded>
struct View : Events {
  const T* coords;       // (tables, columns, slots)
  const int32_t* index;  // (tables, slots) the point of a slot, counted from the first of its event
  const T* boxes[3];     // (tables, 6, blocks[level]): all lo x, lo y, lo z, hi x, hi y, hi z

  View(const Tensor& points, const Tensor& sizes) : Events(points, sizes) {}
  __device__ const T* x(int64_t event) const { return coords + this->first_slot(event, Events::columns); }
  __device__ const int32_t* indices(int64_t event) const { return index + this->first_slot(event, 1); }
  __device__ Box<T> box(int level, int64_t event, int64_t i) const {
    const int64_t stride = this->blocks[level];
    const T* p = boxes[level] + this->first_box(level, event, 6) + i;
    Box<T> box;
    for (int c = 0; c < 3; ++c) {
      box.lo[c] = p[c * stride];
      box.hi[c] = p[(c + 3) * stride];
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
template <class Enter, class Visit>
__device__ bool walk(int64_t size, const Enter& enter, const Visit& visit) {
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

template <class T, class Events>
__global__ void find_bounds(const Events events, const T* points, int64_t stride, Box<T>* bounds) {
  PUFFIN_SHARED(Box<T>[warp], part);
  const int64_t event = blockIdx.x, n = events.size(event), first = events.first_row(event);
  Box<T> box = empty_box<T>();
  for (int64_t base = int64_t(threadIdx.x) - lane_id(); base < n; base += blockDim.x) {
    const int64_t i = base + lane_id();
    T x[3];
    load_points(points, i < n ? first + i : -1, stride, x);
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
template <class T, class Events>
__global__ void make_keys(const Events events, const T* points, int64_t stride, const Box<T>* bounds, int64_t* keys) {
  const int64_t rows = events.tables() * events.rows;
  for (int64_t base = thread_id() - lane_id(); base < rows; base += thread_count()) {
    const int64_t i = base + lane_id();
    const auto [event, number] = events.place_of_row(smaller(i, rows - 1));
    const bool used = i < rows && number < events.size(event);
    T x[3];
    load_points(points, used ? i : -1, stride, x);
    int64_t morton = 0;
    for (int c = 0; c < 3 && used; ++c) {
      const T lo = bounds[event].lo[c], extent = bounds[event].hi[c] - lo;
      T t = (x[c] - lo) / extent * T(2097152);
      t = t >= T(0) ? t : T(0);  // also 0 where the extent is 0 or NaN
      morton |= spread_bits(t < T(2097151) ? uint64_t(t) : 2097151u) << c;
    }
    if (i < rows) keys[i] = used ? events.key(event, morton) : last_key;
  }
}

// order (tables, rows): the row of each slot, or null to keep the order of the points
template <class T, class Events>
__global__ void fill_slots(const Events events, const T* points, const int64_t* order, int64_t stride, T* coords,
                           int32_t* index) {
  const int64_t slots = events.tables() * events.slots;  // a multiple of a warp
  for (int64_t i = thread_id(); i < slots; i += thread_count()) {
    const auto [event, slot] = events.place_of_slot(i);
    const int64_t first = events.first_row(event);
    const bool used = slot < events.size(event);
    const int64_t point = !used ? -1 : order ? events.number(event, order[first + slot]) : slot;
    T x[Events::columns];
    load_points(points, used ? first + point : -1, stride, x);
    index[i] = int32_t(point);
    T* to = coords + events.first_slot(event, Events::columns) + slot;
    for (int c = 0; c < Events::columns; ++c) to[c * events.slots] = x[c];
  }
}

// Computes the boxes of one level from those of the level below (level 0: from the points), one warp per box.
template <class T, class Events>
__global__ void fill_boxes(View<T, Events> view, int level, T* out) {
  const int64_t blocks = view.blocks[level];
  for (int64_t i = thread_id() / warp; i < view.tables() * blocks; i += thread_count() / warp) {
    const auto [event, block] = view.place_of_box(level, i);
    const int64_t n = view.size(event), j = block * warp + lane_id();
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
    if (c < 6) out[view.first_box(level, event, 6) + c * blocks + block] = value;
  }
}

// Owns the memory of a view. sizes: lengths or ptr. All work is queued on the stream; the host does not wait.
template <class T, class Events = Padded>
struct Blocks {
  Tensor coords, index, boxes[3];
  View<T, Events> view;

  Blocks(const Tensor& points, const Tensor& sizes, bool sorted, cudaStream_t stream) : view(points, sizes) {
    const int64_t tables = view.tables(), rows = view.rows, stride = points.size(points.dim() - 1);
    STD_TORCH_CHECK(rows < (int64_t(1) << 31) - 64, "expected fewer than 2^31 points per event");
    coords = new_tensor(points, {tables, Events::columns, view.slots}, points.scalar_type());
    index = new_tensor(points, {tables, view.slots}, ScalarType::Int);
    for (int level = 0; level < 3; ++level)
      boxes[level] = new_tensor(points, {tables, 6, view.blocks[level]}, points.scalar_type());
    view.coords = coords.template const_data_ptr<T>();
    view.index = index.template const_data_ptr<int32_t>();
    for (int level = 0; level < 3; ++level) view.boxes[level] = boxes[level].template const_data_ptr<T>();
    if (view.batch == 0 || rows == 0) return;
    const auto find_bounds = &cuda::find_bounds<T, Events>;
    const auto make_keys = &cuda::make_keys<T, Events>;
    const auto fill_slots = &cuda::fill_slots<T, Events>;
    const auto fill_boxes = &cuda::fill_boxes<T, Events>;
    const Events& events = view;
    const T* data = points.const_data_ptr<T>();
    Tensor order;  // must live until fill_slots is queued; then the allocator keeps stream order
    const int64_t* order_data = nullptr;
    if (sorted) {
      Tensor bounds = new_tensor(points, {view.batch, 6}, points.scalar_type());
      Tensor keys = new_index(points, {tables, rows});
      Box<T>* bounds_data = reinterpret_cast<Box<T>*>(bounds.template mutable_data_ptr<T>());
      PUFFIN_LAUNCH(find_bounds, unsigned(view.batch), 1024, stream, events, data, stride, bounds_data);
      PUFFIN_LAUNCH(make_keys, blocks_for(tables * rows), threads_per_block, stream, events, data, stride, bounds_data,
                    keys.mutable_data_ptr<int64_t>());
      order = std::get<1>(sort_rows(keys));
      order_data = order.const_data_ptr<int64_t>();
    }
    PUFFIN_LAUNCH(fill_slots, blocks_for(tables * view.slots), threads_per_block, stream, events, data, order_data,
                  stride, coords.template mutable_data_ptr<T>(), index.mutable_data_ptr<int32_t>());
    for (int level = 0; level < 3; ++level) {
      PUFFIN_LAUNCH(fill_boxes, blocks_for(tables * view.blocks[level] * warp), threads_per_block, stream, view, level,
                    boxes[level].template mutable_data_ptr<T>());
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
      walk(n, enter, [&](int64_t block) {
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
