// Tables of bfloat16, and the operands of matrix products that are made of them, in the namespace of the instruction
// set that includes this file (after simd.h).
//
// A table has elements E: float, double or Bf16. All sums have the type Sum<E>, which is float for Bf16. An operand of
// a product is made of words Word<E>. Where the machine multiplies bfloat16 (PUFFIN_BF16), a word of a bfloat16 table
// holds two neighbours along the inner dimension; everywhere else it is one number of the type of the sums.

template <class E>
struct Element {
  using Sum = E;
  using Word = E;
};
template <>
struct Element<Bf16> {
  using Sum = float;
#ifdef PUFFIN_BF16
  using Word = Bf16Pair;
#else
  using Word = float;
#endif
};
template <class E>
using Sum = typename Element<E>::Sum;
template <class E>
using Word = typename Element<E>::Word;
template <class E>
using Vector = typename Simd<Sum<E>>::V;

// Numbers that one word holds.
template <class E>
constexpr int64_t word_size = std::is_same_v<Word<E>, Bf16Pair> ? 2 : 1;

template <class E>
constexpr int64_t num_words(int64_t numbers) {
  return (numbers + word_size<E> - 1) / word_size<E>;
}

template <class T>
static inline T value_of(T x) {
  return x;
}
static inline float value_of(Bf16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

typedef uint16_t Halves __attribute__((vector_size(PUFFIN_WIDTH / 2)));
typedef uint16_t UnalignedHalves __attribute__((vector_size(PUFFIN_WIDTH / 2), aligned(2), may_alias));
typedef uint32_t Bits __attribute__((vector_size(PUFFIN_WIDTH)));

// The compiler makes several instructions of __builtin_convertvector where there is one. (It warns of intrinsics
// without a mask that their unused operand is not initialised.)
static inline Bits extend(Halves x) {
#if PUFFIN_WIDTH == 64
  return (Bits)_mm512_maskz_cvtepu16_epi32(__mmask16(-1), (__m256i)x);
#elif PUFFIN_WIDTH == 32
  return (Bits)_mm256_cvtepu16_epi32((__m128i)x);
#else
  return __builtin_convertvector(x, Bits);
#endif
}
static inline Simd<float>::V widen(Halves x) { return (Simd<float>::V)(extend(x) << 16); }

// Rounds to nearest, ties to even; NaN stays NaN. The instruction also replaces subnormal numbers by 0.
static inline Halves narrow(Simd<float>::V x) {
#ifdef PUFFIN_BF16
  return (Halves)_mm512_cvtneps_pbh((__m512)x);
#else
  const Bits bits = (Bits)x, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16, quiet = (bits >> 16) | 0x40;
  const Bits result = x == x ? rounded : quiet;
#if PUFFIN_WIDTH == 64
  return (Halves)_mm512_maskz_cvtepi32_epi16(__mmask16(-1), (__m512i)result);
#else
  return __builtin_convertvector(result, Halves);
#endif
#endif
}

#if PUFFIN_WIDTH == 64
// The lowest n of 16 bits; n may be less than 0 or more than 16.
static inline __mmask16 first_lanes(int64_t n) {
  n = n < 16 ? n : 16;
  return __mmask16(_bzhi_u32(~0u, unsigned(n > 0 ? n : 0)));
}
#endif

// The first n numbers of a vector of a table; the other lanes are 0. n may be less than 0, or more than the lanes.
template <class E>
static inline Vector<E> read(const E* p, int64_t n) {
  if constexpr (!std::is_same_v<E, Bf16>) {
    return Simd<E>::load_first(p, n);
  } else {
#if PUFFIN_WIDTH == 64
    return widen((Halves)_mm256_maskz_loadu_epi16(first_lanes(n), p));
#else
    if (n >= Simd<float>::lanes) return widen(*reinterpret_cast<const UnalignedHalves*>(p));
    Halves x{};
    for (int64_t i = 0; i < n; ++i) x[i] = p[i].bits;
    return widen(x);
#endif
  }
}

// Writes the first n numbers of a vector, and returns the vector as the table holds it.
template <class E>
static inline Vector<E> write(E* p, Vector<E> v, int64_t n) {
  if constexpr (!std::is_same_v<E, Bf16>) {
    Simd<E>::store_first(p, v, n);
    return v;
  } else {
    const Halves x = narrow(v);
#if PUFFIN_WIDTH == 64
    if (n >= 16)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)x);
    else
      _mm256_mask_storeu_epi16(p, first_lanes(n), (__m256i)x);
#else
    if (n >= Simd<float>::lanes)
      *reinterpret_cast<UnalignedHalves*>(p) = x;
    else
      for (int64_t i = 0; i < n; ++i) p[i].bits = x[i];
#endif
    return widen(x);
  }
}

// The left operand of a product: word k of row r is words[r row + k step].
template <class E>
struct Left {
  const Word<E>* words;
  int64_t row, step, inner;
};

#ifdef PUFFIN_BF16
// One word for each lane, of a number of `first` and one of `second`.
static inline Simd<float>::V interleave(Simd<float>::V first, Simd<float>::V second) {
  return (Simd<float>::V)(
      __builtin_convertvector(narrow(first), Bits) | (__builtin_convertvector(narrow(second), Bits) << 16));
}
// The first n of 16 words.
static inline void store_words(Bf16Pair* to, Simd<float>::V words, int64_t n) {
  _mm512_mask_storeu_ps(to, first_lanes(n), (__m512)words);
}
#endif

// The rows of a table (rows, columns); scratch: rows x columns words, which are not used where the table itself will
// do.
template <class E>
static inline Left<E> rows_of(const E* x, int64_t rows, int64_t columns, Word<E>* scratch) {
  if constexpr (std::is_same_v<E, Word<E>>) {
    return {x, columns, 1, columns};
  } else if constexpr (word_size<E> == 1) {
    for (int64_t c = 0; c < rows * columns; ++c) scratch[c] = value_of(x[c]);
    return {scratch, columns, 1, columns};
  } else {
    const int64_t words = num_words<E>(columns);
    if (columns % 2 == 0) return {reinterpret_cast<const Bf16Pair*>(x), words, 1, words};
    for (int64_t r = 0; r < rows; ++r) {  // the word at the end of a row must not hold a number of the next
      std::memcpy(scratch + r * words, x + r * columns, columns * sizeof(Bf16));
      scratch[(r + 1) * words - 1].second = Bf16{0};
    }
    return {scratch, words, 1, words};
  }
}

// The columns of a table (rows, columns): the left operand of its transpose times another. scratch as for `rows_of`.
template <class E>
static inline Left<E> columns_of(const E* x, int64_t rows, int64_t columns, Word<E>* scratch) {
  if constexpr (word_size<E> == 1) {
    return {rows_of(x, rows, columns, scratch).words, 1, columns, rows};
  } else {
    for (int64_t r = 0; r < rows; r += 2, x += 2 * columns)
      for (int64_t c = 0; c < columns; c += 16) {
        const int64_t left = columns - c;
        const auto first = read(x + c, left), second = read(x + columns + c, r + 1 < rows ? left : 0);
        const auto words = (Simd<float>::V)(((Bits)first >> 16) | (Bits)second);
        store_words(scratch + r / 2 * columns + c, words, left);
      }
    return {scratch, 1, columns, num_words<E>(rows)};
  }
}

// A tile of computed rows that products read from both sides; an even number of rows of `ld` numbers. `store` takes
// two rows, the second of zeros beyond the last.
template <class E>
struct Tile {
  Word<E>* words;
  int64_t rows, ld;

  inline void store(int64_t row, int64_t column, Vector<E> first, Vector<E> second) const {
    if constexpr (word_size<E> == 1) {
      Simd<Sum<E>>::store(words + row * ld + column, first);
      Simd<Sum<E>>::store(words + (row + 1) * ld + column, second);
    } else {
      Bf16* const numbers = reinterpret_cast<Bf16*>(words) + row * ld + column;
      write(numbers, first, 16);
      write(numbers + ld, second, 16);
      store_words(words + rows * ld / 2 + row / 2 * ld + column, interleave(first, second), 16);
    }
  }
  inline Left<E> by_rows(int64_t columns) const { return {words, ld / word_size<E>, 1, num_words<E>(columns)}; }
  // As the right operand of a product along its rows: leading dimension `ld`.
  inline const Word<E>* right() const { return word_size<E> == 1 ? words : words + rows * ld / 2; }
};

// Turns a matrix (inner, ld) of numbers into the words of a right operand, in place.
template <class E>
void make_words(Sum<E>* matrix, int64_t inner, int64_t ld) {
  if constexpr (word_size<E> == 2)
    for (int64_t k = 0; k < inner; k += 2)
      for (int64_t c = 0; c < ld; c += 16) {
        using S = Simd<float>;
        const auto second = k + 1 < inner ? S::load(matrix + (k + 1) * ld + c) : S::V{};
        S::store(matrix + k / 2 * ld + c, interleave(S::load(matrix + k * ld + c), second));
      }
}

// The words of a matrix that `make_words` has made.
template <class E>
static inline const Word<E>* words_of(const Sum<E>* matrix) {
  return reinterpret_cast<const Word<E>*>(matrix);
}
