// Connected components on CUDA; defined in src/puffin/ops/geometry.py. Sets of rows are trees in the table of labels:
// each row points to a lower row of its set, and the lowest to itself. Which paths lead there depends on the order of
// the threads, but the lowest row of a set does not.
//
// Only the root of a tree changes its set, by an atomicCAS that fails if it is no root any more. All other accesses are
// volatile: an old value leads to a row of the same set, too. Source: Jaiganesh and Burtscher, HPDC 2018 (ECL-CC).
#include "boxes.cuh"

namespace puffin::cuda {
namespace {

// The lowest row of the set; halves the path to it.
__device__ int64_t find_root(volatile int64_t* parent, int64_t row) {
  for (int64_t next = parent[row]; next != row;) {
    const int64_t after = parent[next];
    if (after != next) parent[row] = after;
    row = next;
    next = after;
  }
  return row;
}

__device__ void unite(int64_t* parent, int64_t a, int64_t b) {
  for (;;) {
    a = find_root(parent, a);
    b = find_root(parent, b);
    if (a == b) return;
    const int64_t high = larger(a, b), low = smaller(a, b);
    using Word = unsigned long long;
    if (atomicCAS(reinterpret_cast<Word*>(parent + high), Word(high), Word(low)) == Word(high)) return;
  }
}

// Marks of boxes whose points are all in one set.
struct Joined {
  volatile int32_t* level[3];
};

template <class T>
__device__ int64_t row_of(const View<T, Packed>& view, int64_t event, int64_t slot) {
  return view.first_row(event) + view.indices(event)[slot];
}

__global__ void separate(int64_t* parent, int64_t rows) {
  for (int64_t i = thread_id(); i < rows; i += thread_count()) parent[i] = i;
}

// One warp per point looks for links to points in earlier slots.
template <class T>
__global__ void link_points(View<T, Packed> view, T r2, Joined joined, int64_t* parent) {
  for (int64_t i = thread_id() / warp; i < view.slots; i += thread_count() / warp) {
    const auto [event, own] = view.place_of_slot(i);
    const int64_t n = view.size(event);
    if (own >= n) continue;
    const T* x = view.x(event);
    const T q[3] = {x[own], x[own + view.slots], x[own + 2 * view.slots]};
    const int64_t row = row_of(view, event, own);
    const auto enter = [&](int level, int64_t block) {
      const Box<T> box = view.box(level, event, block);
      const int64_t first = block << view.shift(level);
      if (first > own || gap(q, box) > r2) return false;
      if (span(q, box) > r2) return true;
      joined.level[level][view.first_box(level, event) + block] = 1;  // the whole box is linked to this point
      unite(parent, row, row_of(view, event, first));
      return false;
    };
    walk(n, enter, [&](int64_t block) {
      const int64_t slot = block * warp + lane_id();
      const T* p = x + slot;
      if (slot < own && squared_distance(q[0] - p[0], q[1] - p[view.slots], q[2] - p[2 * view.slots]) <= r2)
        unite(parent, row, row_of(view, event, slot));
      return true;
    });
  }
}

template <class T>
__global__ void join_boxes(View<T, Packed> view, Joined joined, int64_t* parent) {
  for (int64_t i = thread_id(); i < view.slots; i += thread_count()) {
    const auto [event, slot] = view.place_of_slot(i);
    if (slot >= view.size(event)) continue;
    for (int level = 0; level < 3; ++level) {
      const int64_t block = slot >> view.shift(level);
      if (joined.level[level][view.first_box(level, event) + block])
        unite(parent, row_of(view, event, slot), row_of(view, event, block << view.shift(level)));
    }
  }
}

__global__ void name_sets(volatile int64_t* parent, int64_t rows) {
  for (int64_t i = thread_id(); i < rows; i += thread_count()) parent[i] = find_root(parent, i);
}

}  // namespace

Tensor components(const Tensor points_in, const Tensor ptr, double radius) {
  check_packed(points_in, ptr);
  const Scope scope(points_in);
  const Tensor points = torch::stable::contiguous(points_in);
  const int64_t rows = points.size(0);
  Tensor out = new_index(points, {rows});
  if (rows == 0) return out;
  int64_t* parent = out.mutable_data_ptr<int64_t>();
  for_float_type(points, [&](auto type) {
    using T = decltype(type);
    const Blocks<T, Packed> blocks(points, ptr, true, scope.stream);
    const int64_t* boxes = blocks.view.blocks;
    Tensor marks = new_tensor(points, {boxes[0] + boxes[1] + boxes[2]}, ScalarType::Int);
    torch::stable::zero_(marks);
    int32_t* mark = marks.mutable_data_ptr<int32_t>();
    const Joined joined{mark, mark + boxes[0], mark + boxes[0] + boxes[1]};
    const T r2 = T(radius) * T(radius);
    PUFFIN_LAUNCH(separate, blocks_for(rows), threads_per_block, scope.stream, parent, rows);
    PUFFIN_LAUNCH(link_points<T>, blocks_for(blocks.view.slots * warp), threads_per_block, scope.stream, blocks.view,
                  r2, joined, parent);
    PUFFIN_LAUNCH(
        join_boxes<T>, blocks_for(blocks.view.slots), threads_per_block, scope.stream, blocks.view, joined, parent);
    PUFFIN_LAUNCH(name_sets, blocks_for(rows), threads_per_block, scope.stream, parent, rows);
  });
  return out;
}

}  // namespace puffin::cuda

PUFFIN_KERNELS(m) { m.impl("components", TORCH_BOX(&puffin::cuda::components)); }
