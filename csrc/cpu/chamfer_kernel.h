// Finds the nearest point of the other cloud, over all D coordinates.
#include "knn_kernel.h"

// (size, dims) -> (dims, padded); the padding is zero and is never part of a result
template <class T>
static void transpose_cloud(const T* points, int64_t size, int64_t dims, int64_t padded, std::vector<T>& out) {
  out.assign(dims * padded, T(0));
  for (int64_t i = 0; i < size; ++i)
    for (int64_t c = 0; c < dims; ++c) out[c * padded + i] = points[i * dims + c];
}

// Compares every pair. The lanes are points of x; j ascends and the comparison is strict, so ties go to the lowest
// index.
template <class T>
void nearest_plain(const T* x, const T* y, int64_t nx, int64_t ny, int64_t dims, std::vector<T>& transposed,
                   T* distance, int64_t* index) {
  using S = Simd<T>;
  using V = typename S::V;
  using M = decltype(V{} < V{});
  using Lane = std::remove_reference_t<decltype(M{}[0])>;
  const int64_t padded = (nx + S::lanes - 1) / S::lanes * S::lanes;
  transpose_cloud(x, nx, dims, padded, transposed);
  for (int64_t i = 0; i < nx; i += S::lanes) {
    V best = S::splat(std::numeric_limits<T>::infinity());
    M nearest{};
    for (int64_t j = 0; j < ny; ++j) {
      V sum{};
      for (int64_t c = 0; c < dims; ++c) {
        const V d = S::load(&transposed[c * padded + i]) - S::splat(y[j * dims + c]);
        sum = c == 0 ? d * d : sum + d * d;
      }
      const M closer = sum < best;
      best = closer ? sum : best;
      nearest = closer ? M{} + Lane(j) : nearest;
    }
    for (int64_t l = 0; l < std::min<int64_t>(S::lanes, nx - i); ++l) {
      distance[i + l] = best[l];
      index[i + l] = nearest[l];
    }
  }
}

// The same, with trees over the first three coordinates.
template <class T>
void nearest_buckets(const KdTree<T>& queries, const KdTree<T>& points, int32_t first, int32_t last, const T* x,
                     const T* y, int64_t dims, T* distance, int64_t* index) {
  KnnScratch<T> scratch;
  const auto refine = [x, y, dims](T d, int32_t q, int32_t p) {
    for (int64_t c = 3; c < dims; ++c) {
      const T diff = x[q * dims + c] - y[p * dims + c];
      d = d + diff * diff;
    }
    return d;
  };
  for (int32_t bucket = first; bucket < last; ++bucket) {
    knn_bucket(queries, points, bucket, 1, scratch, refine);
    for (int32_t i = 0; i < queries.bucket_size(bucket); ++i) {
      const int64_t row = queries.bucket_index(bucket)[i];
      distance[row] = key_distance<T>(scratch.best[i]);
      index[row] = int32_t(uint32_t(scratch.best[i]));
    }
  }
}
