// Vectors of PUFFIN_WIDTH bytes and bounds between boxes, in the namespace of the instruction set that includes this
// file.
template <class T>
struct Simd {
  static constexpr int lanes = PUFFIN_WIDTH / sizeof(T);
  typedef T V __attribute__((vector_size(PUFFIN_WIDTH)));
  typedef T U __attribute__((vector_size(PUFFIN_WIDTH), aligned(alignof(T)), may_alias));

  static inline V load(const T* p) { return *reinterpret_cast<const U*>(p); }
  static inline void store(T* p, V v) { *reinterpret_cast<U*>(p) = v; }
  static inline V splat(T x) { return x - V{}; }

  // The first n lanes only; the others are read as 0 and not written. n may be more than the vector has, or less than
  // 0.
  static inline V load_first(const T* p, int64_t n) {
#if PUFFIN_WIDTH == 64
    if constexpr (sizeof(T) == 4)
      return (V)_mm512_maskz_loadu_ps(__mmask16(first_bits(n)), p);
    else
      return (V)_mm512_maskz_loadu_pd(__mmask8(first_bits(n)), p);
#else
    if (n >= lanes) return load(p);
    V v{};
    for (int64_t i = 0; i < n; ++i) v[i] = p[i];
    return v;
#endif
  }
  static inline void store_first(T* p, V v, int64_t n) {
#if PUFFIN_WIDTH == 64
    if constexpr (sizeof(T) == 4)
      _mm512_mask_storeu_ps(p, __mmask16(first_bits(n)), (__m512)v);
    else
      _mm512_mask_storeu_pd(p, __mmask8(first_bits(n)), (__m512d)v);
#else
    if (n >= lanes) return store(p, v);
    for (int64_t i = 0; i < n; ++i) p[i] = v[i];
#endif
  }
  static inline V min(V a, V b) { return a < b ? a : b; }
  static inline V max(V a, V b) { return a > b ? a : b; }

  // Bit i is set where a[i] < b[i]; never for NaN.
  static inline unsigned less(V a, V b) {
#if PUFFIN_WIDTH == 64
    if constexpr (sizeof(T) == 4)
      return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ);
    else
      return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LT_OQ);
#else
    return bits(a < b);
#endif
  }
  static inline unsigned less_equal(V a, V b) {
#if PUFFIN_WIDTH == 64
    if constexpr (sizeof(T) == 4)
      return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LE_OQ);
    else
      return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LE_OQ);
#else
    return bits(a <= b);
#endif
  }
  static inline unsigned equal(V a, V b) {
#if PUFFIN_WIDTH == 64
    if constexpr (sizeof(T) == 4)
      return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ);
    else
      return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_EQ_OQ);
#else
    return bits(a == b);
#endif
  }

  static inline T highest(V v) {
    T best = v[0];
    for (int i = 1; i < lanes; ++i) best = v[i] > best ? v[i] : best;
    return best;
  }

  static inline V distance(V dx, V dy, V dz) { return dx * dx + dy * dy + dz * dz; }

  // max(lo - q, q - hi, 0)
  static inline V gap(V q, V lo, V hi) { return max(max(lo - q, q - hi), V{}); }

 private:
#if PUFFIN_WIDTH == 64
  // Without a branch, so that loops over whole and partial vectors are the same code.
  static inline unsigned first_bits(int64_t n) {
    n = n < lanes ? n : int64_t(lanes);
    return _bzhi_u32(~0u, unsigned(n > 0 ? n : 0));
  }
#endif

  template <class M>
  static inline unsigned bits(M mask) {
#if PUFFIN_TARGETS > 1 && PUFFIN_WIDTH == 32
    if constexpr (sizeof(T) == 4)
      return unsigned(_mm256_movemask_ps((__m256)mask));
    else
      return unsigned(_mm256_movemask_pd((__m256d)mask));
#elif PUFFIN_TARGETS > 1 && PUFFIN_WIDTH == 16
    if constexpr (sizeof(T) == 4)
      return unsigned(_mm_movemask_ps((__m128)mask));
    else
      return unsigned(_mm_movemask_pd((__m128d)mask));
#else
    unsigned result = 0;
    for (int i = 0; i < lanes; ++i) result |= unsigned(mask[i] & 1) << i;
    return result;
#endif
  }
};

template <class T>
static inline T larger(T a, T b) {
  return a > b ? a : b;
}

// Lower bound of the squared distance between a point of box a and a point of box b.
template <class T>
static inline T box_gap(const T* alo, const T* ahi, const T* blo, const T* bhi) {
  T d[3];
  for (int c = 0; c < 3; ++c) d[c] = larger(larger(alo[c] - bhi[c], blo[c] - ahi[c]), T(0));
  return squared_distance(d[0], d[1], d[2]);
}

// Upper bound of the squared distance between a point of box a and a point of box b.
template <class T>
static inline T box_span(const T* alo, const T* ahi, const T* blo, const T* bhi) {
  T d[3];
  for (int c = 0; c < 3; ++c) d[c] = larger(ahi[c] - blo[c], bhi[c] - alo[c]);
  return squared_distance(d[0], d[1], d[2]);
}
