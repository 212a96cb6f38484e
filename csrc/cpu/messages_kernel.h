// A linear layer, a leaky ReLU and the statistics of its result, tile by tile; see src/ops/messages.py.
#include "gemm_tile.h"

constexpr int64_t message_tile = 48;  // rows at a time: a multiple of every micro-kernel's rows

template <class T>
static inline void activate_row(const T* __restrict product, const T* __restrict bias, T slope, int64_t columns,
                                T* __restrict y) {
  for (int64_t s = 0; s < columns; ++s) {
    const T value = product[s] + bias[s];
    y[s] = larger(value, value * slope);  // slope <= 1
  }
}

template <class T>
static inline void add_values(const T* __restrict x, int64_t count, T* __restrict sum) {
  for (int64_t s = 0; s < count; ++s) sum[s] += x[s];
}

template <class T>
static inline void add_deviations(const T* __restrict x, const T* __restrict mean, int64_t count, T* __restrict sum) {
  for (int64_t s = 0; s < count; ++s) {
    const T d = x[s] - mean[s];
    sum[s] += d * d;
  }
}

// Means and sums of squared deviations of `before` rows, joined by those of `rows` more (Chan's formula).
template <class T>
static inline void merge_moments(double* mean, double* deviations, double before, const T* more_mean,
                                 const T* more_deviations, double rows, int64_t columns) {
  const double share = rows / (before + rows);
  for (int64_t s = 0; s < columns; ++s) {
    const double delta = double(more_mean[s]) - mean[s];
    mean[s] += delta * share;
    deviations[s] += double(more_deviations[s]) + delta * delta * before * share;
  }
}

// y = leaky(x weight + bias) for `rows` rows, and the mean and squared deviations of each column, which start at zero.
// weight (in, padded out)
template <class T>
void message_rows(const T* x, const T* weight, const T* bias, T slope, int64_t rows, int64_t in, int64_t out, T* y,
                  double* mean_of_rows, double* deviations, T* scratch) {
  const int64_t ld = padded<T>(out);
  T *product = scratch, *mean = product + message_tile * ld, *squares = mean + ld;
  for (int64_t first = 0; first < rows; first += message_tile) {
    const int64_t n = std::min(message_tile, rows - first);
    tile_product<T>(x + first * in, in, 1, n, in, weight, ld, ld, product, ld, false);
    T* to = y + first * out;
    for (int64_t r = 0; r < n; ++r) activate_row(product + r * ld, bias, slope, out, to + r * out);
    std::fill(mean, mean + 2 * ld, T(0));
    for (int64_t r = 0; r < n; ++r) add_values(to + r * out, out, mean);
    for (int64_t s = 0; s < out; ++s) mean[s] /= T(n);
    for (int64_t r = 0; r < n; ++r) add_deviations(to + r * out, mean, out, squares);
    merge_moments(mean_of_rows, deviations, double(first), mean, squares, double(n), out);
  }
}

// Sums over rows of the gradient of the normalised values, and of its product with them: sums, products (out).
template <class T>
static inline void add_normalised(const T* __restrict g, const T* __restrict y, const T* __restrict mean,
                                  const T* __restrict inverse, int64_t columns, T* __restrict sums,
                                  T* __restrict products) {
  for (int64_t s = 0; s < columns; ++s) {
    sums[s] += g[s];
    products[s] += g[s] * ((y[s] - mean[s]) * inverse[s]);
  }
}

template <class T>
void normalised_sums(const T* g, const T* y, const T* mean, const T* inverse, int64_t rows, int64_t columns,
                     double* sums, double* products, T* scratch) {
  for (int64_t first = 0; first < rows; first += message_tile) {
    std::fill(scratch, scratch + 2 * columns, T(0));
    for (int64_t r = first; r < std::min(rows, first + message_tile); ++r)
      add_normalised(g + r * columns, y + r * columns, mean, inverse, columns, scratch, scratch + columns);
    for (int64_t s = 0; s < columns; ++s) {
      sums[s] += scratch[s];
      products[s] += scratch[columns + s];
    }
  }
}

// Gradient before the activation, from that of the normalised values: gain (g - a - normalised b) leaky'(y).
template <class T>
static inline void differentiate_row(const T* __restrict g, const T* __restrict y, const T* __restrict mean,
                                     const T* __restrict inverse, const T* __restrict gain, const T* __restrict a,
                                     const T* __restrict b, T slope, int64_t columns, T* __restrict out) {
  for (int64_t s = 0; s < columns; ++s) {
    const T value = gain[s] * (g[s] - a[s] - (y[s] - mean[s]) * inverse[s] * b[s]), scaled = value * slope;
    out[s] = y[s] > T(0) ? value : scaled;
  }
}

// grad_x (rows, in); grad_weight (in, padded out) and grad_bias (padded out) are added to. weight_t (out, padded in).
// normal: mean, inverse deviation, gain, a, b of differentiate_row, each `out` long.
template <class T>
void message_rows_backward(const T* g, const T* y, const T* x, const T* weight_t, const T* normal, T slope,
                           int64_t rows, int64_t in, int64_t out, T* grad_x, T* grad_weight, T* grad_bias, T* scratch) {
  const int64_t ldo = padded<T>(out), ldi = padded<T>(in);
  T *before = scratch, *product = before + message_tile * ldo;
  std::fill(before, before + message_tile * ldo, T(0));  // the padding of a row stays zero
  for (int64_t first = 0; first < rows; first += message_tile) {
    const int64_t n = std::min(message_tile, rows - first);
    for (int64_t r = 0; r < n; ++r) {
      const int64_t at = (first + r) * out;
      differentiate_row(g + at, y + at, normal, normal + out, normal + 2 * out, normal + 3 * out, normal + 4 * out,
                        slope, out, before + r * ldo);
      add_values(before + r * ldo, out, grad_bias);
    }
    tile_product<T>(x + first * in, 1, in, in, n, before, ldo, ldo, grad_weight, ldo, true);
    tile_product<T>(before, ldo, 1, n, out, weight_t, ldi, ldi, product, ldi, false);
    for (int64_t r = 0; r < n; ++r) std::copy(product + r * ldi, product + r * ldi + in, grad_x + (first + r) * in);
  }
}
