// The embedding of one event: compressed channels of symmetric inputs, then channels of labels; see
// src/puffin/ops/embedding.py.
#include "gemm_tile.h"

#include "exp_log.h"

// The compression sign(y) ((offset + |y|)^a - 1) / a of a vector of channels, and what its derivatives need.
template <class T>
struct Compressed {
  using S = Simd<T>;
  using V = typename S::V;
  using I = typename Format<T>::Vector;
  static constexpr auto signbit = std::numeric_limits<typename Format<T>::Int>::min();
  V base, log, power, exponent, sign, size;  // size: the result without its sign

  // x: the inputs of a pair; c: the first channel
  [[gnu::always_inline]] inline Compressed(const Embedding<T>& e, const T* x, int64_t c) {
    V y = S::load(e.bias + c);
    for (int64_t k = 0; k < e.in; ++k) y = multiply_add<T>(S::splat(x[k]), S::load(e.weight + k * e.ld + c), y);
    const V size_of_y = S::max(y, -y);
    sign = size_of_y > V{} ? (V)(((I)y & signbit) | (I)S::splat(1)) : V{};
    exponent = S::load(e.exponent + c);
    base = size_of_y + S::splat(e.offset);
    // not log1p and expm1: trained float32 networks carry the rounding of the plain formula
    log = logarithm<T>(base);
    power = exponential<T>(log * exponent);
    size = (power - S::splat(1)) / exponent;
  }
};

// u_i + v_j, and w_i on the diagonal (else null), of a vector of label channels that begins with s.
template <class T>
static inline typename Simd<T>::V label_sum(const T* u, const T* v, const T* w, int64_t s, int64_t labels) {
  using S = Simd<T>;
  const typename S::V sum = S::load_first(u + s, labels - s) + S::load_first(v + s, labels - s);
  return w ? sum + S::load_first(w + s, labels - s) : sum;
}

template <class E, class T>
static inline void write_labels(const Embedding<T>& e, const T* u, const T* v, const T* w, E* to) {
  using S = Simd<T>;
  for (int64_t s = 0; s < e.labels; s += S::lanes) {
    const typename S::V sum = label_sum<T>(u, v, w, s, e.labels);
    write(to + e.channels + s, S::max(sum, sum * S::splat(e.slope)), e.labels - s);  // slope <= 1
  }
}

// The rows of one event: of its diagonal pairs, and of the pairs i < j and their transposes.
template <class E, class T = Sum<E>>
void embed_event(const Embedding<T>& e, int64_t n, const T* x_diagonal, const T* x_upper, const T* u, const T* v,
                 const T* w, E* diagonal, E* upper, E* lower) {
  using S = Simd<T>;
  const int64_t width = e.channels + e.labels;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = i; j < n; ++j) {
      const T *ui = u + i * e.labels, *vi = v + i * e.labels, *uj = u + j * e.labels, *vj = v + j * e.labels;
      const T* x = i == j ? x_diagonal + i * e.in : x_upper;
      E *first = i == j ? diagonal + i * width : upper, *second = i == j ? nullptr : lower;
      for (int64_t c = 0; c < e.channels; c += S::lanes) {
        const Compressed<T> y(e, x, c);
        const typename S::V value = e.has_sign ? y.size * y.sign : y.size;
        write(first + c, value, e.channels - c);
        if (second) write(second + c, value, e.channels - c);
      }
      write_labels<E, T>(e, ui, vj, second ? nullptr : w + i * e.labels, first);
      if (!second) continue;
      write_labels<E, T>(e, uj, vi, nullptr, second);
      x_upper += e.in;
      upper += width;
      lower += width;
    }
}

// The gradient of the inputs of a pair, of the sums of labels, and what the pair adds to the gradients of the weights.
template <class E, class T = Sum<E>>
struct EmbeddingGradients {
  using S = Simd<T>;
  using V = typename S::V;
  const Embedding<T>& e;
  T *bias, *exponent, *weight;  // sums (ld), (ld) and (in, ld)
  T* of_y;                      // scratch (ld)

  static inline void add(T* to, V value) { S::store(to, S::load(to) + value); }

  // first, second: gradients of the row and of its transpose, which may be null; x_grad may be null
  inline void compressed(const E* first, const E* second, const T* x, T* x_grad) const {
    for (int64_t c = 0; c < e.channels; c += S::lanes) {
      const Compressed<T> y(e, x, c);
      V grad = read(first + c, e.channels - c);
      if (second) grad += read(second + c, e.channels - c);
      if (e.has_sign) grad *= y.sign;
      add(exponent + c, grad * (y.log * y.power - y.size));
      const V slope = grad * y.power / y.base * y.sign;
      add(bias + c, slope);
      S::store(of_y + c, slope);
    }
    for (int64_t k = 0; k < e.in; ++k) {
      V sum{};
      for (int64_t c = 0; c < e.channels; c += S::lanes) {
        const V slope = S::load(of_y + c);
        add(weight + k * e.ld + c, slope * S::splat(x[k]));
        sum += slope * S::load(e.weight + k * e.ld + c);
      }
      if (!x_grad) continue;
      x_grad[k] = T(0);
      for (int lane = 0; lane < S::lanes; ++lane) x_grad[k] += sum[lane];
    }
  }

  // Adds the gradient of a row's label channels to those of u, v and w; w null: not a diagonal pair.
  inline void labels(const E* grad, const T* u, const T* v, const T* w, T* u_grad, T* v_grad, T* w_grad) const {
    for (int64_t s = 0; s < e.labels; s += S::lanes) {
      const int64_t left = e.labels - s;
      const V outer = read(grad + e.channels + s, left);
      const V inner = label_sum<T>(u, v, w, s, e.labels) > V{} ? outer : outer * S::splat(e.slope);
      S::store_first(u_grad + s, S::load_first(u_grad + s, left) + inner, left);
      S::store_first(v_grad + s, S::load_first(v_grad + s, left) + inner, left);
      if (w) S::store_first(w_grad + s, inner, left);
    }
  }
};

// Gradients of embed_event. Those of weights are added to sums (2 + in, ld): of the bias, the exponents and the weight.
// x_grad_*: may be null. u_grad and v_grad begin with 0; scratch: (ld).
template <class E, class T = Sum<E>>
void embed_event_backward(const Embedding<T>& e, int64_t n, const E* g_diagonal, const E* g_upper, const E* g_lower,
                          const T* x_diagonal, const T* x_upper, const T* u, const T* v, const T* w, T* x_grad_diagonal,
                          T* x_grad_upper, T* u_grad, T* v_grad, T* w_grad, T* sums, T* scratch) {
  const EmbeddingGradients<E> gradients{e, sums, sums + e.ld, sums + 2 * e.ld, scratch};
  const int64_t width = e.channels + e.labels, step = x_grad_upper ? e.in : 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = i * e.labels;
    const E* row = g_diagonal + i * width;
    gradients.compressed(row, nullptr, x_diagonal + i * e.in, x_grad_diagonal ? x_grad_diagonal + i * e.in : nullptr);
    gradients.labels(row, u + at, v + at, w + at, u_grad + at, v_grad + at, w_grad + at);
    for (int64_t j = i + 1; j < n; ++j, x_upper += e.in, x_grad_upper += step, g_upper += width, g_lower += width) {
      const int64_t to = j * e.labels;
      gradients.compressed(g_upper, g_lower, x_upper, x_grad_upper);
      gradients.labels(g_upper, u + at, v + to, nullptr, u_grad + at, v_grad + to, nullptr);
      gradients.labels(g_lower, u + to, v + at, nullptr, u_grad + to, v_grad + at, nullptr);
    }
  }
}
