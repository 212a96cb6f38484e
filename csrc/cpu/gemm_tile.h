// Small matrix products that fit in the cache, in the namespace of the instruction set that includes this file.
// Operands consist of words: see bf16.h.
#include "bf16.h"

constexpr int64_t widest = 64;  // bytes of the widest vector: the padding of rows is the same for every instruction set

// Number of columns, rounded up to whole vectors.
template <class T>
static constexpr int64_t padded(int64_t columns) {
  constexpr int64_t lanes = widest / int64_t(sizeof(T));
  return (columns + lanes - 1) / lanes * lanes;
}

// Pieces of memory that the next tile reads. The products fetch them line by line: tables of pairs are larger than the
// caches, and with several tables the machine does not foresee that the next rows follow the products of these.
struct Ahead {
  static constexpr int most = 6;
  const char* piece[most] = {};
  int64_t lines[most] = {};
  int pieces = 0, current = 0;
  int64_t line = 0;

  template <class T>
  inline void add(const T* p, int64_t count) {
    if (count <= 0) return;
    piece[pieces] = reinterpret_cast<const char*>(p);
    lines[pieces++] = (count * int64_t(sizeof(T)) + 63) / 64;
  }
  inline void step() {
    if (current == pieces) return;
    __builtin_prefetch(piece[current] + 64 * line, 0, 2);
    if (++line < lines[current]) return;
    line = 0;
    ++current;
  }
};

struct NothingAhead {
  inline void step() {}
};

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

// What a product does with words.
template <class W>
struct Operand {
  using Sum = W;
  using V = typename Simd<W>::V;
  static inline V load(const W* p) { return Simd<W>::load(p); }
  static inline V splat(const W& x) { return Simd<W>::splat(x); }
  static inline V add_product(V a, V b, V c) { return multiply_add<W>(a, b, c); }
};
#ifdef PUFFIN_BF16
template <>
struct Operand<Bf16Pair> {
  using Sum = float;
  using V = Simd<float>::V;
  static inline V load(const Bf16Pair* p) { return (V)_mm512_loadu_ps(p); }
  static inline V splat(const Bf16Pair& x) {
    int32_t word;
    std::memcpy(&word, &x, sizeof word);
    return (V)_mm512_set1_epi32(word);
  }
  static inline V add_product(V a, V b, V c) { return (V)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b); }
};
#endif

// Computes ROWS x (VECTORS lanes) of a b in registers, and calls use(row, column, sums) with them.
template <class W, int ROWS, int VECTORS, class Use, class Next>
static inline void micro_product(const W* a, int64_t row_stride, int64_t inner_stride, int64_t inner, const W* b,
                                 int64_t ldb, int64_t row, int64_t column, const Use& use, Next& ahead) {
  using O = Operand<W>;
  using V = typename O::V;
  constexpr int lanes = Simd<typename O::Sum>::lanes;
  V sum[ROWS][VECTORS] = {};
  a += row * row_stride;
  b += column;
  for (int64_t k = 0; k < inner; ++k) {
    ahead.step();
    V right[VECTORS];
#pragma GCC unroll 12
    for (int v = 0; v < VECTORS; ++v) right[v] = O::load(b + k * ldb + v * lanes);
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) {
      const V left = O::splat(a[r * row_stride + k * inner_stride]);
#pragma GCC unroll 12
      for (int v = 0; v < VECTORS; ++v) sum[r][v] = O::add_product(left, right[v], sum[r][v]);
    }
  }
  use(row, column, sum);
}

// The last `rows` rows, of which there are at most ROWS.
template <class W, int ROWS, int VECTORS, class Use, class Next>
static inline void last_rows(const W* a, int64_t row_stride, int64_t inner_stride, int64_t rows, int64_t inner,
                             const W* b, int64_t ldb, int64_t row, int64_t column, const Use& use, Next& ahead) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS)
      micro_product<W, ROWS, VECTORS>(a, row_stride, inner_stride, inner, b, ldb, row, column, use, ahead);
    else
      last_rows<W, ROWS - 1, VECTORS>(a, row_stride, inner_stride, rows, inner, b, ldb, row, column, use, ahead);
  }
}

// All rows of VECTORS vectors of columns, as many rows at once as fit in the registers.
template <class W, int VECTORS, class Use, class Next>
static inline void product_columns(const W* a, int64_t row_stride, int64_t inner_stride, int64_t rows, int64_t inner,
                                   const W* b, int64_t ldb, int64_t column, const Use& use, Next& ahead) {
  constexpr int block = VECTORS == 1 ? 8 : (PUFFIN_WIDTH == 64 ? 24 : 12) / VECTORS;
  int64_t r = 0;
  for (; r + block <= rows; r += block)
    micro_product<W, block, VECTORS>(a, row_stride, inner_stride, inner, b, ldb, r, column, use, ahead);
  last_rows<W, block - 1, VECTORS>(a, row_stride, inner_stride, rows - r, inner, b, ldb, r, column, use, ahead);
}

// Computes a b (rows, columns) piece by piece, and calls use(row, column, sums) for each piece: sums[r][v] is the
// vector of row `row + r` that begins at column `column + v lanes`. a[r, k] = a[r row_stride + k inner_stride];
// inner: words; columns: whole vectors.
template <class W, class Use, class Next>
static void tile_product(const W* a, int64_t row_stride, int64_t inner_stride, int64_t rows, int64_t inner, const W* b,
                         int64_t ldb, int64_t columns, const Use& use, Next& ahead) {
  constexpr int lanes = Simd<typename Operand<W>::Sum>::lanes;
  constexpr int most = PUFFIN_WIDTH == 64 ? 4 : 2;  // vectors of columns at once
  int64_t n = 0;
  for (; n + most * lanes <= columns; n += most * lanes)
    product_columns<W, most>(a, row_stride, inner_stride, rows, inner, b, ldb, n, use, ahead);
  const int64_t rest = (columns - n) / lanes;
  if (most > 3 && rest == 3)
    product_columns<W, 3>(a, row_stride, inner_stride, rows, inner, b, ldb, n, use, ahead);
  else if (most > 2 && rest == 2)
    product_columns<W, 2>(a, row_stride, inner_stride, rows, inner, b, ldb, n, use, ahead);
  else if (rest == 1)
    product_columns<W, 1>(a, row_stride, inner_stride, rows, inner, b, ldb, n, use, ahead);
}

// `rows` rows of a left operand times b (words of the inner dimension, columns).
template <class E, class Use, class Next>
static inline void tile_product(const Left<E>& a, int64_t rows, const Word<E>* b, int64_t columns, const Use& use,
                                Next& ahead) {
  tile_product<Word<E>>(a.words, a.row, a.step, rows, a.inner, b, columns, columns, use, ahead);
}
// The same where the machine foresees by itself what is read next.
template <class E, class Use>
static inline void tile_product(const Left<E>& a, int64_t rows, const Word<E>* b, int64_t columns, const Use& use) {
  NothingAhead nothing;
  tile_product(a, rows, b, columns, use, nothing);
}

// Calls each(row, column, sum) for every vector of a piece, row by row; a `use` of tile_product.
template <class T, class Each>
struct ForEachVector {
  Each each;
  template <int ROWS, int VECTORS>
  inline void operator()(int64_t row, int64_t column, const typename Simd<T>::V (&sum)[ROWS][VECTORS]) const {
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 12
      for (int v = 0; v < VECTORS; ++v) each(row + r, column + v * Simd<T>::lanes, sum[r][v]);
  }
};

template <class T, class Each>
static inline ForEachVector<T, Each> for_each_vector(const Each& each) {
  return {each};
}

// c (rows, ldc) = or += the product
template <class T>
static inline auto write_to(T* c, int64_t ldc) {
  return for_each_vector<T>([=](int64_t r, int64_t n, auto sum) { Simd<T>::store(c + r * ldc + n, sum); });
}
template <class T>
static inline auto add_to(T* c, int64_t ldc) {
  return for_each_vector<T>([=](int64_t r, int64_t n, auto sum) {
    T* at = c + r * ldc + n;
    Simd<T>::store(at, Simd<T>::load(at) + sum);
  });
}
