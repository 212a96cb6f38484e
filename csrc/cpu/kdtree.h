// A tree of bounding boxes over the first three coordinates of a cloud. Each node is split at the median of its widest
// axis, down to buckets of `capacity` points. There is no cell size, so outliers, large extents and duplicates cost
// nothing extra: O(n log n) time, O(n) memory.
//
// The bounds are safe in floating point: the rounding of differences, products and sums is monotonic, so a bound that
// is computed from box corners by the operations of squared_distance never exceeds the distance computed for a point
// inside.
#pragma once

#include "parallel.h"

#include <cmath>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

namespace puffin {

template <class T>
inline T squared_distance(T dx, T dy, T dz) {
  return dx * dx + dy * dy + dz * dz;  // summed from left to right; compiled with -ffp-contract=off
}

template <class T>
struct Node {
  T lo[3], hi[3];
  int32_t first, last;  // buckets of this node
  int32_t lowest;       // lowest index of its points
  bool leaf() const { return last - first <= 1; }
};

template <class T>
struct KdTree {
  int64_t size = 0;
  int32_t capacity = 16;  // points per bucket, a multiple of 16
  int32_t buckets = 0;
  std::vector<Node<T>> nodes;    // children of i at 2i and 2i+1, root 1
  std::vector<T> coords;         // (buckets, 3, capacity), padded with NaN: no comparison with it is true
  std::vector<int32_t> index;    // (buckets, capacity), padded with -1
  std::vector<int32_t> node_of;  // (buckets,) its node

  const T* bucket(int32_t i) const { return coords.data() + int64_t(i) * 3 * capacity; }
  const int32_t* bucket_index(int32_t i) const { return index.data() + int64_t(i) * capacity; }
  int32_t bucket_size(int32_t i) const { return int32_t(std::min<int64_t>(capacity, size - int64_t(i) * capacity)); }
  int64_t count(const Node<T>& node) const {
    return std::min<int64_t>(size, int64_t(node.last) * capacity) - int64_t(node.first) * capacity;
  }
};

template <class T>
class KdTreeBuilder {
  struct Item {
    T c[3];
    int32_t index;
  };
  struct Task {
    int64_t node;
    int32_t first, last;
  };
  KdTree<T>& tree_;
  const T* points_;
  int64_t stride_;
  bool sorted_;
  std::vector<Item> items_;

  Item* begin(int32_t bucket) {
    return items_.data() + std::min<int64_t>(tree_.size, int64_t(bucket) * tree_.capacity);
  }

  // Rearranges [a, z) so that no item before `kth` is larger on the axis than any item from `kth` on.
  static void select(Item* a, Item* z, Item* kth, int axis) {
    for (int round = 0; z - a > 24 && round < 40; ++round) {
      const T pivot = pseudo_median(a, z, axis);
      Item* m = partition(a, z, axis, [pivot](T c) { return c < pivot; });
      if (kth < m) {
        z = m;
        continue;
      }
      m = partition(m, z, axis, [pivot](T c) { return c <= pivot; });  // lattices: many equal coordinates
      if (kth < m) return;
      a = m;
    }
    if (kth < z) std::nth_element(a, kth, z, [axis](const Item& l, const Item& r) { return l.c[axis] < r.c[axis]; });
  }

  static T median3(T a, T b, T c) { return std::max(std::min(a, b), std::min(std::max(a, b), c)); }

  static T pseudo_median(const Item* a, const Item* z, int axis) {
    const int64_t step = (z - a) / 9;
    T m[3];
    for (int i = 0; i < 3; ++i)
      m[i] = median3(a[(3 * i) * step].c[axis], a[(3 * i + 1) * step].c[axis], a[(3 * i + 2) * step].c[axis]);
    return median3(m[0], m[1], m[2]);
  }

  template <class Before>
  static Item* partition(Item* a, Item* z, int axis, Before before) {
    Item* m = a;
    for (Item* i = a; i < z; ++i) {  // no branch on the data
      const Item item = *i;
      const bool is_before = before(item.c[axis]);
      *i = *m;
      *m = item;
      m += is_before;
    }
    return m;
  }

  void fill_node(const Task& task) {
    Node<T>& node = tree_.nodes[task.node];
    node.first = task.first;
    node.last = task.last;
    T lo[3], hi[3];
    const Item *a = begin(task.first), *z = begin(task.last);
    for (int c = 0; c < 3; ++c) lo[c] = hi[c] = a->c[c];
    int32_t lowest = a->index;
    for (const Item* i = a; i < z; ++i) {
      for (int c = 0; c < 3; ++c) {
        lo[c] = i->c[c] < lo[c] ? i->c[c] : lo[c];
        hi[c] = i->c[c] > hi[c] ? i->c[c] : hi[c];
      }
      lowest = i->index < lowest ? i->index : lowest;
    }
    std::copy(lo, lo + 3, node.lo);
    std::copy(hi, hi + 3, node.hi);
    node.lowest = lowest;
  }

  void fill_bucket(const Task& task) {
    Item *a = begin(task.first), *z = begin(task.last);
    if (sorted_) std::sort(a, z, [](const Item& l, const Item& r) { return l.index < r.index; });
    tree_.node_of[task.first] = int32_t(task.node);
    T* coords = tree_.coords.data() + int64_t(task.first) * 3 * tree_.capacity;
    int32_t* index = tree_.index.data() + int64_t(task.first) * tree_.capacity;
    const int64_t used = z - a;
    for (int64_t i = 0; i < used; ++i) {
      const T* p = points_ + int64_t(a[i].index) * stride_;
      for (int c = 0; c < 3; ++c) coords[c * tree_.capacity + i] = p[c];
      index[i] = a[i].index;
    }
    for (int64_t i = used; i < tree_.capacity; ++i) {
      for (int c = 0; c < 3; ++c) coords[c * tree_.capacity + i] = std::numeric_limits<T>::quiet_NaN();
      index[i] = -1;
    }
  }

  // Splits one node: fills it, and returns whether it has children.
  bool split(const Task& task, Task& left, Task& right) {
    fill_node(task);
    if (task.last - task.first <= 1) {
      fill_bucket(task);
      return false;
    }
    const Node<T>& node = tree_.nodes[task.node];
    int axis = 0;
    for (int c = 1; c < 3; ++c)
      if (node.hi[c] - node.lo[c] > node.hi[axis] - node.lo[axis]) axis = c;
    const int32_t middle = task.first + (task.last - task.first + 1) / 2;
    select(begin(task.first), begin(task.last), begin(middle), axis);
    left = {2 * task.node, task.first, middle};
    right = {2 * task.node + 1, middle, task.last};
    return true;
  }

  void build(const Task& task) {
    Task left, right;
    if (!split(task, left, right)) return;
    build(left);
    build(right);
  }

 public:
  KdTreeBuilder(KdTree<T>& tree, const T* points, int64_t stride, int64_t size, int32_t capacity, bool sorted)
      : tree_(tree), points_(points), stride_(stride), sorted_(sorted) {
    tree.size = size;
    tree.capacity = capacity;
    tree.buckets = int32_t((size + capacity - 1) / capacity);
    if (size == 0) return;
    int64_t width = 1;
    while (width < tree.buckets) width *= 2;
    tree.nodes.resize(2 * width);
    tree.coords.resize(int64_t(tree.buckets) * 3 * capacity);
    tree.index.resize(int64_t(tree.buckets) * capacity);
    tree.node_of.resize(tree.buckets);
    items_.resize(size);
    for (int64_t i = 0; i < size; ++i) {
      for (int c = 0; c < 3; ++c) {
        const T value = points[i * stride + c];
        items_[i].c[c] = std::isnan(value) ? std::numeric_limits<T>::infinity() : value;  // gives a total order
      }
      items_[i].index = int32_t(i);
    }
  }

  // Builds the tree in one parallel region: each thread takes the oldest open subtree, splits it, and puts the halves
  // back.
  void run(bool parallel) {
    if (tree_.size == 0) return;
    const int64_t threads = parallel && tree_.size > 16384 ? torch::stable::get_num_threads() : 1;
    const int64_t grain = tree_.size / tree_.capacity / (4 * threads);  // buckets that one thread finishes alone
    std::vector<Task> open{{1, 0, tree_.buckets}};
    std::mutex lock;
    int64_t unfinished = 1;
    const auto work = [&](int64_t) {
      for (;;) {
        Task task{};
        {
          std::lock_guard<std::mutex> hold(lock);
          if (unfinished == 0) return;
          if (!open.empty()) {
            task = open.front();
            open.erase(open.begin());
          }
        }
        if (task.node == 0) {
          std::this_thread::yield();
          continue;
        }
        Task left, right;
        const bool whole = task.last - task.first <= grain;
        if (whole) build(task);
        const bool divided = !whole && split(task, left, right);
        std::lock_guard<std::mutex> hold(lock);
        if (divided) open.insert(open.end(), {left, right});
        unfinished += divided ? 1 : -1;
      }
    };
    if (threads == 1)
      build(open.front());
    else
      for_each_task(threads, work);
  }
};

// points (size, stride); only the first three columns are used
template <class T>
void build_tree(KdTree<T>& tree, const T* points, int64_t stride, int64_t size, int32_t capacity, bool parallel,
                bool sorted = false) {
  STD_TORCH_CHECK(size < std::numeric_limits<int32_t>::max() - capacity, "expected fewer than 2^31 points per event");
  KdTreeBuilder<T>(tree, points, stride, size, capacity, sorted).run(parallel);
}

// Builds the trees of all events: in parallel over the events if there are many, else within each event. event(b) is
// the first point of event b, whose points are `stride` numbers apart, and the number of its points.
template <class T, class Event>
std::vector<KdTree<T>> build_trees(int64_t batch, const Event& event, int64_t stride, int32_t capacity) {
  std::vector<KdTree<T>> trees(batch);
  const auto build = [&](int64_t b, bool parallel) {
    const auto [points, size] = event(b);
    build_tree(trees[b], points, stride, size, capacity, parallel);
  };
  if (batch >= 2 * int64_t(torch::stable::get_num_threads()))
    for_each_task(batch, [&](int64_t b) { build(b, false); });
  else
    for (int64_t b = 0; b < batch; ++b) build(b, true);
  return trees;
}

// The same for points (B, N, D), of which the first lengths[b] of each event count.
template <class T>
std::vector<KdTree<T>> build_trees(const Tensor& points, const int64_t* lengths, int32_t capacity) {
  const int64_t stride = points.size(2), rows = points.size(1);
  const T* data = points.const_data_ptr<T>();
  return build_trees<T>(
      points.size(0), [=](int64_t b) { return std::pair(data + b * rows * stride, lengths[b]); }, stride, capacity);
}

// A task: buckets of an event.
struct BucketRange {
  int64_t event;
  int32_t first, last;
};

template <class T>
std::vector<BucketRange> bucket_ranges(const std::vector<KdTree<T>>& trees) {
  std::vector<BucketRange> ranges;
  for (size_t b = 0; b < trees.size(); ++b) {
    const int32_t buckets = trees[b].buckets, step = std::clamp(buckets / 16, 8, 256);
    for (int32_t i = 0; i < buckets; i += step) ranges.push_back({int64_t(b), i, std::min(buckets, i + step)});
  }
  return ranges;
}

}  // namespace puffin
