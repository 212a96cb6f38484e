// Greedy suppression of the points of one tree, in the order of priority.
#include "ball_kernel.h"

// order: (points,) indices by descending centrality; kept[i] = 1 for the points that stay
template <class T>
void suppress_greedily(const KdTree<T>& tree, const std::vector<int32_t>& order, T r2, char* kept) {
  using S = Simd<T>;
  using V = typename S::V;
  std::vector<uint64_t> alive(tree.buckets, 0);  // bit per slot of a bucket (capacity <= 64)
  std::vector<int32_t> place(tree.size), stack;
  for (int32_t b = 0; b < tree.buckets; ++b)
    for (int32_t i = 0; i < tree.bucket_size(b); ++i) {
      alive[b] |= uint64_t(1) << i;
      place[tree.bucket_index(b)[i]] = b * tree.capacity + i;
    }
  for (const int32_t index : order) {
    const int32_t home = place[index] / tree.capacity, slot = place[index] % tree.capacity;
    if (!(alive[home] >> slot & 1)) continue;
    kept[index] = 1;
    const T* c = tree.bucket(home) + slot;
    const T at[3] = {c[0], c[tree.capacity], c[2 * tree.capacity]};
    const V x = S::splat(at[0]), y = S::splat(at[1]), z = S::splat(at[2]);
    stack.assign(1, 1);
    while (!stack.empty()) {
      const int32_t i = stack.back();
      stack.pop_back();
      const Node<T>& node = tree.nodes[i];
      if (!(box_gap(at, at, node.lo, node.hi) < r2)) continue;
      if (!node.leaf()) {
        stack.push_back(2 * i + 1);
        stack.push_back(2 * i);
        continue;
      }
      if (!alive[node.first]) continue;
      const T *px = tree.bucket(node.first), *py = px + tree.capacity, *pz = py + tree.capacity;
      uint64_t near = 0;
      for (int32_t j = 0; j < tree.capacity; j += S::lanes)
        near |=
            uint64_t(S::less(S::distance(x - S::load(px + j), y - S::load(py + j), z - S::load(pz + j)), S::splat(r2)))
            << j;
      alive[node.first] &= ~near;
    }
  }
}
