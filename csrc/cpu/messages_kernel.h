// A linear layer, a leaky ReLU and the statistics of the result, tile by tile; see src/puffin/ops/messages.py and
// pair_messages.py, whose rows are pairs. Rows of `out` numbers are processed as whole vectors; the lanes beyond `out`
// hold 0 or are not used.
#include "pair_tiles.h"

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
template <class E>
struct Activate {
  using T = Sum<E>;
  const T *bias, *origin;
  T slope;
  int64_t out;
  E* y;
  T *sums, *squares;
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
        // of the numbers in the table, so that they have exactly this mean
        add_moments<T>(write(y + (row + r) * out + s, active, out - s), from, sum, square);
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
template <class E, class T = Sum<E>>
static inline void first_moments(const E* y, int64_t rows, int64_t out, T* origin, T* sums, T* squares) {
  for (int64_t s = 0; s < out; ++s) {
    T sum = T(0);
    for (int64_t r = 0; r < rows; ++r) sum += value_of(y[r * out + s]) / T(rows);
    origin[s] = sum;
  }
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t s = 0; s < out; ++s) {
      const T d = value_of(y[r * out + s]) - origin[s];
      sums[s] += d;
      squares[s] += d * d;
    }
}

// y = leaky(x weight + bias) for `rows` rows, and the mean and squared deviations of each column.
// weight: words of (in, padded out). Deviations are measured from the mean of the first tile, which avoids
// cancellation. use(first, n, tile) is called for each tile of y, n rows from row `first`, while it is in the cache.
template <class E, class Use, class T = Sum<E>>
static inline void message_tiles(const E* x, const T* weight, const T* bias, T slope, int64_t rows, int64_t in,
                                 int64_t out, E* y, double* mean, double* deviations, const Use& use) {
  const int64_t ld = padded<T>(out);
  std::vector<T> buffer(4 * ld + message_tile * in, T(0));
  T *padded_bias = buffer.data(), *origin = padded_bias + ld, *sums = origin + ld, *squares = sums + ld;
  Word<E>* scratch = reinterpret_cast<Word<E>*>(squares + ld);
  std::copy(bias, bias + out, padded_bias);
  std::fill(mean, mean + out, 0.0);
  std::fill(deviations, deviations + out, 0.0);
  for (int64_t first = 0; first < rows; first += message_tile) {
    const int64_t n = std::min(message_tile, rows - first);
    E* to = y + first * out;
    const Activate<E> activate{padded_bias, origin, slope, out, to, sums, squares, first > 0};
    tile_product(rows_of(x + first * in, n, in, scratch), n, words_of<E>(weight), ld, activate);
    if (first == 0) first_moments(to, n, out, origin, sums, squares);
    collect(sums, out, mean);
    collect(squares, out, deviations);
    use(first, n, to);
  }
  for (int64_t s = 0; s < out && rows > 0; ++s) {
    const double shift = mean[s] / double(rows);
    deviations[s] -= shift * mean[s];
    mean[s] = double(origin[s]) + shift;
  }
}

template <class E, class T = Sum<E>>
void message_rows(const E* x, const T* weight, const T* bias, T slope, int64_t rows, int64_t in, int64_t out, E* y,
                  double* mean, double* deviations) {
  message_tiles(x, weight, bias, slope, rows, in, out, y, mean, deviations, [](int64_t, int64_t, const E*) {});
}

// The same for the pairs of a group of events, and the sums of y for its nodes. mean, deviations: of all its pairs.
template <class E, class T = Sum<E>>
void message_pairs(const Group<const E>& x, const T* weight, const T* bias, T slope, const T* weights, int64_t in,
                   int64_t out, const Group<E>& y, const NodeSums<T>& sums, double* mean, double* deviations) {
  std::vector<double> moments(2 * out);
  double *more_mean = moments.data(), *more_deviations = more_mean + out;
  message_tiles(x.diagonal, weight, bias, slope, x.nodes, in, out, y.diagonal, mean, deviations,
                [&](int64_t first, int64_t n, const E* tile) { start_sums(tile, first, n, weights, out, sums); });
  if (x.uppers == 0) return;
  double before = double(x.nodes);
  for (const bool above : {true, false}) {
    Runs runs(x.first_node, x.events);
    message_tiles(above ? x.upper : x.lower, weight, bias, slope, x.uppers, in, out, above ? y.upper : y.lower,
                  more_mean, more_deviations,
                  [&](int64_t, int64_t n, const E* tile) { add_sums(tile, n, runs, weights, out, above, sums); });
    merge_moments(mean, deviations, before, more_mean, more_deviations, double(x.uppers), out);
    before += double(x.uppers);
  }
}

// Gradient before the activation, (g + more + offset + (y - mean) factor) leaky'(y), and its sums; g: null for 0;
// more(r, s): a further term of row r from column s; moments: mean, offset and factor. before, sums and the three
// moments have padded columns.
template <class E, class More, class T = Sum<E>>
static inline void differentiate(const E* g, const E* y, const More& more, const T* moments, T slope, int64_t rows,
                                 int64_t out, const Tile<E>& before, T* sums) {
  using S = Simd<T>;
  using V = typename S::V;
  const V slopes = S::splat(slope);
  const int64_t ld = before.ld;
  for (int64_t s = 0; s < ld; s += S::lanes) {
    const V mean = S::load(moments + s), offset = S::load(moments + ld + s), factor = S::load(moments + 2 * ld + s);
    V sum = S::load(sums + s);
    const auto gradient = [&](int64_t r) {
      const V result = read(y + r * out + s, out - s);
      const V from = g ? more(r, s, read(g + r * out + s, out - s)) : more(r, s, V{});
      const V value = from + (offset + (result - mean) * factor), scaled = value * slopes;
      const V chosen = result > V{} ? value : scaled;
      sum += chosen;
      return chosen;
    };
    int64_t r = 0;
    for (; r + 2 <= rows; r += 2) {
      const V one = gradient(r), two = gradient(r + 1);
      before.store(r, s, one, two);
    }
    if (r < rows) before.store(r, s, gradient(r), V{});
    S::store(sums + s, sum);
  }
}

// grad_x (rows, in); grad_weight (in, padded out), whose padding holds no result, and grad_bias (out), to which the
// sums are added. weight_t: words of (out, padded in). moments: mean, offset and factor of `differentiate`, padded out
// values each. terms(first, n) returns the further terms of the n rows from row `first`.
template <class E, class Terms, class T = Sum<E>>
static inline void message_tiles_backward(const E* g, const E* y, const E* x, const T* weight_t, const T* moments,
                                          T slope, int64_t rows, int64_t in, int64_t out, E* grad_x, T* grad_weight,
                                          double* grad_bias, const Terms& terms) {
  const int64_t ldo = padded<T>(out), ldi = padded<T>(in);
  std::vector<T> buffer((message_tile + 1) * ldo + message_tile * in, T(0));
  T* sums = buffer.data() + message_tile * ldo;
  const Tile<E> before{reinterpret_cast<Word<E>*>(buffer.data()), message_tile, ldo};
  Word<E>* scratch = reinterpret_cast<Word<E>*>(sums + ldo);
  for (int64_t first = 0; first < rows; first += message_tile) {
    const int64_t n = std::min(message_tile, rows - first);
    const int64_t next = std::min(message_tile, rows - first - n), after = first + n;
    Ahead ahead;
    if (g) ahead.add(g + after * out, next * out);
    ahead.add(y + after * out, next * out);
    ahead.add(x + after * in, next * in);
    const E* own = g ? g + first * out : nullptr;
    differentiate(own, y + first * out, terms(first, n), moments, slope, n, out, before, sums);
    collect(sums, out, grad_bias);
    tile_product(columns_of(x + first * in, n, in, scratch), in, before.right(), ldo, add_to(grad_weight, ldo), ahead);
    E* to = grad_x + first * in;
    tile_product(
        before.by_rows(out), n, words_of<E>(weight_t), ldi,
        for_each_vector<T>([=](int64_t r, int64_t c, auto sum) { write(to + r * in + c, sum, in - c); }), ahead);
  }
}

template <class E, class T = Sum<E>>
void message_rows_backward(const E* g, const E* y, const E* x, const T* weight_t, const T* moments, T slope,
                           int64_t rows, int64_t in, int64_t out, E* grad_x, T* grad_weight, double* grad_bias) {
  const auto nothing = [](int64_t, int64_t, auto value) { return value; };
  message_tiles_backward(g, y, x, weight_t, moments, slope, rows, in, out, grad_x, grad_weight, grad_bias,
                         [&](int64_t, int64_t) { return nothing; });
}

// The same for the pairs of a group of events, with the gradients of the sums of its nodes; those of y, in g, may be
// null.
template <class E, class T = Sum<E>>
void message_pairs_backward(const Group<const E>& g, const Group<const E>& y, const Group<const E>& x,
                            const T* weight_t, const T* moments, T slope, const NodeTerms<T>& nodes, const T* weights,
                            int64_t in, int64_t out, const Group<E>& grad_x, T* grad_weight, double* grad_bias) {
  PairTerms<T> terms(out);
  message_tiles_backward(
      g.diagonal, y.diagonal, x.diagonal, weight_t, moments, slope, x.nodes, in, out, grad_x.diagonal, grad_weight,
      grad_bias,
      [&](int64_t first, int64_t n) -> const PairTerms<T>& { return terms.of_diagonal(nodes, weights, first, n); });
  for (const bool above : {true, false}) {
    Runs runs(x.first_node, x.events);
    message_tiles_backward(
        above ? g.upper : g.lower, above ? y.upper : y.lower, above ? x.upper : x.lower, weight_t, moments, slope,
        x.uppers, in, out, above ? grad_x.upper : grad_x.lower, grad_weight, grad_bias,
        [&](int64_t, int64_t n) -> const PairTerms<T>& { return terms.of_pairs(nodes, weights, runs, n, above); });
  }
}
