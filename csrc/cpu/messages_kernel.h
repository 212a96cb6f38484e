// A linear layer, a leaky ReLU and the statistics of the result, tile by tile; see src/puffin/ops/messages.py. Rows of
// `out` numbers are processed as whole vectors; the lanes beyond `out` hold 0 or are not used.
#include "gemm_tile.h"

constexpr int64_t message_tile = 48;  // rows at a time: a multiple of every micro-kernel's rows

// Adds the deviations of a vector from `origin`, and their squares.
template <class T>
static inline void add_moments(typename Simd<T>::V y, typename Simd<T>::V origin, typename Simd<T>::V& sum,
                               typename Simd<T>::V& squares) {
  const typename Simd<T>::V d = y - origin;
  sum += d;
  squares = multiply_add<T>(d, d, squares);
}

// Adds the sums of a tile to those of all rows, in double, and clears them.
template <class T>
static inline void collect(T* sums, int64_t columns, double* total) {
  for (int64_t s = 0; s < columns; ++s) {
    total[s] += double(sums[s]);
    sums[s] = T(0);
  }
}

// What happens with the products of a tile: y (rows, out) = leaky(product + bias), and sums of its moments. Bias,
// origin, sums and squares have padded columns.
template <class T>
struct Activate {
  const T *bias, *origin;
  T slope;
  int64_t out;
  T *y, *sums, *squares;
  bool count;  // whether to add the moments

  template <int ROWS, int VECTORS>
  inline void operator()(int64_t row, int64_t column, const typename Simd<T>::V (&product)[ROWS][VECTORS]) const {
    using S = Simd<T>;
    const typename S::V slopes = S::splat(slope);
#pragma GCC unroll 12
    for (int v = 0; v < VECTORS; ++v) {
      const int64_t s = column + v * S::lanes;
      const typename S::V add = S::load(bias + s), from = S::load(origin + s);
      typename S::V sum = S::load(sums + s), square = S::load(squares + s);
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; ++r) {
        const typename S::V value = product[r][v] + add, active = S::max(value, value * slopes);  // slope <= 1
        S::store_first(y + (row + r) * out + s, active, out - s);
        add_moments<T>(active, from, sum, square);
      }
      if (!count) continue;
      S::store(sums + s, sum);
      S::store(squares + s, square);
    }
  }
};

// Merges the means and sums of squared deviations of `before` rows with those of `rows` further rows (Chan's formula).
static inline void merge_moments(double* mean, double* deviations, double before, const double* more_mean,
                                 const double* more_deviations, double rows, int64_t columns) {
  const double share = rows / (before + rows);
  for (int64_t s = 0; s < columns; ++s) {
    const double delta = more_mean[s] - mean[s];
    mean[s] += delta * share;
    deviations[s] += more_deviations[s] + delta * delta * before * share;
  }
}

// Moments of a tile that is stored already, from the mean of its rows, which becomes the origin.
template <class T>
static inline void first_moments(const T* y, int64_t rows, int64_t out, T* origin, T* sums, T* squares) {
  for (int64_t s = 0; s < out; ++s) {
    T sum = T(0);
    for (int64_t r = 0; r < rows; ++r) sum += y[r * out + s] / T(rows);
    origin[s] = sum;
  }
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t s = 0; s < out; ++s) {
      const T d = y[r * out + s] - origin[s];
      sums[s] += d;
      squares[s] += d * d;
    }
}

// y = leaky(x weight + bias) for `rows` rows, and the mean and squared deviations of each column.
// weight (in, padded out). Deviations are measured from the mean of the first tile, which avoids cancellation.
template <class T>
void message_rows(const T* x, const T* weight, const T* bias, T slope, int64_t rows, int64_t in, int64_t out, T* y,
                  double* mean, double* deviations) {
  const int64_t ld = padded<T>(out);
  std::vector<T> buffer(4 * ld, T(0));
  T *padded_bias = buffer.data(), *origin = padded_bias + ld, *sums = origin + ld, *squares = sums + ld;
  std::copy(bias, bias + out, padded_bias);
  std::fill(mean, mean + out, 0.0);
  std::fill(deviations, deviations + out, 0.0);
  for (int64_t first = 0; first < rows; first += message_tile) {
    const int64_t n = std::min(message_tile, rows - first);
    T* to = y + first * out;
    const Activate<T> activate{padded_bias, origin, slope, out, to, sums, squares, first > 0};
    tile_product<T>(x + first * in, in, 1, n, in, weight, ld, ld, activate);
    if (first == 0) first_moments(to, n, out, origin, sums, squares);
    collect(sums, out, mean);
    collect(squares, out, deviations);
  }
  for (int64_t s = 0; s < out; ++s) {
    const double shift = mean[s] / double(rows);
    deviations[s] -= shift * mean[s];
    mean[s] = double(origin[s]) + shift;
  }
}

// Gradient before the activation, (g + offset + (y - mean) factor) leaky'(y), and its sums; moments: mean, offset and
// factor. before, sums and the three moments have padded columns.
template <class T>
static inline void differentiate(const T* g, const T* y, const T* moments, T slope, int64_t rows, int64_t out,
                                 int64_t ld, T* before, T* sums) {
  using S = Simd<T>;
  using V = typename S::V;
  const V slopes = S::splat(slope);
  for (int64_t s = 0; s < ld; s += S::lanes) {
    const V mean = S::load(moments + s), offset = S::load(moments + ld + s), factor = S::load(moments + 2 * ld + s);
    V sum = S::load(sums + s);
    for (int64_t r = 0; r < rows; ++r) {
      const V result = S::load_first(y + r * out + s, out - s), from = S::load_first(g + r * out + s, out - s);
      const V value = from + (offset + (result - mean) * factor), scaled = value * slopes;
      const V gradient = result > V{} ? value : scaled;
      S::store(before + r * ld + s, gradient);
      sum += gradient;
    }
    S::store(sums + s, sum);
  }
}

// grad_x (rows, in); grad_weight (in, padded out), whose padding holds no result; grad_bias (out).
// weight_t (out, padded in). moments: mean, offset and factor of `differentiate`, padded out values each.
template <class T>
void message_rows_backward(const T* g, const T* y, const T* x, const T* weight_t, const T* moments, T slope,
                           int64_t rows, int64_t in, int64_t out, T* grad_x, T* grad_weight, double* grad_bias) {
  const int64_t ldo = padded<T>(out), ldi = padded<T>(in);
  std::vector<T> buffer((message_tile + 1) * ldo, T(0));
  T *before = buffer.data(), *sums = before + message_tile * ldo;
  std::fill(grad_bias, grad_bias + out, 0.0);
  for (int64_t first = 0; first < rows; first += message_tile) {
    const int64_t n = std::min(message_tile, rows - first);
    const int64_t next = std::min(message_tile, rows - first - n), after = first + n;
    Ahead ahead;
    ahead.add(g + after * out, next * out);
    ahead.add(y + after * out, next * out);
    ahead.add(x + after * in, next * in);
    differentiate(g + first * out, y + first * out, moments, slope, n, out, ldo, before, sums);
    collect(sums, out, grad_bias);
    tile_product<T>(x + first * in, 1, in, in, n, before, ldo, ldo, add_to(grad_weight, ldo), ahead);
    T* to = grad_x + first * in;
    tile_product<T>(
        before, ldo, 1, n, out, weight_t, ldi, ldi,
        for_each_vector<T>([=](int64_t r, int64_t c, auto sum) { Simd<T>::store_first(to + r * in + c, sum, in - c); }),
        ahead);
  }
}
