// Small matrix products that fit in the cache, in the namespace of the instruction set that includes this file.

constexpr int64_t widest = 64;  // bytes of the widest vector: the padding of rows is the same for every instruction set

// Number of columns, rounded up to whole vectors.
template <class T>
static constexpr int64_t padded(int64_t columns) {
  constexpr int64_t lanes = widest / int64_t(sizeof(T));
  return (columns + lanes - 1) / lanes * lanes;
}

template <class T>
static inline typename Simd<T>::V multiply_add(typename Simd<T>::V a, typename Simd<T>::V b, typename Simd<T>::V c) {
#if PUFFIN_WIDTH == 64
  if constexpr (sizeof(T) == 4)
    return (typename Simd<T>::V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  else
    return (typename Simd<T>::V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif PUFFIN_WIDTH == 32
  if constexpr (sizeof(T) == 4)
    return (typename Simd<T>::V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  else
    return (typename Simd<T>::V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}

// Computes ROWS x (VECTORS lanes) of c = a b, or c += a b, with the sums in registers.
template <class T, int ROWS, int VECTORS>
static inline void micro_product(const T* a, int64_t row_stride, int64_t inner_stride, int64_t inner, const T* b,
                                 int64_t ldb, T* c, int64_t ldc, bool add) {
  using S = Simd<T>;
  using V = typename S::V;
  V sum[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) sum[r][v] = add ? S::load(c + r * ldc + v * S::lanes) : V{};
  for (int64_t k = 0; k < inner; ++k) {
    V right[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) right[v] = S::load(b + k * ldb + v * S::lanes);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const V left = S::splat(a[r * row_stride + k * inner_stride]);
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) sum[r][v] = multiply_add<T>(left, right[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) S::store(c + r * ldc + v * S::lanes, sum[r][v]);
}

template <class T, int ROWS>
static inline void product_rows(const T* a, int64_t row_stride, int64_t inner_stride, int64_t inner, const T* b,
                                int64_t ldb, int64_t columns, T* c, int64_t ldc, bool add) {
  constexpr int lanes = Simd<T>::lanes;
  constexpr int vectors = PUFFIN_WIDTH == 64 ? 4 : 2;  // number of vectors that fit in the registers with ROWS rows
  int64_t n = 0;
  for (; n + vectors * lanes <= columns; n += vectors * lanes)
    micro_product<T, ROWS, vectors>(a, row_stride, inner_stride, inner, b + n, ldb, c + n, ldc, add);
  for (; n < columns; n += lanes)
    micro_product<T, ROWS, 1>(a, row_stride, inner_stride, inner, b + n, ldb, c + n, ldc, add);
}

// c (rows, columns) = a b, or c += a b. a[r, k] = a[r row_stride + k inner_stride]; columns: whole vectors.
template <class T>
static void tile_product(const T* a, int64_t row_stride, int64_t inner_stride, int64_t rows, int64_t inner, const T* b,
                         int64_t ldb, int64_t columns, T* c, int64_t ldc, bool add) {
  constexpr int block = PUFFIN_WIDTH == 64 ? 6 : 4;
  int64_t r = 0;
  for (; r + block <= rows; r += block)
    product_rows<T, block>(a + r * row_stride, row_stride, inner_stride, inner, b, ldb, columns, c + r * ldc, ldc, add);
  for (; r < rows; ++r)
    product_rows<T, 1>(a + r * row_stride, row_stride, inner_stride, inner, b, ldb, columns, c + r * ldc, ldc, add);
}
