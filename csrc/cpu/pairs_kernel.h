// Packed pairs of one event, or of a group of events: diagonal rows first, then the pairs i < j row by row, then the
// same pairs transposed; see src/puffin/ops/pairs.py.
#include "gemm_tile.h"

template <class T>
static inline void add_row(T* __restrict sum, const T* __restrict x, T factor, int64_t channels) {
  for (int64_t c = 0; c < channels; ++c) sum[c] += factor * x[c];
}

// Diagonal, row sums and column sums (n, C) of one event; weights (n) or null.
template <class T>
void reduce_event(const T* diagonal, const T* upper, const T* lower, const T* weights, int64_t n, int64_t channels,
                  T* out_diagonal, T* rows, T* columns) {
  for (int64_t i = 0; i < n; ++i) {
    const T own = weights ? weights[i] : T(1);
    for (int64_t c = 0; c < channels; ++c) {
      const T value = diagonal[i * channels + c];
      out_diagonal[i * channels + c] = value;
      rows[i * channels + c] = columns[i * channels + c] = own * value;
    }
  }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = i + 1; j < n; ++j, upper += channels, lower += channels) {
      const T wi = weights ? weights[i] : T(1), wj = weights ? weights[j] : T(1);
      add_row(rows + i * channels, upper, wj, channels);
      add_row(columns + j * channels, upper, wi, channels);
      add_row(rows + j * channels, lower, wi, channels);
      add_row(columns + i * channels, lower, wj, channels);
    }
}

// base_ij + u_i w_j + v_j w_i + delta_ij d_i for one event; d (n, C), the weights w (n) and base may be null.
template <class T>
void expand_event(const T* u, const T* v, const T* d, const T* weights, int64_t n, int64_t channels,
                  const T* base_diagonal, const T* base_upper, const T* base_lower, T* diagonal, T* upper, T* lower) {
  const auto combine = [channels](T* __restrict out, const T* base, const T* a, T wa, const T* b, T wb) {
    if (base)
      for (int64_t c = 0; c < channels; ++c) out[c] = base[c] + a[c] * wa + b[c] * wb;
    else
      for (int64_t c = 0; c < channels; ++c) out[c] = a[c] * wa + b[c] * wb;
  };
  const int64_t step = base_upper ? channels : 0;
  for (int64_t i = 0; i < n; ++i) {
    const T wi = weights ? weights[i] : T(1);
    const T *ui = u + i * channels, *vi = v + i * channels;
    combine(diagonal + i * channels, base_diagonal ? base_diagonal + i * channels : nullptr, ui, wi, vi, wi);
    if (d) add_row(diagonal + i * channels, d + i * channels, T(1), channels);
    for (int64_t j = i + 1; j < n; ++j, upper += channels, lower += channels, base_upper += step, base_lower += step) {
      const T wj = weights ? weights[j] : T(1);
      combine(upper, base_upper, ui, wj, v + j * channels, wi);
      combine(lower, base_lower, u + j * channels, wi, vi, wj);
    }
  }
}

constexpr int64_t mix_tile = 24;  // pairs at a time: a multiple of every micro-kernel's rows

// Sums and differences of pairs and their transposes.
template <class T>
static inline void split_even_odd(const T* __restrict a, const T* __restrict b, int64_t count, T* __restrict even,
                                  T* __restrict odd) {
  for (int64_t c = 0; c < count; ++c) {
    even[c] = a[c] + b[c];
    odd[c] = a[c] - b[c];
  }
}

// x or slope x, depending on the sign of y; the product is always computed, so that the loop has no branch
template <class T>
static inline T leaky(T x, T y, T slope) {
  const T scaled = x * slope;
  return y > T(0) ? x : scaled;
}

// Result for the pairs (i, j) and (j, i): sum and difference of the even and the odd product, plus the vectors of the
// two nodes.
template <class T>
static inline void combine_pair(const T* __restrict even, const T* __restrict odd, const T* __restrict ui,
                                const T* __restrict vi, const T* __restrict uj, const T* __restrict vj, T slope,
                                int64_t count, T* __restrict up, T* __restrict lo) {
  for (int64_t s = 0; s < count; ++s) {
    const T a = even[s] + odd[s] + (ui[s] + vj[s]), b = even[s] - odd[s] + (uj[s] + vi[s]);
    up[s] = larger(a, a * slope);  // leaky ReLU, since slope <= 1
    lo[s] = larger(b, b * slope);
  }
}

// The backward pass of the same: computes the gradients of the two products from those of both pairs, and adds them to
// the row and column sums.
template <class T>
static inline void split_pair(const T* __restrict gu, const T* __restrict gl, const T* __restrict yu,
                              const T* __restrict yl, T slope, int64_t count, T* __restrict even, T* __restrict odd,
                              T* __restrict row_i, T* __restrict column_i, T* __restrict row_j,
                              T* __restrict column_j) {
  for (int64_t s = 0; s < count; ++s) {
    const T a = leaky(gu[s], yu[s], slope), b = leaky(gl[s], yl[s], slope);
    even[s] = a + b;
    odd[s] = a - b;
    row_i[s] += a;
    column_j[s] += a;
    row_j[s] += b;
    column_i[s] += b;
  }
}

// (x_ij + x_ji) E + (x_ij - x_ji) O + u_i + v_j + delta_ij d_i for one event, then a leaky ReLU (slope 1: none).
// weight_even, weight_odd (in, padded out)
template <class T>
void mix_event(int64_t in, int64_t out, const T* weight_even, const T* weight_odd, T slope, int64_t n,
               const T* diagonal, const T* upper, const T* lower, const T* u, const T* v, const T* d, T* out_diagonal,
               T* out_upper, T* out_lower, T* scratch) {
  const int64_t ld = padded<T>(out);
  T *even = scratch, *odd = even + mix_tile * in, *sum = odd + mix_tile * in, *difference = sum + mix_tile * ld;
  for (int64_t first = 0; first < n; first += mix_tile) {
    const int64_t rows = std::min(mix_tile, n - first);
    for (int64_t c = 0; c < rows * in; ++c) even[c] = 2 * diagonal[first * in + c];
    tile_product<T>(even, in, 1, rows, in, weight_even, ld, ld, sum, ld, false);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = (first + r) * out;
      for (int64_t s = 0; s < out; ++s) {
        const T value = sum[r * ld + s] + u[at + s] + v[at + s] + (d ? d[at + s] : T(0));
        out_diagonal[at + s] = larger(value, value * slope);
      }
    }
  }
  int64_t i = 0, j = 1;
  for (int64_t first = 0, count = n * (n - 1) / 2; first < count; first += mix_tile) {
    const int64_t rows = std::min(mix_tile, count - first);
    split_even_odd(upper + first * in, lower + first * in, rows * in, even, odd);
    tile_product<T>(even, in, 1, rows, in, weight_even, ld, ld, sum, ld, false);
    tile_product<T>(odd, in, 1, rows, in, weight_odd, ld, ld, difference, ld, false);
    for (int64_t r = 0; r < rows; ++r) {
      combine_pair(sum + r * ld, difference + r * ld, u + i * out, v + i * out, u + j * out, v + j * out, slope, out,
                   out_upper + (first + r) * out, out_lower + (first + r) * out);
      if (++j == n) j = ++i + 1;
    }
  }
}

// Gradients of mix_event. y: its result, which the activation needs; even_t, odd_t (out, padded in): transposed
// weights; the gradients of the weights are added to grad_even and grad_odd (in, padded out).
template <class T>
void mix_event_backward(int64_t in, int64_t out, const T* even_t, const T* odd_t, T slope, int64_t n,
                        const T* g_diagonal, const T* g_upper, const T* g_lower, const T* y_diagonal, const T* y_upper,
                        const T* y_lower, const T* diagonal, const T* upper, const T* lower, T* x_diagonal, T* x_upper,
                        T* x_lower, T* rows_sum, T* columns_sum, T* diagonal_sum, T* grad_even, T* grad_odd,
                        T* scratch) {
  const int64_t ldo = padded<T>(out), ldi = padded<T>(in);
  T *even = scratch, *odd = even + mix_tile * in;
  T *ge = odd + mix_tile * in, *go = ge + mix_tile * ldo, *p = go + mix_tile * ldo, *q = p + mix_tile * ldi;
  std::fill(ge, ge + 2 * mix_tile * ldo, T(0));  // the padding of a row stays zero
  for (int64_t first = 0; first < n; first += mix_tile) {
    const int64_t rows = std::min(mix_tile, n - first);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t s = 0; s < out; ++s) {
        const int64_t at = (first + r) * out + s;
        const T g = leaky(g_diagonal[at], y_diagonal[at], slope);
        ge[r * ldo + s] = rows_sum[at] = columns_sum[at] = diagonal_sum[at] = g;
      }
    for (int64_t c = 0; c < rows * in; ++c) even[c] = 2 * diagonal[first * in + c];
    tile_product<T>(ge, ldo, 1, rows, out, even_t, ldi, ldi, p, ldi, false);
    tile_product<T>(even, 1, in, in, rows, ge, ldo, ldo, grad_even, ldo, true);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < in; ++c) x_diagonal[(first + r) * in + c] = 2 * p[r * ldi + c];
  }
  int64_t i = 0, j = 1;
  for (int64_t first = 0, count = n * (n - 1) / 2; first < count; first += mix_tile) {
    const int64_t rows = std::min(mix_tile, count - first);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = (first + r) * out;
      split_pair(g_upper + at, g_lower + at, y_upper + at, y_lower + at, slope, out, ge + r * ldo, go + r * ldo,
                 rows_sum + i * out, columns_sum + i * out, rows_sum + j * out, columns_sum + j * out);
      if (++j == n) j = ++i + 1;
    }
    split_even_odd(upper + first * in, lower + first * in, rows * in, even, odd);
    tile_product<T>(even, 1, in, in, rows, ge, ldo, ldo, grad_even, ldo, true);
    tile_product<T>(odd, 1, in, in, rows, go, ldo, ldo, grad_odd, ldo, true);
    tile_product<T>(ge, ldo, 1, rows, out, even_t, ldi, ldi, p, ldi, false);
    tile_product<T>(go, ldo, 1, rows, out, odd_t, ldi, ldi, q, ldi, false);
    for (int64_t r = 0; r < rows; ++r)
      split_even_odd(p + r * ldi, q + r * ldi, in, x_upper + (first + r) * in, x_lower + (first + r) * in);
  }
}
