// Farthest point sampling of one cloud in buckets. A bucket is updated only if the new sample is nearer to its box than
// the bucket's farthest point is to the chosen points (the idea of QuickFPS, Han et al. 2023). Groups of 16 buckets are
// tested in the same way, 16 boxes at a time. Exact: same indices as the plain algorithm.
template <class T>
struct FpsSampler {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr int group = 16;

  // Boxes as a structure of arrays; used for the buckets and for the groups of 16 buckets.
  struct Boxes {
    std::vector<T> lo[3], hi[3], farthest;  // farthest: largest distance in the box, -1 if all its points are chosen
    std::vector<int32_t> index;             // lowest index of a point at that distance
    explicit Boxes(int64_t n) : farthest(n, T(-1)), index(n, std::numeric_limits<int32_t>::max()) {
      for (int c = 0; c < 3; ++c) {
        lo[c].assign(n, std::numeric_limits<T>::infinity());
        hi[c].assign(n, -std::numeric_limits<T>::infinity());
      }
    }
    // Bit i: box at + i may hold a point that is nearer to s than to all chosen points.
    unsigned touched(int64_t at, const T* s) const {
      unsigned result = 0;
      for (int i = 0; i < group; i += S::lanes) {
        V d[3];
        for (int c = 0; c < 3; ++c) d[c] = S::gap(S::splat(s[c]), S::load(&lo[c][at + i]), S::load(&hi[c][at + i]));
        result |= S::less(S::distance(d[0], d[1], d[2]), S::load(&farthest[at + i])) << i;
      }
      return result;
    }
    // The farthest point of the boxes [at, at + count); ties go to the lowest index.
    void farthest_of(int64_t at, int64_t count, T& distance, int32_t& lowest) const {
      V best = S::splat(T(-1));
      for (int64_t i = at; i < at + count; i += S::lanes) best = S::max(best, S::load(&farthest[i]));
      distance = S::highest(best);
      lowest = std::numeric_limits<int32_t>::max();
      for (int64_t i = at; i < at + count; i += S::lanes)
        for (unsigned m = S::equal(S::load(&farthest[i]), S::splat(distance)); m; m &= m - 1)
          lowest = std::min(lowest, index[i + __builtin_ctz(m)]);
    }
  };

  const KdTree<T>& tree;
  int64_t groups, padded_groups;
  Boxes buckets, tops;
  std::vector<T> distance;     // (buckets, capacity) to the nearest chosen point, -1 for chosen points and padding
  std::vector<int32_t> place;  // (points,) position of each point in the tree

  explicit FpsSampler(const KdTree<T>& t)
      : tree(t),
        groups((t.buckets + group - 1) / group),
        padded_groups((groups + group - 1) / group * group),
        buckets(groups * group),
        tops(padded_groups),
        distance(t.index.size(), T(-1)),
        place(t.size) {
    for (int32_t b = 0; b < t.buckets; ++b) {
      const Node<T>& node = t.nodes[t.node_of[b]];
      for (int c = 0; c < 3; ++c) {
        buckets.lo[c][b] = node.lo[c];
        buckets.hi[c][b] = node.hi[c];
        T& lo = tops.lo[c][b / group];
        T& hi = tops.hi[c][b / group];
        lo = node.lo[c] < lo ? node.lo[c] : lo;
        hi = node.hi[c] > hi ? node.hi[c] : hi;
      }
      buckets.farthest[b] = tops.farthest[b / group] = std::numeric_limits<T>::infinity();
      buckets.index[b] = node.lowest;
      tops.index[b / group] = std::min(tops.index[b / group], node.lowest);
      for (int32_t i = 0; i < t.bucket_size(b); ++i) {
        const int64_t at = int64_t(b) * t.capacity + i;
        distance[at] = std::numeric_limits<T>::infinity();
        place[t.index[at]] = int32_t(at);
      }
    }
  }

  void update_bucket(int64_t b, const T* s) {
    const int32_t capacity = tree.capacity;
    const T *x = tree.bucket(int32_t(b)), *y = x + capacity, *z = y + capacity;
    const V sx = S::splat(s[0]), sy = S::splat(s[1]), sz = S::splat(s[2]);
    T* d = distance.data() + b * capacity;
    V best = S::splat(T(-1));
    for (int32_t i = 0; i < capacity; i += S::lanes) {
      const V to_s = S::distance(S::load(x + i) - sx, S::load(y + i) - sy, S::load(z + i) - sz);
      const V now = S::min(to_s, S::load(d + i));  // padding is NaN, which keeps d
      S::store(d + i, now);
      best = S::max(best, now);
    }
    const T farthest = S::highest(best);
    buckets.farthest[b] = farthest;
    for (int32_t i = 0; i < capacity; i += S::lanes)
      if (const unsigned m = S::equal(S::load(d + i), S::splat(farthest))) {  // ascending indices
        const int32_t index = tree.bucket_index(int32_t(b))[i + __builtin_ctz(m)];
        buckets.index[b] = index < 0 ? std::numeric_limits<int32_t>::max() : index;
        break;
      }
  }

  // Writes `count` <= size distinct indices, beginning with `start`.
  void run(int64_t start, int64_t count, int64_t* out) {
    int32_t chosen = int32_t(start);
    for (int64_t k = 0;; ++k) {
      out[k] = chosen;
      if (k + 1 == count) return;
      const int64_t at = place[chosen], home = at / tree.capacity, slot = at % tree.capacity;
      const T* p = tree.bucket(int32_t(home));
      const T s[3] = {p[slot], p[slot + tree.capacity], p[slot + 2 * tree.capacity]};
      distance[at] = T(-1);
      for (int64_t top = 0; top < groups; top += group) {
        unsigned g = tops.touched(top, s);
        if (home / group / group == top / group) g |= 1u << (home / group % group);
        for (; g; g &= g - 1) {
          const int64_t first = (top + __builtin_ctz(g)) * group;
          unsigned b = buckets.touched(first, s);
          if (home / group == first / group) b |= 1u << (home % group);
          if (!b) continue;
          for (; b; b &= b - 1) update_bucket(first + __builtin_ctz(b), s);
          buckets.farthest_of(first, group, tops.farthest[first / group], tops.index[first / group]);
        }
      }
      T farthest;
      tops.farthest_of(0, padded_groups, farthest, chosen);
      if (chosen >= tree.size) chosen = out[0];  // happens only if coordinates are not finite
    }
  }
};

template <class T>
void sample_tree(const KdTree<T>& tree, int64_t start, int64_t count, int64_t* out) {
  FpsSampler<T>(tree).run(start, count, out);
}
