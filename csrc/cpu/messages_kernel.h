// A linear layer, a leaky ReLU and the statistics of the result, tile by tile; see src/puffin/ops/messages.py.
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

// Copies one row to every row of a tile, so that one long loop processes a tile of any width.
template <class T>
static inline void repeat_rows(const T* row, int64_t columns, T* out) {
  for (int64_t r = 0; r < message_tile; ++r) std::copy(row, row + columns, out + r * columns);
}

// Sums over the rows of a tile: (message_tile, columns) -> columns
template <class T>
static inline void fold_rows(const T* tile, int64_t columns, double* sums) {
  std::fill(sums, sums + columns, 0.0);
  for (int64_t r = 0; r < message_tile; ++r)
    for (int64_t s = 0; s < columns; ++s) sums[s] += double(tile[r * columns + s]);
}

template <class T>
static inline void add_moments(const T* __restrict y, const T* __restrict origin, int64_t count, T* __restrict sums,
                               T* __restrict squares) {
  for (int64_t s = 0; s < count; ++s) {
    const T d = y[s] - origin[s];
    sums[s] += d;
    squares[s] += d * d;
  }
}

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

// y = leaky(x weight + bias) for `rows` rows, and the mean and squared deviations of each column.
// weight (in, padded out). Deviations are measured from the mean of the first tile, which avoids cancellation.
template <class T>
void message_rows(const T* x, const T* weight, const T* bias, T slope, int64_t rows, int64_t in, int64_t out, T* y,
                  double* mean, double* deviations) {
  const int64_t ld = padded<T>(out);
  std::vector<T> buffer(message_tile * (ld + 3 * out) + out, T(0));
  T *product = buffer.data(), *origin = product + message_tile * ld, *sums = origin + message_tile * out;
  T *squares = sums + message_tile * out, *first_mean = squares + message_tile * out;
  for (int64_t first = 0; first < rows; first += message_tile) {
    const int64_t n = std::min(message_tile, rows - first);
    tile_product<T>(x + first * in, in, 1, n, in, weight, ld, ld, product, ld, false);
    T* to = y + first * out;
    for (int64_t r = 0; r < n; ++r) activate_row(product + r * ld, bias, slope, out, to + r * out);
    if (first == 0) {
      for (int64_t r = 0; r < n; ++r)
        for (int64_t s = 0; s < out; ++s) first_mean[s] += to[r * out + s] / T(n);
      repeat_rows(first_mean, out, origin);
    }
    add_moments(to, origin, n * out, sums, squares);
  }
  fold_rows(sums, out, mean);
  fold_rows(squares, out, deviations);
  for (int64_t s = 0; s < out; ++s) {
    const double shift = mean[s] / double(rows);
    deviations[s] -= shift * mean[s];
    mean[s] = double(first_mean[s]) + shift;
  }
}

// Gradient before the activation: (g + offset + (y - mean) factor) leaky'(y).
template <class T>
static inline void differentiate(const T* __restrict g, const T* __restrict y, const T* __restrict mean,
                                 const T* __restrict offset, const T* __restrict factor, T slope, int64_t count,
                                 T* __restrict out, T* __restrict sums) {
  for (int64_t s = 0; s < count; ++s) {
    const T value = g[s] + (offset[s] + (y[s] - mean[s]) * factor[s]), scaled = value * slope;
    const T before = y[s] > T(0) ? value : scaled;
    out[s] = before;
    sums[s] += before;
  }
}

// grad_x (rows, in); grad_weight (in, padded out), whose padding holds no result; grad_bias (out).
// weight_t (out, padded in). moments: mean, offset and factor of `differentiate`, `out` values each.
template <class T>
void message_rows_backward(const T* g, const T* y, const T* x, const T* weight_t, const T* moments, T slope,
                           int64_t rows, int64_t in, int64_t out, T* grad_x, T* grad_weight, double* grad_bias) {
  const int64_t ldo = padded<T>(out), ldi = padded<T>(in), tile = message_tile * out;
  std::vector<T> buffer(5 * tile + ldo + message_tile * ldi, T(0));
  T *repeated = buffer.data(), *sums = repeated + 3 * tile;
  T* before = sums + tile;  // reading whole vectors goes beyond the last row, so ldo zeros follow
  T* product = before + tile + ldo;
  for (int64_t k = 0; k < 3; ++k) repeat_rows(moments + k * out, out, repeated + k * tile);
  for (int64_t first = 0; first < rows; first += message_tile) {
    const int64_t n = std::min(message_tile, rows - first);
    differentiate(
        g + first * out, y + first * out, repeated, repeated + tile, repeated + 2 * tile, slope, n * out, before, sums);
    tile_product<T>(x + first * in, 1, in, in, n, before, out, ldo, grad_weight, ldo, true);
    tile_product<T>(before, out, 1, n, out, weight_t, ldi, ldi, product, ldi, false);
    for (int64_t r = 0; r < n; ++r) std::copy(product + r * ldi, product + r * ldi + in, grad_x + (first + r) * in);
  }
  fold_rows(sums, out, grad_bias);
}
