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

// Calls fn with n as a constant, if n is 1 to MOST.
template <int MOST, class F>
static inline void with_constant(int64_t n, const F& fn) {
  if constexpr (MOST > 0) {
    if (n == MOST)
      fn(std::integral_constant<int, MOST>{});
    else
      with_constant<MOST - 1>(n, fn);
  }
}

// Cuts a matrix, whose columns are whole vectors, into blocks that fit in the registers, and calls
// fn(first row, constant rows, first column, constant vectors).
template <class T, class F>
static inline void for_each_block(int64_t rows, int64_t columns, const F& fn) {
  constexpr int lanes = Simd<T>::lanes, most = PUFFIN_WIDTH == 64 ? 4 : 2;  // vectors of columns at once
  const auto of_columns = [&](int64_t c, auto vectors) {
    constexpr int count = decltype(vectors)::value;
    constexpr int height = count == 1 ? 8 : (PUFFIN_WIDTH == 64 ? 24 : 12) / count;
    int64_t r = 0;
    for (; r + height <= rows; r += height) fn(r, std::integral_constant<int, height>{}, c, vectors);
    with_constant<height - 1>(rows - r, [&](auto last) { fn(r, last, c, vectors); });
  };
  int64_t c = 0;
  for (; c + most * lanes <= columns; c += most * lanes) of_columns(c, std::integral_constant<int, most>{});
  with_constant<most - 1>((columns - c) / lanes, [&](auto vectors) { of_columns(c, vectors); });
}

// Computes ROWS x VECTORS vectors of a product in registers, and calls use(sums) with them. left(r, k) is a word of the
// left operand, right(k, v) a vector of the right one.
template <class W, int ROWS, int VECTORS, class Left, class Right, class Use, class Next>
static inline void micro_product(int64_t inner, const Left& left, const Right& right, const Use& use, Next& ahead) {
  using O = Operand<W>;
  using V = typename O::V;
  V sum[ROWS][VECTORS] = {};
  for (int64_t k = 0; k < inner; ++k) {
    ahead.step();
    V vectors[VECTORS];
#pragma GCC unroll 12
    for (int v = 0; v < VECTORS; ++v) vectors[v] = right(k, v);
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) {
      const V factor = O::splat(left(r, k));
#pragma GCC unroll 12
      for (int v = 0; v < VECTORS; ++v) sum[r][v] = O::add_product(factor, vectors[v], sum[r][v]);
    }
  }
  use(sum);
}

// Computes a b (rows, columns) piece by piece, and calls use(row, column, sums) for each piece: sums[r][v] is the
// vector of row `row + r` that begins at column `column + v lanes`. a[r, k] = a[r row_stride + k inner_stride];
// inner: words; columns: whole vectors.
template <class W, class Use, class Next>
static void tile_product(const W* a, int64_t row_stride, int64_t inner_stride, int64_t rows, int64_t inner, const W* b,
                         int64_t ldb, int64_t columns, const Use& use, Next& ahead) {
  using O = Operand<W>;
  constexpr int lanes = Simd<typename O::Sum>::lanes;
  for_each_block<typename O::Sum>(rows, columns, [&](int64_t row, auto height, int64_t column, auto vectors) {
    const W *own = a + row * row_stride, *other = b + column;
    micro_product<W, height.value, vectors.value>(
        inner, [=](int r, int64_t k) { return own[r * row_stride + k * inner_stride]; },
        [=](int64_t k, int v) { return O::load(other + k * ldb + v * lanes); },
        [&](const auto& sum) { use(row, column, sum); }, ahead);
  });
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

// Copies rows (rows, size) that are `stride` numbers apart to (rows, ld), padded with zeros.
template <class E, class T = Sum<E>>
static inline void read_rows(const E* x, int64_t stride, int64_t rows, int64_t size, T* to) {
  const int64_t ld = padded<T>(size);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < ld; c += Simd<T>::lanes)
      Simd<T>::store(to + r * ld + c, read(x + r * stride + c, size - c));
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
