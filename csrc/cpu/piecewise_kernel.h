// Sums of piecewise linear functions on n points: each point reads two neighbouring knots of each of its features.
#include "gemm_tile.h"

// Where a number lies between knots 0..last, in steps: the knot to its left, the fraction of the step beyond it, and
// whether the function has a slope there.
template <class T>
struct Place {
  int64_t knot;
  T fraction;
  bool sloped;

  Place(T t, int64_t last) {
    sloped = t >= T(0) && t < T(last);
    knot = sloped ? int64_t(t) : t >= T(last) ? last - 1 : 0;
    fraction = t < T(0) ? T(0) : t >= T(last) ? T(1) : t - T(knot);  // NaN stays
  }
};

// y[c] = sum over features of the values between the two knots; `values` (features, knots, ld), channels of y in ld
template <class T>
void interpolate(const T* x, const T* values, int64_t n, int64_t features, int64_t last, int64_t channels, T low,
                 T steps, T* __restrict y) {
  using S = Simd<T>;
  const int64_t ld = padded<T>(channels), lanes = S::lanes;
  constexpr int64_t tile = 4;  // vectors that stay in registers
  for (int64_t p = 0; p < n; ++p, x += features, y += channels)
    for (int64_t c = 0; c < ld; c += tile * lanes) {
      const int64_t vectors = std::min(tile, (ld - c) / lanes);
      typename S::V sums[tile]{};
      for (int64_t j = 0; j < features; ++j) {
        const Place<T> at((x[j] - low) * steps, last);
        const T* left = values + (j * (last + 1) + at.knot) * ld + c;
        const typename S::V b = S::splat(at.fraction), a = S::splat(T(1) - at.fraction);
        if (vectors == tile)
          for (int64_t v = 0; v < tile; ++v)
            sums[v] += a * S::load(left + v * lanes) + b * S::load(left + ld + v * lanes);
        else
          for (int64_t v = 0; v < vectors; ++v)
            sums[v] += a * S::load(left + v * lanes) + b * S::load(left + ld + v * lanes);
      }
      for (int64_t v = 0; v < vectors; ++v) S::store_first(y + c + v * lanes, sums[v], channels - c - v * lanes);
    }
}

// The gradient of x, and of the values, to which it is added. grad (n, ld). The features are the outer loop, so that
// the knots of one feature stay in the cache.
template <class T>
void interpolate_backward(const T* grad, const T* x, const T* values, int64_t n, int64_t features, int64_t last,
                          int64_t ld, T low, T steps, T* __restrict grad_x, T* __restrict grad_values) {
  using S = Simd<T>;
  constexpr int64_t lanes = S::lanes;
  for (int64_t j = 0; j < features; ++j)
    for (int64_t p = 0; p < n; ++p) {
      const Place<T> at((x[p * features + j] - low) * steps, last);
      const int64_t left = (j * (last + 1) + at.knot) * ld;
      const typename S::V b = S::splat(at.fraction), a = S::splat(T(1) - at.fraction);
      typename S::V slope{};
      for (int64_t c = 0; c < ld; c += lanes) {
        const typename S::V g = S::load(grad + p * ld + c);
        T *to_left = grad_values + left + c, *to_right = to_left + ld;
        S::store(to_left, S::load(to_left) + a * g);
        S::store(to_right, S::load(to_right) + b * g);
        slope += g * (S::load(values + left + ld + c) - S::load(values + left + c));
      }
      T sum(0);
      for (int64_t i = 0; i < lanes; ++i) sum += slope[i];
      grad_x[p * features + j] = at.sloped ? sum * steps : T(0);
    }
}
