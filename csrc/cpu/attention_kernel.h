// Attention of one head within one event, tile by tile with an online softmax; see src/puffin/ops/attention.py. The
// scores of a tile stay in the cache: nothing of the size (tokens, tokens) is stored.
#include "gemm_tile.h"

#include "exp_log.h"

constexpr int64_t tile_queries = 48, tile_keys = 64;  // even, and multiples of the widest vector

template <class T>
using Unsigned = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
template <class T>
struct UnsignedVector {
  typedef Unsigned<T> V __attribute__((vector_size(PUFFIN_WIDTH)));
};

// Reduces the lanes by halves.
template <class T, class F>
static inline T reduce_lanes(typename Simd<T>::V v, const F& two) {
  for (int half = Simd<T>::lanes / 2; half > 0; half /= 2) {
    typename UnsignedVector<T>::V other{};
    for (int i = 0; i < Simd<T>::lanes; ++i) other[i] = Unsigned<T>((i + half) % Simd<T>::lanes);
    v = two(v, __builtin_shuffle(v, other));
  }
  return v[0];
}
template <class T>
static inline T sum_lanes(typename Simd<T>::V v) {
  return reduce_lanes<T>(v, [](auto a, auto b) { return a + b; });
}
template <class T>
static inline T max_lanes(typename Simd<T>::V v) {
  return reduce_lanes<T>(v, [](auto a, auto b) { return Simd<T>::max(a, b); });
}

// The finalizer of MurmurHash3, which makes random bits of a counter.
static inline uint32_t random_bits(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x85ebca6bu;
  x = (x ^ (x >> 13)) * 0xc2b2ae35u;
  return x ^ (x >> 16);
}

// Which attention weights dropout leaves: a function of seed, token of the query, head, and key within the event.
template <class T>
struct Dropout {
  using I = typename UnsignedVector<T>::V;
  std::vector<uint32_t> words;  // two random words of each query
  uint32_t threshold;

  Dropout(const AttentionHead& head) : words(head.threshold ? 2 * head.tokens : 0), threshold(head.threshold) {
    for (size_t i = 0; i < words.size(); i += 2) {
      words[i] =
          random_bits(uint32_t(head.seed) ^ random_bits(uint32_t((head.first + i / 2) * head.heads + head.head)));
      words[i + 1] = random_bits(uint32_t(head.seed >> 32) ^ words[i]);
    }
  }
  // The entries of v, of one query and the keys from `key` on, that remain; the others become 0.
  inline typename Simd<T>::V remaining(typename Simd<T>::V v, int64_t query, int64_t key) const {
    I lane{};
    for (int i = 0; i < Simd<T>::lanes; ++i) lane[i] = Unsigned<T>(i);
    I x = low((lane + Unsigned<T>(key)) * 0x9e3779b9u) ^ words[2 * query];
    x = low((x ^ (x >> 16)) * 0x85ebca6bu) ^ words[2 * query + 1];
    x = low((x ^ (x >> 13)) * 0xc2b2ae35u);
    return x >= threshold ? v : typename Simd<T>::V{};
  }

 private:
  static inline I low(I x) { return x & 0xffffffffu; }
};

// The reverse of read_rows, times a factor.
template <class E, class T = Sum<E>>
static inline void write_rows(const T* rows, int64_t count, int64_t size, T factor, E* to, int64_t stride) {
  const int64_t ld = padded<T>(size);
  for (int64_t r = 0; r < count; ++r)
    for (int64_t c = 0; c < size; c += Simd<T>::lanes)
      write(to + r * stride + c, Simd<T>::load(rows + r * ld + c) * factor, size - c);
}

// (rows, ld), of which `size` columns count -> (size, padded rows)
template <class T>
static inline void transpose_rows(const T* x, int64_t rows, int64_t size, T* to) {
  const int64_t ld = padded<T>(size), padded_rows = padded<T>(rows);
  for (int64_t c = 0; c < size; ++c, to += padded_rows) {
    for (int64_t r = 0; r < rows; ++r) to[r] = x[r * ld + c];
    std::fill(to + rows, to + padded_rows, T(0));
  }
}

// Scores of the padding beyond `keys`: their weights are 0.
template <class T>
static inline void hide_padding(T* scores, int64_t rows, int64_t keys) {
  for (int64_t r = 0; r < rows; ++r, scores += tile_keys)
    std::fill(scores + keys, scores + padded<T>(keys), -std::numeric_limits<T>::infinity());
}

// Turns scores (rows, keys) into weights, exp(scale score - maximum); updates the maxima (rows), the sums of the
// weights (rows, lanes) and the outputs (rows, ld) to the new maxima.
template <class T>
static inline void weigh(T* scores, int64_t rows, int64_t keys, T scale, const Dropout<T>& dropout, int64_t query,
                         int64_t key, T* maxima, T* sums, T* outputs, int64_t ld) {
  using S = Simd<T>;
  using V = typename S::V;
  for (int64_t r = 0; r < rows; ++r, scores += tile_keys, sums += S::lanes, outputs += ld) {
    V most = S::load(scores);
    for (int64_t c = S::lanes; c < keys; c += S::lanes) most = S::max(most, S::load(scores + c));
    const T maximum = larger(maxima[r], max_lanes<T>(most) * scale);
    const V factor = exponential<T>(S::splat(maxima[r] - maximum));
    maxima[r] = maximum;
    V sum = S::load(sums) * factor;
    for (int64_t c = 0; c < keys; c += S::lanes) {
      const V weight = exponential<T>(multiply_add<T>(S::load(scores + c), S::splat(scale), S::splat(-maximum)));
      sum += weight;
      S::store(scores + c, dropout.threshold ? dropout.remaining(weight, query + r, key + c) : weight);
    }
    S::store(sums, sum);
    for (int64_t c = 0; c < ld; c += S::lanes) S::store(outputs + c, S::load(outputs + c) * factor);
  }
}

// out (tokens, size) and lse (tokens) of one head. Source: arXiv 2307.08691, algorithm 1.
template <class E, class T = Sum<E>>
void attend(const AttentionHead& head, const E* qkv, E* out, T* lse) {
  using S = Simd<T>;
  const int64_t n = head.tokens, size = head.size, dim = head.heads * size, ld = padded<T>(size);
  const int64_t tokens = (n + tile_keys - 1) / tile_keys * tile_keys;
  std::vector<T> memory(tokens * (size + ld) + tile_queries * (2 * ld + tile_keys + 1 + S::lanes) + tile_keys * ld);
  T* next = memory.data();
  const auto take = [&](int64_t count) { return (next += count) - count; };
  T *keys = take(tokens * size), *values = take(tokens * ld), *rows_of_keys = take(tile_keys * ld);
  T *queries = take(tile_queries * ld), *scores = take(tile_queries * tile_keys), *outputs = take(tile_queries * ld);
  T *maxima = take(tile_queries), *sums = take(tile_queries * S::lanes);
  const Dropout<T> dropout(head);
  read_rows(qkv + 2 * dim, 3 * dim, n, size, values);
  for (int64_t key = 0; key < n; key += tile_keys) {
    const int64_t count = std::min(tile_keys, n - key);
    read_rows(qkv + key * 3 * dim + dim, 3 * dim, count, size, rows_of_keys);
    transpose_rows(rows_of_keys, count, size, keys + key * size);
  }
  for (int64_t query = 0; query < n; query += tile_queries) {
    const int64_t rows = std::min(tile_queries, n - query);
    read_rows(qkv + query * 3 * dim, 3 * dim, rows, size, queries);
    std::fill(outputs, outputs + rows * ld, T(0));
    std::fill(sums, sums + rows * S::lanes, T(0));
    std::fill(maxima, maxima + rows, -std::numeric_limits<T>::infinity());
    for (int64_t key = 0; key < n; key += tile_keys) {
      const int64_t count = std::min(tile_keys, n - key), columns = padded<T>(count);
      tile_product(Left<T>{queries, ld, 1, size}, rows, keys + key * size, columns, write_to(scores, tile_keys));
      hide_padding(scores, rows, count);
      weigh(scores, rows, columns, T(head.scale), dropout, query, key, maxima, sums, outputs, ld);
      tile_product(Left<T>{scores, tile_keys, 1, count}, rows, values + key * ld, ld, add_to(outputs, ld));
    }
    for (int64_t r = 0; r < rows; ++r) {
      const T sum = sum_lanes<T>(S::load(sums + r * S::lanes));
      lse[(query + r) * head.heads] = maxima[r] + std::log(sum);
      write_rows(outputs + r * ld, 1, size, T(head.factor) / sum, out + (query + r) * dim, dim);
    }
  }
}

// Turns scores (rows, keys) into the weights that remain, and products (rows, keys) of gradients and values into the
// gradients of the scores; both still lack constant factors. lse and means: of these queries, see `attend_backward`.
template <class T>
static inline void differentiate(T* scores, T* products, int64_t rows, int64_t keys, T scale, const T* lse,
                                 const T* means, const Dropout<T>& dropout, int64_t query, int64_t key) {
  using S = Simd<T>;
  using V = typename S::V;
  for (int64_t r = 0; r < rows; ++r, scores += tile_keys, products += tile_keys)
    for (int64_t c = 0; c < keys; c += S::lanes) {
      const V weight = exponential<T>(multiply_add<T>(S::load(scores + c), S::splat(scale), S::splat(-lse[r])));
      const V remains = dropout.threshold ? dropout.remaining(weight, query + r, key + c) : weight;
      S::store(scores + c, remains);
      S::store(products + c, multiply_add<T>(remains, S::load(products + c), weight * S::splat(-means[r])));
    }
}

// grad_qkv (tokens, 3 dim) of one head. Source: arXiv 2307.08691, algorithm 2.
template <class E, class T = Sum<E>>
void attend_backward(const AttentionHead& head, const E* grad, const E* qkv, const E* out, const T* lse, E* grad_qkv) {
  using S = Simd<T>;
  const int64_t n = head.tokens, size = head.size, dim = head.heads * size, ld = padded<T>(size);
  std::vector<T> memory(n * (3 * ld + 2) + tile_keys * (4 * ld + 2 * size + 2 * tile_queries));
  T* next = memory.data();
  const auto take = [&](int64_t count) { return (next += count) - count; };
  T *queries = take(n * ld), *grads = take(n * ld), *grad_queries = take(n * ld), *means = take(n), *sums = take(n);
  T *keys = take(tile_keys * ld), *values = take(tile_keys * ld);
  T *keys_t = take(tile_keys * size), *values_t = take(tile_keys * size);
  T *grad_keys = take(tile_keys * ld), *grad_values = take(tile_keys * ld);
  T *scores = take(tile_queries * tile_keys), *products = take(tile_queries * tile_keys);
  const Dropout<T> dropout(head);
  const T scale = T(head.scale), factor = T(head.factor);
  read_rows(qkv, 3 * dim, n, size, queries);
  read_rows(grad, dim, n, size, grads);
  for (int64_t i = 0; i < n; ++i) {
    typename S::V sum{};
    for (int64_t c = 0; c < size; c += S::lanes)
      sum = multiply_add<T>(S::load(grads + i * ld + c), read(out + i * dim + c, size - c), sum);
    means[i] = sum_lanes<T>(sum) / factor;
    sums[i] = lse[i * head.heads];
  }
  for (int64_t key = 0; key < n; key += tile_keys) {
    const int64_t count = std::min(tile_keys, n - key), columns = padded<T>(count);
    read_rows(qkv + key * 3 * dim + dim, 3 * dim, count, size, keys);
    read_rows(qkv + key * 3 * dim + 2 * dim, 3 * dim, count, size, values);
    transpose_rows(keys, count, size, keys_t);
    transpose_rows(values, count, size, values_t);
    std::fill(grad_keys, grad_keys + count * ld, T(0));
    std::fill(grad_values, grad_values + count * ld, T(0));
    for (int64_t query = 0; query < n; query += tile_queries) {
      const int64_t rows = std::min(tile_queries, n - query);
      tile_product(Left<T>{queries + query * ld, ld, 1, size}, rows, keys_t, columns, write_to(scores, tile_keys));
      tile_product(Left<T>{grads + query * ld, ld, 1, size}, rows, values_t, columns, write_to(products, tile_keys));
      hide_padding(scores, rows, count);
      differentiate(scores, products, rows, columns, scale, sums + query, means + query, dropout, query, key);
      const Left<T> weights_t{scores, 1, tile_keys, rows}, of_scores_t{products, 1, tile_keys, rows};
      tile_product(weights_t, count, grads + query * ld, ld, add_to(grad_values, ld));
      tile_product(of_scores_t, count, queries + query * ld, ld, add_to(grad_keys, ld));
      tile_product(Left<T>{products, tile_keys, 1, count}, rows, keys, ld, add_to(grad_queries + query * ld, ld));
    }
    write_rows(grad_keys, count, size, scale * factor, grad_qkv + key * 3 * dim + dim, 3 * dim);
    write_rows(grad_values, count, size, factor, grad_qkv + key * 3 * dim + 2 * dim, 3 * dim);
  }
  write_rows(grad_queries, n, size, scale * factor, grad_qkv, 3 * dim);
}
