// Local geometry of points and their connected components, see src/puffin/ops/geometry.py. The points near a bucket of
// queries are gathered once, for all scales. Distances have the type of the points, so that comparisons are those of
// the neighbour search; moments are double and relative to the query.

// Upper bound of the squared distance of a and c, from those of a and b, and of b and c, by the triangle inequality.
// The factor and the smallest normal number allow for rounding.
template <class T>
static inline T widen(T squared, T step) {
  const T distance = std::sqrt(squared) + std::sqrt(step);
  return distance * distance * T(1.00001) + std::numeric_limits<T>::min();
}

// Upper bound of the squared distance between any point of the box `home` and its k-th nearest point.
template <class T>
static T reach_bound(const KdTree<T>& tree, const Node<T>& home, int64_t k,
                     std::vector<std::pair<T, int32_t>>& nearest_last) {
  const auto farther = [](const auto& a, const auto& b) { return a.first > b.first; };
  T bound = 0;
  nearest_last.assign(1, {T(0), 1});
  for (int64_t count = 0; count < std::min(k, tree.size);) {
    std::pop_heap(nearest_last.begin(), nearest_last.end(), farther);
    const int32_t at = nearest_last.back().second;
    nearest_last.pop_back();
    const Node<T>& node = tree.nodes[at];
    if (node.leaf()) {
      count += tree.count(node);
      bound = larger(bound, box_span(home.lo, home.hi, node.lo, node.hi));
      continue;
    }
    for (const int32_t child : {2 * at, 2 * at + 1}) {
      const Node<T>& box = tree.nodes[child];
      nearest_last.emplace_back(box_gap(home.lo, home.hi, box.lo, box.hi), child);
      std::push_heap(nearest_last.begin(), nearest_last.end(), farther);
    }
  }
  return bound;
}

// Points as columns of equal length, which is a multiple of 16; unused rows have the distance NaN.
template <class T>
struct Surroundings {
  std::vector<T> distance, x, y, z, energy;
  int64_t size = 0;

  void resize(int64_t rows) {
    size = rows;
    for (auto* column : {&distance, &x, &y, &z, &energy})
      if (int64_t(column->size()) < rows + 16) column->resize(rows + 16);
  }
};

// Collects all points in buckets that are no farther than `bound` (a squared distance) from the box `home`.
template <class T>
static void gather_near(const KdTree<T>& tree, const T* points, const Node<T>& home, T bound,
                        std::vector<int32_t>& stack, Surroundings<T>& near) {
  near.size = 0;
  stack.assign(1, 1);
  while (!stack.empty()) {
    const int32_t at = stack.back();
    stack.pop_back();
    const Node<T>& node = tree.nodes[at];
    if (box_gap(home.lo, home.hi, node.lo, node.hi) > bound) continue;
    if (!node.leaf()) {
      stack.push_back(2 * at + 1);
      stack.push_back(2 * at);
      continue;
    }
    const int64_t begin = near.size, capacity = tree.capacity;
    near.resize(begin + capacity);
    const T* coords = tree.bucket(node.first);
    const int32_t* index = tree.bucket_index(node.first);
    std::copy(coords, coords + capacity, near.x.begin() + begin);
    std::copy(coords + capacity, coords + 2 * capacity, near.y.begin() + begin);
    std::copy(coords + 2 * capacity, coords + 3 * capacity, near.z.begin() + begin);
    for (int64_t i = 0; i < capacity; ++i) near.energy[begin + i] = index[i] < 0 ? T(0) : points[4 * index[i] + 3];
  }
}

// Writes the lanes whose bit is set, one after another; may write up to a whole vector.
template <class T>
static inline void store_selected(T* p, typename Simd<T>::V v, unsigned bits) {
#if PUFFIN_WIDTH == 64
  if constexpr (sizeof(T) == 4)
    _mm512_storeu_ps(p, _mm512_maskz_compress_ps(__mmask16(bits), (__m512)v));
  else
    _mm512_storeu_pd(p, _mm512_maskz_compress_pd(__mmask8(bits), (__m512d)v));
#else
  for (; bits; bits &= bits - 1) *p++ = v[__builtin_ctz(bits)];
#endif
}

// Copies the points whose distance is at most `limit`; distances(i) gives those of the rows from i on. The rows after
// the last point get the coordinates and energy `padding`. `near` and `inside` may be the same. Returns the number of
// points.
template <class T, class F>
static int64_t keep_inside(const Surroundings<T>& near, T limit, const F& distances, const T* padding,
                           Surroundings<T>& inside) {
  using S = Simd<T>;
  const int64_t rows = near.size;
  int64_t count = 0;
  inside.resize(rows);
  for (int64_t i = 0; i < rows; i += S::lanes) {
    const auto d = distances(i);
    const unsigned hits = S::less_equal(d, S::splat(limit));
    if (!hits) continue;
    store_selected<T>(&inside.distance[count], d, hits);
    store_selected<T>(&inside.x[count], S::load(&near.x[i]), hits);
    store_selected<T>(&inside.y[count], S::load(&near.y[i]), hits);
    store_selected<T>(&inside.z[count], S::load(&near.z[i]), hits);
    store_selected<T>(&inside.energy[count], S::load(&near.energy[i]), hits);
    count += __builtin_popcount(hits);
  }
  inside.size = (count + 15) / 16 * 16;
  for (int64_t i = count; i < inside.size; ++i) {
    inside.distance[i] = std::numeric_limits<T>::quiet_NaN();
    inside.x[i] = padding[0];
    inside.y[i] = padding[1];
    inside.z[i] = padding[2];
    inside.energy[i] = padding[3];
  }
  return count;
}

// The same, with the distances from the query q.
template <class T>
static int64_t measure_inside(const Surroundings<T>& near, const T* q, T limit, const T* padding,
                              Surroundings<T>& inside) {
  using S = Simd<T>;
  const auto x = S::splat(q[0]), y = S::splat(q[1]), z = S::splat(q[2]);
  return keep_inside(
      near, limit,
      [&](int64_t i) { return S::distance(x - S::load(&near.x[i]), y - S::load(&near.y[i]), z - S::load(&near.z[i])); },
      padding, inside);
}

template <class T>
static T largest_distance(const Surroundings<T>& inside) {
  using S = Simd<T>;
  typename S::V largest{};
  for (int64_t i = 0; i < inside.size; i += S::lanes) largest = S::max(S::load(&inside.distance[i]), largest);
  return S::highest(largest);
}

// The k-th smallest of `count` distances of which `hi` is the largest, or hi if there are fewer than k. Narrows the
// range by counting, between values that occur, so that it ends quickly where many are equal.
template <class T>
static T select_distance(const Surroundings<T>& inside, int64_t count, int64_t k, T hi) {
  using S = Simd<T>;
  using V = typename S::V;
  const T infinity = std::numeric_limits<T>::infinity();
  T lo = 0;                           // the distance of the query itself
  int64_t before = 0, until = count;  // number of distances below lo, and up to hi
  for (bool halve = false; lo < hi && k < until; halve = !halve) {
    // Alternating with a guess by the counts, which is better unless the points are spread very unevenly.
    const T fraction = halve ? T(0.5) : (T(k - before) - T(0.5)) / T(until - before);
    T middle = hi < infinity ? lo + (hi - lo) * fraction : std::numeric_limits<T>::max();
    if (!(middle < hi)) middle = lo;
    int64_t found = 0;
    V below{}, above = S::splat(infinity);
    for (int64_t i = 0; i < inside.size; i += S::lanes) {
      const V d = S::load(&inside.distance[i]);
      found += __builtin_popcount(S::less_equal(d, S::splat(middle)));
      below = S::max(d <= S::splat(middle) ? d : V{}, below);
      above = S::min(d > S::splat(middle) ? d : S::splat(infinity), above);
    }
    if (found >= k) {
      hi = S::highest(below);
      until = found;
    } else {
      lo = -S::highest(-above);
      before = found;
      if (found == k - 1) return lo;
    }
  }
  return hi;
}

// As many numbers as a vector of double has.
template <class T>
static inline typename Simd<double>::V load_wide(const T* p) {
  typedef T Narrow __attribute__((vector_size(Simd<double>::lanes * sizeof(T)), aligned(alignof(T)), may_alias));
  return __builtin_convertvector(*reinterpret_cast<const Narrow*>(p), typename Simd<double>::V);
}

static inline double total(typename Simd<double>::V v) {
  double sum = v[0];
  for (int i = 1; i < Simd<double>::lanes; ++i) sum += v[i];
  return sum;
}

template <class T>
static Shape measure_shape(const Surroundings<T>& inside, int64_t count, const T* q) {
  using S = Simd<double>;
  using V = typename S::V;
  const V qx = S::splat(q[0]), qy = S::splat(q[1]), qz = S::splat(q[2]), qe = S::splat(q[3]);
  V sx{}, sy{}, sz{}, se{}, xx{}, xy{}, xz{}, yy{}, yz{}, zz{}, ee{};
  for (int64_t i = 0; i < inside.size; i += S::lanes) {
    const V x = load_wide(&inside.x[i]) - qx, y = load_wide(&inside.y[i]) - qy, z = load_wide(&inside.z[i]) - qz;
    const V e = load_wide(&inside.energy[i]) - qe;
    sx += x, sy += y, sz += z, se += e;
    xx += x * x, xy += x * y, xz += x * z, yy += y * y, yz += y * z, zz += z * z, ee += e * e;
  }
  const double sums[shape_sums] = {total(sx), total(sy), total(sz), total(se), total(xx), total(xy),
                                   total(xz), total(yy), total(yz), total(zz), total(ee)};
  return shape_of(count, sums, q[3]);
}

// out: number and energy of the points at squared distance < r2
template <class T>
static void write_ball(const Surroundings<T>& near, T r2, T* out) {
  using S = Simd<T>;
  using W = Simd<double>;
  int64_t count = 0;
  typename W::V sum{};
  for (int64_t i = 0; i < near.size; i += S::lanes) {
    const auto d = S::load(&near.distance[i]);
    const unsigned hits = S::less(d, S::splat(r2));
    if (!hits) continue;
    count += __builtin_popcount(hits);
    const auto energy = d < S::splat(r2) ? S::load(&near.energy[i]) : typename S::V{};
    for (int part = 0; part < S::lanes; part += W::lanes) sum += load_wide(reinterpret_cast<const T*>(&energy) + part);
  }
  out[0] = T(count);
  out[1] = T(total(sum));
}

// points (tree.size, 4) of the event, out (tree.size, columns); neighbours ascending, r2: squared radii
template <class T>
void geometry_buckets(const KdTree<T>& tree, const T* points, int32_t first, int32_t last,
                      const std::vector<int64_t>& neighbours, const std::vector<T>& r2, int64_t columns, T* out) {
  const int64_t scales = int64_t(neighbours.size());
  std::vector<std::pair<T, int32_t>> heap;
  std::vector<int32_t> stack;
  std::vector<Shape> shapes(scales);
  std::vector<T> reach(scales);
  Surroundings<T> near, inside;
  const T nan = std::numeric_limits<T>::quiet_NaN(), nowhere[4] = {nan, nan, nan, 0};
  T widest = 0;
  for (const T r : r2) widest = larger(widest, r);
  for (int32_t bucket = first; bucket < last; ++bucket) {
    const Node<T>& home = tree.nodes[tree.node_of[bucket]];
    const T bound = larger(widest, scales ? reach_bound(tree, home, neighbours.back(), heap) : T(0));
    gather_near(tree, points, home, bound, stack, near);
    T limit = bound;
    for (int32_t i = 0; i < tree.bucket_size(bucket); ++i) {
      const int64_t row = tree.bucket_index(bucket)[i];
      const T* q = points + 4 * row;
      int64_t count = measure_inside(near, q, limit, q, inside);  // q adds nothing to its moments
      T* columns_of_balls = out + (row + 1) * columns - 2 * int64_t(r2.size());
      for (size_t r = 0; r < r2.size(); ++r) write_ball(inside, r2[r], columns_of_balls + 2 * r);
      T largest = scales ? largest_distance(inside) : T(0);
      for (int64_t s = scales - 1; s >= 0; --s) {  // each neighbourhood holds the next one
        reach[s] = largest = select_distance(inside, count, neighbours[s], largest);
        count = keep_inside(inside, largest, [&](int64_t i) { return Simd<T>::load(&inside.distance[i]); }, q, inside);
        shapes[s] = measure_shape(inside, count, q);
      }
      if (scales && i == 0) {  // the other queries have their neighbours near those of the first
        const T extent = box_span(home.lo, home.hi, home.lo, home.hi);
        measure_inside(near, q, widen(larger(widest, widen(reach[scales - 1], extent)), extent), nowhere, near);
      }
      if (scales && i + 1 < tree.bucket_size(bucket)) {
        const T* next = points + 4 * int64_t(tree.bucket_index(bucket)[i + 1]);
        const T step = squared_distance(next[0] - q[0], next[1] - q[1], next[2] - q[2]);
        limit = larger(widest, widen(reach[scales - 1], step));
      }
      T* columns_of_scale = out + row * columns;
      for (int64_t s = 0; s < scales; columns_of_scale += 8 + (s > 0), ++s)
        write_shape(shapes[s], s ? shapes[s - 1].covariance : nullptr, reach[s], columns_of_scale);
    }
  }
}

// The row that names the set of a row; shortens the path to it.
static inline int32_t find_root(int32_t* parent, int32_t i) {
  while (parent[i] != i) i = parent[i] = parent[parent[i]];
  return i;
}

// The lower of both roots names the united set.
static inline void unite(int32_t* parent, int32_t a, int32_t b) {
  a = find_root(parent, a);
  b = find_root(parent, b);
  parent[a < b ? b : a] = a < b ? a : b;
}

// parent (tree.size): sets of points that are linked at squared distance <= r2; find_root gives the names of the sets.
template <class T>
void link_points(const KdTree<T>& tree, T r2, int32_t* parent) {
  using S = Simd<T>;
  const int64_t capacity = tree.capacity;
  std::vector<int32_t> stack;
  std::vector<char> joined(tree.nodes.size());  // nodes whose points are all in one set
  for (int32_t bucket = 0; bucket < tree.buckets; ++bucket) {
    const Node<T>& home = tree.nodes[tree.node_of[bucket]];
    const T *qx = tree.bucket(bucket), *qy = qx + capacity, *qz = qy + capacity;
    const int32_t* own = tree.bucket_index(bucket);
    const int32_t used = tree.bucket_size(bucket);
    stack.assign(1, 1);
    while (!stack.empty()) {
      const int32_t at = stack.back();
      stack.pop_back();
      const Node<T>& node = tree.nodes[at];
      // links to earlier buckets were found from there
      if (node.last <= bucket || box_gap(home.lo, home.hi, node.lo, node.hi) > r2) continue;
      if (box_span(home.lo, home.hi, node.lo, node.hi) <= r2) {  // every point of one box is linked to all of the other
        for (int32_t i = 0; i < used; ++i) unite(parent, own[i], node.lowest);
        joined[at] = true;
        continue;
      }
      if (!node.leaf()) {
        stack.push_back(2 * at + 1);
        stack.push_back(2 * at);
        continue;
      }
      const T *px = tree.bucket(node.first), *py = px + capacity, *pz = py + capacity;
      for (int32_t q = 0; q < used; ++q) {
        const auto x = S::splat(qx[q]), y = S::splat(qy[q]), z = S::splat(qz[q]);
        for (int64_t i = 0; i < capacity; i += S::lanes) {
          const auto d = S::distance(x - S::load(px + i), y - S::load(py + i), z - S::load(pz + i));
          for (unsigned hits = S::less_equal(d, S::splat(r2)); hits; hits &= hits - 1)
            unite(parent, own[q], tree.bucket_index(node.first)[i + __builtin_ctz(hits)]);
        }
      }
    }
  }
  if (tree.size > 0) stack.assign(1, 1);
  while (!stack.empty()) {
    const int32_t at = stack.back();
    stack.pop_back();
    const Node<T>& node = tree.nodes[at];
    if (joined[at]) {
      const int32_t* index = tree.bucket_index(node.first);
      for (int64_t i = 0; i < tree.count(node); ++i) unite(parent, index[i], node.lowest);
    } else if (!node.leaf()) {
      stack.push_back(2 * at + 1);
      stack.push_back(2 * at);
    }
  }
}

template <class T>
void find_components(const KdTree<T>& tree, T r2, int64_t begin, int64_t* out) {
  std::vector<int32_t> parent(tree.size);
  for (int64_t i = 0; i < tree.size; ++i) parent[i] = int32_t(i);
  link_points(tree, r2, parent.data());
  for (int64_t i = 0; i < tree.size; ++i) out[i] = begin + find_root(parent.data(), int32_t(i));
}
