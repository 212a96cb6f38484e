// Finds the k nearest points of every query, for one bucket of queries at a time. The tree is searched once per bucket,
// with the bucket's box and the nearest child first; all queries are compared with each bucket of points that is
// reached.

// (distance, index) as one integer that sorts by distance, then by index. This works because distances are not
// negative.
template <class T>
struct NearKey;
template <>
struct NearKey<float> {
  using Bits = uint32_t;
  using Key = uint64_t;
};
template <>
struct NearKey<double> {
  using Bits = uint64_t;
  using Key = unsigned __int128;
};

template <class T>
struct KnnScratch {
  using Key = typename NearKey<T>::Key;
  std::vector<Key> best;  // (bucket capacity, k) in ascending order
  std::vector<T> worst;   // (bucket capacity,) distance of the last entry of each row, -1 for padding
  std::vector<std::pair<T, int32_t>> stack;
};

template <class T>
static inline typename NearKey<T>::Key near_key(T distance, int32_t index) {
  typename NearKey<T>::Bits bits;
  std::memcpy(&bits, &distance, sizeof bits);
  return (typename NearKey<T>::Key(bits) << 32) | uint32_t(index);
}

template <class T>
static inline T key_distance(typename NearKey<T>::Key key) {
  const auto bits = typename NearKey<T>::Bits(key >> 32);
  T distance;
  std::memcpy(&distance, &bits, sizeof bits);
  return distance;
}

// Inserts the key if it is among the k smallest; returns whether it is.
template <class Key>
static inline bool insert_key(Key* row, int64_t k, Key key) {
  if (!(key < row[k - 1])) return false;
  int64_t j = k - 1;
  if (k > 64) {
    j = std::upper_bound(row, row + k, key) - row;
    std::memmove(row + j + 1, row + j, (k - 1 - j) * sizeof(Key));
  } else {
    for (; j > 0 && key < row[j - 1]; --j) row[j] = row[j - 1];
  }
  row[j] = key;
  return true;
}

// refine(distance over the first three coordinates, query index, point index) >= that distance
template <class T, class Refine>
static void knn_bucket(const KdTree<T>& queries, const KdTree<T>& points, int32_t bucket, int64_t k,
                       KnnScratch<T>& scratch, const Refine& refine) {
  using S = Simd<T>;
  using V = typename S::V;
  using Key = typename NearKey<T>::Key;
  const T infinity = std::numeric_limits<T>::infinity();
  const int32_t capacity = queries.capacity, used = queries.bucket_size(bucket);
  const Node<T>& home = queries.nodes[queries.node_of[bucket]];
  const T *qx = queries.bucket(bucket), *qy = qx + capacity, *qz = qy + capacity;
  const int32_t* query_index = queries.bucket_index(bucket);
  scratch.best.assign(int64_t(capacity) * k, near_key(infinity, -1));
  scratch.worst.assign(capacity, T(-1));
  std::fill(scratch.worst.begin(), scratch.worst.begin() + used, infinity);
  T* worst = scratch.worst.data();
  T widest = infinity;  // the largest of worst
  auto& stack = scratch.stack;
  stack.clear();
  if (points.size > 0) stack.emplace_back(T(0), 1);
  while (!stack.empty()) {
    const auto [gap, at] = stack.back();
    stack.pop_back();
    if (gap > widest) continue;  // at an equal distance, a lower index still wins
    const Node<T>& node = points.nodes[at];
    if (!node.leaf()) {
      const Node<T>&left = points.nodes[2 * at], &right = points.nodes[2 * at + 1];
      const T to_left = box_gap(home.lo, home.hi, left.lo, left.hi);
      const T to_right = box_gap(home.lo, home.hi, right.lo, right.hi);
      const bool left_first = to_left <= to_right;
      const std::pair<T, int32_t> far{left_first ? to_right : to_left, 2 * at + (left_first ? 1 : 0)};
      if (far.first <= widest) stack.push_back(far);
      stack.emplace_back(left_first ? to_left : to_right, 2 * at + (left_first ? 0 : 1));
      continue;
    }
    const T *px = points.bucket(node.first), *py = px + points.capacity, *pz = py + points.capacity;
    const int32_t* point_index = points.bucket_index(node.first);
    bool changed = false;
    for (int32_t group = 0; group < used; group += S::lanes) {
      const V to_box = S::distance(S::gap(S::load(qx + group), S::splat(node.lo[0]), S::splat(node.hi[0])),
                                   S::gap(S::load(qy + group), S::splat(node.lo[1]), S::splat(node.hi[1])),
                                   S::gap(S::load(qz + group), S::splat(node.lo[2]), S::splat(node.hi[2])));
      for (unsigned near = S::less_equal(to_box, S::load(worst + group)); near; near &= near - 1) {
        const int32_t q = group + __builtin_ctz(near);
        Key* row = scratch.best.data() + q * k;
        const V x = S::splat(qx[q]), y = S::splat(qy[q]), z = S::splat(qz[q]);
        for (int32_t i = 0; i < points.capacity; i += S::lanes) {
          const V d = S::distance(x - S::load(px + i), y - S::load(py + i), z - S::load(pz + i));
          for (unsigned hit = S::less_equal(d, S::splat(worst[q])); hit; hit &= hit - 1) {
            const int32_t slot = __builtin_ctz(hit), p = point_index[i + slot];
            if (insert_key(row, k, near_key(refine(d[slot], query_index[q], p), p))) {
              worst[q] = key_distance<T>(row[k - 1]);
              changed = true;
            }
          }
        }
      }
    }
    if (changed) widest = *std::max_element(worst, worst + used);
  }
}

template <class T>
void knn_buckets(const KdTree<T>& queries, const KdTree<T>& points, int32_t first, int32_t last, int64_t k, T* distance,
                 int64_t* index) {
  KnnScratch<T> scratch;
  for (int32_t bucket = first; bucket < last; ++bucket) {
    knn_bucket(queries, points, bucket, k, scratch, [](T d, int32_t, int32_t) { return d; });
    for (int32_t i = 0; i < queries.bucket_size(bucket); ++i) {
      const int64_t row = queries.bucket_index(bucket)[i];
      for (int64_t j = 0; j < k; ++j) {
        const auto key = scratch.best[i * k + j];
        distance[row * k + j] = key_distance<T>(key);
        index[row * k + j] = int32_t(uint32_t(key));
      }
    }
  }
}
