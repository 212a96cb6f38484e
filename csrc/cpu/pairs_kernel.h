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

// The two nodes of each pair i < j of a tile.
struct Ends {
  int64_t i[mix_tile], j[mix_tile];
};

// Fills in the ends of the next pairs of an event with n nodes, from pair (i, j), which becomes the first after them.
static inline void next_ends(Ends& ends, int64_t rows, int64_t n, int64_t& i, int64_t& j) {
  for (int64_t r = 0; r < rows; ++r) {
    ends.i[r] = i;
    ends.j[r] = j;
    if (++j == n) j = ++i + 1;
  }
}

// (x_ij + x_ji) E + (x_ij - x_ji) O + u_i + v_j + delta_ij d_i for one event, then a leaky ReLU (slope 1: none).
// weight_even, weight_odd (in, padded out)
template <class T>
void mix_event(int64_t in, int64_t out, const T* weight_even, const T* weight_odd, T slope, int64_t n,
               const T* diagonal, const T* upper, const T* lower, const T* u, const T* v, const T* d, T* out_diagonal,
               T* out_upper, T* out_lower, T* scratch) {
  using S = Simd<T>;
  const int64_t ld = padded<T>(out);
  const typename S::V slopes = S::splat(slope);
  T *even = scratch, *odd = even + mix_tile * in, *sum = odd + mix_tile * in, *difference = sum + mix_tile * ld;
  const auto write = [=](T* to, int64_t s, typename S::V value) {
    S::store_first(to + s, S::max(value, value * slopes), out - s);  // leaky ReLU, since slope <= 1
  };
  for (int64_t first = 0; first < n; first += mix_tile) {
    const int64_t rows = std::min(mix_tile, n - first);
    for (int64_t c = 0; c < rows * in; ++c) even[c] = 2 * diagonal[first * in + c];
    tile_product<T>(
        even, in, 1, rows, in, weight_even, ld, ld, for_each_vector<T>([=](int64_t r, int64_t s, auto value) {
          const int64_t at = (first + r) * out, left = out - s;
          value += S::load_first(u + at + s, left) + S::load_first(v + at + s, left);
          write(out_diagonal + at, s, d ? value + S::load_first(d + at + s, left) : value);
        }));
  }
  int64_t i = 0, j = 1;
  Ends ends;
  for (int64_t first = 0, count = n * (n - 1) / 2; first < count; first += mix_tile) {
    const int64_t rows = std::min(mix_tile, count - first), after = first + rows;
    const int64_t next = std::min(mix_tile, count - after);
    Ahead ahead;
    ahead.add(upper + after * in, next * in);
    ahead.add(lower + after * in, next * in);
    next_ends(ends, rows, n, i, j);
    split_even_odd(upper + first * in, lower + first * in, rows * in, even, odd);
    tile_product<T>(even, in, 1, rows, in, weight_even, ld, ld, write_to(sum, ld), ahead);
    tile_product<T>(odd, in, 1, rows, in, weight_odd, ld, ld, write_to(difference, ld), ahead);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t s = 0; s < ld; s += S::lanes) {
        const int64_t left = out - s, from_i = ends.i[r] * out + s, from_j = ends.j[r] * out + s;
        const typename S::V same = S::load(sum + r * ld + s), other = S::load(difference + r * ld + s);
        write(out_upper + (first + r) * out, s,
              same + other + (S::load_first(u + from_i, left) + S::load_first(v + from_j, left)));
        write(out_lower + (first + r) * out, s,
              same - other + (S::load_first(u + from_j, left) + S::load_first(v + from_i, left)));
      }
  }
}

// x or slope x, depending on the sign of y; the product is always computed, so that there is no branch
template <class T>
static inline typename Simd<T>::V leaky(typename Simd<T>::V x, typename Simd<T>::V y, typename Simd<T>::V slope) {
  const typename Simd<T>::V scaled = x * slope;
  return y > typename Simd<T>::V{} ? x : scaled;
}

// For the pairs of a tile: the gradients of the two products (padded rows) from those of both pairs, which are also
// added to the sums of rows and columns of their nodes.
template <class T>
static inline void split_pairs(const T* gu, const T* gl, const T* yu, const T* yl, T slope, const Ends& ends,
                               int64_t rows, int64_t out, int64_t ld, T* even, T* odd, T* rows_sum, T* columns_sum) {
  using S = Simd<T>;
  using V = typename S::V;
  const V slopes = S::splat(slope);
  const auto add = [out](T* to, V value, int64_t s) {
    S::store_first(to + s, S::load_first(to + s, out - s) + value, out - s);
  };
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t s = 0; s < ld; s += S::lanes) {
      const int64_t at = r * out + s, left = out - s, i = ends.i[r] * out, j = ends.j[r] * out;
      const V a = leaky<T>(S::load_first(gu + at, left), S::load_first(yu + at, left), slopes);
      const V b = leaky<T>(S::load_first(gl + at, left), S::load_first(yl + at, left), slopes);
      S::store(even + r * ld + s, a + b);
      S::store(odd + r * ld + s, a - b);
      add(rows_sum + i, a, s);
      add(columns_sum + j, a, s);
      add(rows_sum + j, b, s);
      add(columns_sum + i, b, s);
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
  using S = Simd<T>;
  using V = typename S::V;
  const int64_t ldo = padded<T>(out), ldi = padded<T>(in);
  T *even = scratch, *odd = even + mix_tile * in;
  T *ge = odd + mix_tile * in, *go = ge + mix_tile * ldo, *p = go + mix_tile * ldo;
  const V slopes = S::splat(slope);
  for (int64_t first = 0; first < n; first += mix_tile) {
    const int64_t rows = std::min(mix_tile, n - first);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t s = 0; s < ldo; s += S::lanes) {
        const int64_t at = (first + r) * out + s, left = out - s;
        const V g = leaky<T>(S::load_first(g_diagonal + at, left), S::load_first(y_diagonal + at, left), slopes);
        S::store(ge + r * ldo + s, g);
        for (T* to : {rows_sum, columns_sum, diagonal_sum}) S::store_first(to + at, g, left);
      }
    for (int64_t c = 0; c < rows * in; ++c) even[c] = 2 * diagonal[first * in + c];
    tile_product<T>(even, 1, in, in, rows, ge, ldo, ldo, add_to(grad_even, ldo));
    tile_product<T>(ge, ldo, 1, rows, out, even_t, ldi, ldi, for_each_vector<T>([=](int64_t r, int64_t c, auto value) {
                      S::store_first(x_diagonal + (first + r) * in + c, value + value, in - c);
                    }));
  }
  int64_t i = 0, j = 1;
  Ends ends;
  for (int64_t first = 0, count = n * (n - 1) / 2; first < count; first += mix_tile) {
    const int64_t rows = std::min(mix_tile, count - first), at = first * out, after = first + rows;
    const int64_t next = std::min(mix_tile, count - after);
    Ahead ahead;
    for (const T* p : {g_upper, g_lower, y_upper, y_lower}) ahead.add(p + after * out, next * out);
    ahead.add(upper + after * in, next * in);
    ahead.add(lower + after * in, next * in);
    next_ends(ends, rows, n, i, j);
    split_pairs(g_upper + at, g_lower + at, y_upper + at, y_lower + at, slope, ends, rows, out, ldo, ge, go, rows_sum,
                columns_sum);
    split_even_odd(upper + first * in, lower + first * in, rows * in, even, odd);
    tile_product<T>(even, 1, in, in, rows, ge, ldo, ldo, add_to(grad_even, ldo), ahead);
    tile_product<T>(odd, 1, in, in, rows, go, ldo, ldo, add_to(grad_odd, ldo), ahead);
    tile_product<T>(ge, ldo, 1, rows, out, even_t, ldi, ldi, write_to(p, ldi), ahead);
    tile_product<T>(go, ldo, 1, rows, out, odd_t, ldi, ldi, for_each_vector<T>([=](int64_t r, int64_t c, auto value) {
                      const V same = S::load(p + r * ldi + c);
                      S::store_first(x_upper + (first + r) * in + c, same + value, in - c);
                      S::store_first(x_lower + (first + r) * in + c, same - value, in - c);
                    }),
                    ahead);
  }
}
