// Exponential and logarithm of vectors, in the namespace of the instruction set that includes this file (after
// gemm_tile.h). Both are within 1.1 units in the last place, with and without fused multiply-add.

// Constants of a type of numbers.
template <class T>
struct Format;
template <>
struct Format<float> {
  using Int = int32_t;
  typedef Int Vector __attribute__((vector_size(PUFFIN_WIDTH)));
  static constexpr int mantissa = 23;
  static constexpr Int bias = 127;
  static constexpr float ln2 = 0x1.62e4p-1f, rest_of_ln2 = 0x1.7f7d1cp-20f;  // few bits, so that n ln2 is exact
  static constexpr Int root_of_half = 0x3f3504f3;                            // the bits of 1 / sqrt(2)
  static constexpr float lowest = -87.2f, highest = 89.0f;                   // exp is 0 below, and infinity above
  static constexpr int exp_terms = 7, log_terms = 4;
};
template <>
struct Format<double> {
  using Int = int64_t;
  typedef Int Vector __attribute__((vector_size(PUFFIN_WIDTH)));
  static constexpr int mantissa = 52;
  static constexpr Int bias = 1023;
  static constexpr double ln2 = 0x1.62e42fefa38p-1, rest_of_ln2 = 0x1.ef35793c7673p-45;
  static constexpr Int root_of_half = 0x3fe6a09e667f3bcd;
  static constexpr double lowest = -708.3, highest = 710.0;
  static constexpr int exp_terms = 13, log_terms = 10;
};

// 1 / k! for k = 0, 1, ...
template <class T>
struct InverseFactorials {
  T value[Format<T>::exp_terms + 1];
  constexpr InverseFactorials() : value() {
    double factorial = 1.0;
    for (int k = 0; k <= Format<T>::exp_terms; ++k) {
      value[k] = T(1.0 / factorial);
      factorial *= k + 1;
    }
  }
};

// A small integer n is the last bits of the number `whole` + n.
template <class T>
constexpr T whole = T(1.5) * T(typename Format<T>::Int(1) << Format<T>::mantissa);

// exp(x), but 0 instead of results below 2^-125 (float64: 2^-1021).
template <class T>
static inline typename Simd<T>::V exponential(typename Simd<T>::V x) {
  using F = Format<T>;
  using S = Simd<T>;
  using V = typename S::V;
  constexpr InverseFactorials<T> coefficients;
  x = S::max(S::splat(F::lowest), S::min(S::splat(F::highest), x));  // NaN stays NaN
  // x = n ln 2 + r, and exp(r) = 1 + r + r^2 / 2! + r^3 / 3! + ...
  const V shifted = multiply_add<T>(x, S::splat(T(1.4426950408889634)), S::splat(whole<T>));
  const V n = shifted - S::splat(whole<T>);
  const V r = multiply_add<T>(n, S::splat(-F::rest_of_ln2), multiply_add<T>(n, S::splat(-F::ln2), x));
  V sum = S::splat(coefficients.value[F::exp_terms]);
#pragma GCC unroll 16
  for (int k = F::exp_terms - 1; k >= 2; --k) sum = multiply_add<T>(sum, r, S::splat(coefficients.value[k]));
  sum = S::splat(1) + multiply_add<T>(r * r, sum, r);
  // 2^(n - 1) is a number of the format for every n; it is 0 for the lowest
  return (sum + sum) * (V)(((typename F::Vector)shifted + (F::bias - 1)) << F::mantissa);
}

// log(x) for normal numbers > 0, infinity and NaN.
template <class T>
static inline typename Simd<T>::V logarithm(typename Simd<T>::V x) {
  using F = Format<T>;
  using S = Simd<T>;
  using V = typename S::V;
  using I = typename F::Vector;
  // x = 2^n (1 + f) with 1 + f between 1 / sqrt(2) and sqrt(2)
  const I bits = (I)x - F::root_of_half;
  const V f = (V)((bits & ((typename F::Int(1) << F::mantissa) - 1)) + F::root_of_half) - S::splat(1);
  const V n = (V)((bits >> F::mantissa) + (I)S::splat(whole<T>)) - S::splat(whole<T>);
  // log(1 + f) = 2 artanh(s) = 2 (s + s^3 / 3 + s^5 / 5 + ...) with s = f / (2 + f), and 2 s = f - s f
  const V s = f / (f + S::splat(2)), square = s * s;
  V sum = S::splat(T(2.0 / (2 * F::log_terms + 1)));
#pragma GCC unroll 16
  for (int k = F::log_terms - 1; k >= 1; --k) sum = multiply_add<T>(sum, square, S::splat(T(2.0 / (2 * k + 1))));
  const V small = n * S::splat(F::rest_of_ln2) - s * (f - square * sum);
  const V result = multiply_add<T>(n, S::splat(F::ln2), f + small);
  return x < S::splat(std::numeric_limits<T>::infinity()) ? result : x;
}
