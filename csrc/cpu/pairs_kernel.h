// Packed pairs of one event, or of a group of events: diagonal rows first, then the pairs i < j row by row, then the
// same pairs transposed; see src/puffin/ops/pairs.py.
#include "gemm_tile.h"

// sum += factor x
template <class E, class T = Sum<E>>
static inline void add_row(T* __restrict sum, const E* __restrict x, T factor, int64_t channels) {
  for (int64_t c = 0; c < channels; ++c) sum[c] += factor * value_of(x[c]);
}
template <>
inline void add_row<Bf16>(float* __restrict sum, const Bf16* __restrict x, float factor, int64_t channels) {
  using S = Simd<float>;
  for (int64_t c = 0; c < channels; c += S::lanes) {
    const int64_t left = channels - c;
    S::store_first(sum + c, S::load_first(sum + c, left) + S::splat(factor) * read(x + c, left), left);
  }
}

// Diagonal, row sums and column sums (n, C) of one event; weights (n) or null.
template <class E, class T = Sum<E>>
void reduce_event(const E* diagonal, const E* upper, const E* lower, const T* weights, int64_t n, int64_t channels,
                  T* out_diagonal, T* rows, T* columns) {
  for (int64_t i = 0; i < n; ++i) {
    const T own = weights ? weights[i] : T(1);
    for (int64_t c = 0; c < channels; ++c) {
      const T value = value_of(diagonal[i * channels + c]);
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

// out = base + a wa + b wb + d; base and d may be null.
template <class E>
static inline void combine(E* __restrict out, const E* base, const Sum<E>* a, Sum<E> wa, const Sum<E>* b, Sum<E> wb,
                           const Sum<E>* d, int64_t channels) {
  using S = Simd<Sum<E>>;
  for (int64_t c = 0; c < channels; c += S::lanes) {
    const int64_t left = channels - c;
    typename S::V sum = S::load_first(a + c, left) * S::splat(wa);
    if (base) sum = read(base + c, left) + sum;
    sum = sum + S::load_first(b + c, left) * S::splat(wb);
    write(out + c, d ? sum + S::load_first(d + c, left) : sum, left);
  }
}

// base_ij + u_i w_j + v_j w_i + delta_ij d_i for one event; d (n, C), the weights w (n) and base may be null.
template <class E, class T = Sum<E>>
void expand_event(const T* u, const T* v, const T* d, const T* weights, int64_t n, int64_t channels,
                  const E* base_diagonal, const E* base_upper, const E* base_lower, E* diagonal, E* upper, E* lower) {
  const int64_t step = base_upper ? channels : 0;
  for (int64_t i = 0; i < n; ++i) {
    const T wi = weights ? weights[i] : T(1);
    const T *ui = u + i * channels, *vi = v + i * channels;
    combine(diagonal + i * channels, base_diagonal ? base_diagonal + i * channels : nullptr, ui, wi, vi, wi,
            d ? d + i * channels : nullptr, channels);
    for (int64_t j = i + 1; j < n; ++j, upper += channels, lower += channels, base_upper += step, base_lower += step) {
      const T wj = weights ? weights[j] : T(1);
      combine<E>(upper, base_upper, ui, wj, v + j * channels, wi, nullptr, channels);
      combine<E>(lower, base_lower, u + j * channels, wi, vi, wj, nullptr, channels);
    }
  }
}

constexpr int64_t mix_tile = 24;  // pairs at a time: a multiple of every micro-kernel's rows

// Sums and differences of `rows` rows of pairs and of their transposes, as left operands; see `rows_of`, `columns_of`.
template <class E>
static inline void split_rows(const E* __restrict a, const E* __restrict b, int64_t rows, int64_t columns,
                              Word<E>* __restrict even, Word<E>* __restrict odd) {
  if constexpr (word_size<E> == 1) {
    for (int64_t c = 0; c < rows * columns; ++c) {
      const auto x = value_of(a[c]), y = value_of(b[c]);
      even[c] = x + y;
      odd[c] = x - y;
    }
  } else {
    const bool together = columns % 2 == 0;  // no number is missing at the ends of the rows
    const int64_t length = together ? rows * columns : columns, words = num_words<E>(length);
    for (int64_t r = 0; r < (together ? 1 : rows); ++r, a += columns, b += columns, even += words, odd += words)
      for (int64_t c = 0; c < length; c += 16) {
        const auto x = read(a + c, length - c), y = read(b + c, length - c);
        write(reinterpret_cast<Bf16*>(even) + c, x + y, 2 * words - c);
        write(reinterpret_cast<Bf16*>(odd) + c, x - y, 2 * words - c);
      }
  }
}
template <class E>
static inline void split_columns(const E* a, const E* b, int64_t rows, int64_t columns, Word<E>* even, Word<E>* odd) {
  if constexpr (word_size<E> == 1) {
    split_rows(a, b, rows, columns, even, odd);
  } else {
    for (int64_t r = 0; r < rows; r += 2, a += 2 * columns, b += 2 * columns, even += columns, odd += columns)
      for (int64_t c = 0; c < columns; c += 16) {
        const int64_t left = columns - c, below = r + 1 < rows ? left : 0;
        const auto x = read(a + c, left), y = read(b + c, left);
        const auto x2 = read(a + columns + c, below), y2 = read(b + columns + c, below);
        store_words(even + c, interleave(x + y, x2 + y2), left);
        store_words(odd + c, interleave(x - y, x2 - y2), left);
      }
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
// weight_even, weight_odd: words of (in, padded out)
template <class E, class T = Sum<E>>
void mix_event(int64_t in, int64_t out, const T* weight_even, const T* weight_odd, T slope, int64_t n,
               const E* diagonal, const E* upper, const E* lower, const T* u, const T* v, const T* d, E* out_diagonal,
               E* out_upper, E* out_lower, T* scratch) {
  using S = Simd<T>;
  const int64_t ld = padded<T>(out), words = num_words<E>(in);
  T *sum = scratch, *difference = sum + mix_tile * ld, *tiles = difference + mix_tile * ld;
  Word<E>*even = reinterpret_cast<Word<E>*>(tiles), *odd = even + mix_tile * in;
  const Left<E> left_even{even, words, 1, words}, left_odd{odd, words, 1, words};
  const typename S::V slopes = S::splat(slope);
  const auto store = [=](E* to, int64_t s, typename S::V value) {
    write(to + s, S::max(value, value * slopes), out - s);  // leaky ReLU, since slope <= 1
  };
  for (int64_t first = 0; first < n; first += mix_tile) {
    const int64_t rows = std::min(mix_tile, n - first);
    split_rows(diagonal + first * in, diagonal + first * in, rows, in, even, odd);
    tile_product(
        left_even, rows, words_of<E>(weight_even), ld, for_each_vector<T>([=](int64_t r, int64_t s, auto value) {
          const int64_t at = (first + r) * out, left = out - s;
          value += S::load_first(u + at + s, left) + S::load_first(v + at + s, left);
          store(out_diagonal + at, s, d ? value + S::load_first(d + at + s, left) : value);
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
    split_rows(upper + first * in, lower + first * in, rows, in, even, odd);
    tile_product(left_even, rows, words_of<E>(weight_even), ld, write_to(sum, ld), ahead);
    tile_product(left_odd, rows, words_of<E>(weight_odd), ld, write_to(difference, ld), ahead);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t s = 0; s < ld; s += S::lanes) {
        const int64_t left = out - s, from_i = ends.i[r] * out + s, from_j = ends.j[r] * out + s;
        const typename S::V same = S::load(sum + r * ld + s), other = S::load(difference + r * ld + s);
        store(out_upper + (first + r) * out, s,
              same + other + (S::load_first(u + from_i, left) + S::load_first(v + from_j, left)));
        store(out_lower + (first + r) * out, s,
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

// For the pairs of a tile: the gradients of the two products from those of both pairs, which are also added to the
// sums of rows and columns of their nodes.
template <class E, class T = Sum<E>>
static inline void split_pairs(const E* gu, const E* gl, const E* yu, const E* yl, T slope, const Ends& ends,
                               int64_t rows, int64_t out, const Tile<E>& even, const Tile<E>& odd, T* rows_sum,
                               T* columns_sum) {
  using S = Simd<T>;
  using V = typename S::V;
  const V slopes = S::splat(slope);
  const auto add = [out](T* to, V value, int64_t s) {
    S::store_first(to + s, S::load_first(to + s, out - s) + value, out - s);
  };
  const auto gradients = [&](int64_t r, int64_t s, V& a, V& b) {
    const int64_t at = r * out + s, left = out - s, i = ends.i[r] * out, j = ends.j[r] * out;
    a = leaky<T>(read(gu + at, left), read(yu + at, left), slopes);
    b = leaky<T>(read(gl + at, left), read(yl + at, left), slopes);
    add(rows_sum + i, a, s);
    add(columns_sum + j, a, s);
    add(rows_sum + j, b, s);
    add(columns_sum + i, b, s);
  };
  for (int64_t r = 0; r < rows; r += 2)
    for (int64_t s = 0; s < even.ld; s += S::lanes) {
      V a, b, next_a{}, next_b{};
      gradients(r, s, a, b);
      if (r + 1 < rows) gradients(r + 1, s, next_a, next_b);
      even.store(r, s, a + b, next_a + next_b);
      odd.store(r, s, a - b, next_a - next_b);
    }
}

// Of the diagonal pairs of a tile, beginning at node `first`: the gradient of the product, and its three sums.
template <class E, class T = Sum<E>>
static inline void split_diagonal(const E* g, const E* y, T slope, int64_t first, int64_t rows, int64_t out,
                                  const Tile<E>& even, T* rows_sum, T* columns_sum, T* diagonal_sum) {
  using S = Simd<T>;
  using V = typename S::V;
  const auto gradient = [&](int64_t r, int64_t s) {
    const int64_t at = (first + r) * out + s, left = out - s;
    const V value = leaky<T>(read(g + at, left), read(y + at, left), S::splat(slope));
    for (T* to : {rows_sum, columns_sum, diagonal_sum}) S::store_first(to + at, value, left);
    return value;
  };
  for (int64_t r = 0; r < rows; r += 2)
    for (int64_t s = 0; s < even.ld; s += S::lanes) {
      const V one = gradient(r, s);
      even.store(r, s, one, r + 1 < rows ? gradient(r + 1, s) : V{});
    }
}

// Gradients of mix_event. y: its result, which the activation needs; even_t, odd_t: words of the transposed weights
// (out, padded in); the gradients of the weights are added to grad_even and grad_odd (in, padded out).
template <class E, class T = Sum<E>>
void mix_event_backward(int64_t in, int64_t out, const T* even_t, const T* odd_t, T slope, int64_t n,
                        const E* g_diagonal, const E* g_upper, const E* g_lower, const E* y_diagonal, const E* y_upper,
                        const E* y_lower, const E* diagonal, const E* upper, const E* lower, E* x_diagonal, E* x_upper,
                        E* x_lower, T* rows_sum, T* columns_sum, T* diagonal_sum, T* grad_even, T* grad_odd,
                        T* scratch) {
  using S = Simd<T>;
  const int64_t ldo = padded<T>(out), ldi = padded<T>(in);
  Word<E>* words = reinterpret_cast<Word<E>*>(scratch);
  const Tile<E> ge{words, mix_tile, ldo}, go{words + mix_tile * ldo, mix_tile, ldo};
  T* p = scratch + 2 * mix_tile * ldo;
  Word<E>*even = reinterpret_cast<Word<E>*>(p + mix_tile * ldi), *odd = even + mix_tile * in;
  const auto columns = [in](const Word<E>* x, int64_t rows) { return Left<E>{x, 1, in, num_words<E>(rows)}; };
  for (int64_t first = 0; first < n; first += mix_tile) {
    const int64_t rows = std::min(mix_tile, n - first);
    split_diagonal(g_diagonal, y_diagonal, slope, first, rows, out, ge, rows_sum, columns_sum, diagonal_sum);
    split_columns(diagonal + first * in, diagonal + first * in, rows, in, even, odd);
    tile_product(columns(even, rows), in, ge.right(), ldo, add_to(grad_even, ldo));
    tile_product(
        ge.by_rows(out), rows, words_of<E>(even_t), ldi, for_each_vector<T>([=](int64_t r, int64_t c, auto value) {
          write(x_diagonal + (first + r) * in + c, value + value, in - c);
        }));
  }
  int64_t i = 0, j = 1;
  Ends ends;
  for (int64_t first = 0, count = n * (n - 1) / 2; first < count; first += mix_tile) {
    const int64_t rows = std::min(mix_tile, count - first), at = first * out, after = first + rows;
    const int64_t next = std::min(mix_tile, count - after);
    Ahead ahead;
    for (const E* table : {g_upper, g_lower, y_upper, y_lower}) ahead.add(table + after * out, next * out);
    ahead.add(upper + after * in, next * in);
    ahead.add(lower + after * in, next * in);
    next_ends(ends, rows, n, i, j);
    split_pairs(
        g_upper + at, g_lower + at, y_upper + at, y_lower + at, slope, ends, rows, out, ge, go, rows_sum, columns_sum);
    split_columns(upper + first * in, lower + first * in, rows, in, even, odd);
    tile_product(columns(even, rows), in, ge.right(), ldo, add_to(grad_even, ldo), ahead);
    tile_product(columns(odd, rows), in, go.right(), ldo, add_to(grad_odd, ldo), ahead);
    tile_product(ge.by_rows(out), rows, words_of<E>(even_t), ldi, write_to(p, ldi), ahead);
    tile_product(
        go.by_rows(out), rows, words_of<E>(odd_t), ldi, for_each_vector<T>([=](int64_t r, int64_t c, auto value) {
          const typename S::V same = S::load(p + r * ldi + c);
          write(x_upper + (first + r) * in + c, same + value, in - c);
          write(x_lower + (first + r) * in + c, same - value, in - c);
        }),
        ahead);
  }
}
