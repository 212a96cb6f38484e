// Finds the points within a radius of the queries, for one bucket of queries at a time. The tree is searched once per
// bucket, with the bucket's box: subtrees that are completely outside are skipped, and subtrees that are completely
// inside are counted without reading their points.

template <class T>
static inline T squared_radius(double radius) {
  return T(radius) * T(radius);
}

// counts[index of query]: number of points at squared distance < r2
template <class T>
void ball_count_buckets(const KdTree<T>& queries, const KdTree<T>& points, int32_t first, int32_t last, T r2,
                        int64_t* counts) {
  using S = Simd<T>;
  using V = typename S::V;
  using M = decltype(V{} < V{});
  const int32_t capacity = queries.capacity;
  std::vector<int32_t> stack;
  std::vector<int64_t> found(capacity);
  for (int32_t bucket = first; bucket < last; ++bucket) {
    const Node<T>& home = queries.nodes[queries.node_of[bucket]];
    const T *qx = queries.bucket(bucket), *qy = qx + capacity, *qz = qy + capacity;
    const int32_t used = queries.bucket_size(bucket);
    std::fill(found.begin(), found.end(), 0);
    int64_t inside = 0;
    stack.clear();
    if (points.size > 0) stack.push_back(1);
    while (!stack.empty()) {
      const int32_t at = stack.back();
      stack.pop_back();
      const Node<T>& node = points.nodes[at];
      if (!(box_gap(home.lo, home.hi, node.lo, node.hi) < r2)) continue;
      if (box_span(home.lo, home.hi, node.lo, node.hi) < r2) {
        inside += points.count(node);
        continue;
      }
      if (!node.leaf()) {
        stack.push_back(2 * at + 1);
        stack.push_back(2 * at);
        continue;
      }
      const T *px = points.bucket(node.first), *py = px + points.capacity, *pz = py + points.capacity;
      const int32_t size = points.bucket_size(node.first);
      for (int32_t group = 0; group < used; group += S::lanes) {  // the lanes are queries
        const V x = S::load(qx + group), y = S::load(qy + group), z = S::load(qz + group);
        M count{};
        for (int32_t p = 0; p < size; ++p) {
          const V d = S::distance(x - S::splat(px[p]), y - S::splat(py[p]), z - S::splat(pz[p]));
          count -= d < S::splat(r2);
        }
        for (int32_t i = 0; i < S::lanes; ++i) found[group + i] += count[i];
      }
    }
    for (int32_t i = 0; i < used; ++i) counts[queries.bucket_index(bucket)[i]] = found[i] + inside;
  }
}

// Collects indices and keeps the lowest `limit` of them, unsorted.
struct LowestIndices {
  std::vector<int32_t> hits;
  int64_t limit = 0;
  int32_t bound = std::numeric_limits<int32_t>::max();  // indices from here on cannot be among the lowest

  void reset(int64_t k) {
    hits.clear();
    limit = k;
    bound = std::numeric_limits<int32_t>::max();
  }
  void add(int32_t index) {
    if (index >= bound) return;
    hits.push_back(index);
    if (int64_t(hits.size()) >= 2 * limit + 64) shrink();
  }
  void shrink() {
    if (int64_t(hits.size()) <= limit) return;
    std::nth_element(hits.begin(), hits.begin() + limit, hits.end());
    bound = hits[limit];
    hits.resize(limit);
  }
};

// A set of indices as bits in two levels; it sorts indices without comparisons.
struct IndexBits {
  std::vector<uint64_t> words, summary;
  explicit IndexBits(int64_t size) : words(size / 64 + 1), summary(size / 4096 + 1) {}
  // Writes the hits in ascending order, and clears all bits again.
  int64_t sort(const std::vector<int32_t>& hits, int64_t* out) {
    for (const int32_t i : hits) {
      words[i >> 6] |= uint64_t(1) << (i & 63);
      summary[i >> 12] |= uint64_t(1) << ((i >> 6) & 63);
    }
    int64_t count = 0;
    for (size_t s = 0; s < summary.size(); ++s)
      for (; summary[s]; summary[s] &= summary[s] - 1) {
        const int64_t w = int64_t(s) * 64 + __builtin_ctzll(summary[s]);
        for (; words[w]; words[w] &= words[w] - 1) out[count++] = w * 64 + __builtin_ctzll(words[w]);
      }
    return count;
  }
};

// out (queries, k): the k lowest indices at squared distance < r2, in ascending order; unused entries are not written
template <class T>
void ball_query_buckets(const KdTree<T>& queries, const KdTree<T>& points, int32_t first, int32_t last, T r2, int64_t k,
                        int64_t* out) {
  using S = Simd<T>;
  using V = typename S::V;
  const int32_t capacity = queries.capacity;
  std::vector<LowestIndices> lowest(capacity);
  IndexBits bits(points.size);
  std::vector<int64_t> sorted(2 * k + 64);
  std::vector<int32_t> stack;
  for (int32_t bucket = first; bucket < last; ++bucket) {
    const Node<T>& home = queries.nodes[queries.node_of[bucket]];
    const T *qx = queries.bucket(bucket), *qy = qx + capacity, *qz = qy + capacity;
    const int32_t used = queries.bucket_size(bucket);
    for (int32_t q = 0; q < used; ++q) lowest[q].reset(k);
    int32_t bound = std::numeric_limits<int32_t>::max();  // the largest of the queries' bounds
    stack.clear();
    if (points.size > 0) stack.push_back(1);
    while (!stack.empty()) {
      const int32_t at = stack.back();
      stack.pop_back();
      const Node<T>& node = points.nodes[at];
      if (node.lowest >= bound || !(box_gap(home.lo, home.hi, node.lo, node.hi) < r2)) continue;
      if (!node.leaf()) {  // lower indices first, so that the bound decreases quickly
        const bool left_first = points.nodes[2 * at].lowest <= points.nodes[2 * at + 1].lowest;
        stack.push_back(2 * at + (left_first ? 1 : 0));
        stack.push_back(2 * at + (left_first ? 0 : 1));
        continue;
      }
      const T *px = points.bucket(node.first), *py = px + points.capacity, *pz = py + points.capacity;
      const int32_t* index = points.bucket_index(node.first);
      for (int32_t group = 0; group < used; group += S::lanes) {
        const V to_box = S::distance(S::gap(S::load(qx + group), S::splat(node.lo[0]), S::splat(node.hi[0])),
                                     S::gap(S::load(qy + group), S::splat(node.lo[1]), S::splat(node.hi[1])),
                                     S::gap(S::load(qz + group), S::splat(node.lo[2]), S::splat(node.hi[2])));
        for (unsigned near = S::less(to_box, S::splat(r2)); near; near &= near - 1) {
          const int32_t q = group + __builtin_ctz(near);
          if (q >= used) break;
          const V x = S::splat(qx[q]), y = S::splat(qy[q]), z = S::splat(qz[q]);
          for (int32_t i = 0; i < points.capacity; i += S::lanes) {
            const V d = S::distance(x - S::load(px + i), y - S::load(py + i), z - S::load(pz + i));
            for (unsigned hit = S::less(d, S::splat(r2)); hit; hit &= hit - 1)
              lowest[q].add(index[i + __builtin_ctz(hit)]);
          }
        }
      }
      bound = lowest[0].bound;
      for (int32_t q = 1; q < used; ++q) bound = std::max(bound, lowest[q].bound);
    }
    for (int32_t q = 0; q < used; ++q) {
      lowest[q].shrink();
      const int64_t count = bits.sort(lowest[q].hits, sorted.data());
      std::copy(sorted.data(), sorted.data() + count, out + int64_t(queries.bucket_index(bucket)[q]) * k);
    }
  }
}
