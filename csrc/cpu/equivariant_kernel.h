// The maps of one event that depend on one index or none; see src/puffin/ops/equivariant_nodes.py. All quantities of a
// node are one row of a table X (nodes, inputs), all targets one row of a table Y (nodes, outputs), and all maps of
// nodes one matrix M (inputs, outputs) for each event: Y = X M + what the maps of the event's own quantities add.
#include "gemm_tile.h"

// sum += factor x
template <class T>
static inline void add_scaled(T* sum, const T* x, T factor, int64_t count) {
  using S = Simd<T>;
  const typename S::V by = S::splat(factor);
  for (int64_t i = 0; i < count; i += S::lanes)
    S::store_first(sum + i, S::load_first(sum + i, count - i) + by * S::load_first(x + i, count - i), count - i);
}

template <class T>
static inline T dot(const T* a, const T* b, int64_t count) {
  using S = Simd<T>;
  typename S::V sum{};
  for (int64_t i = 0; i < count; i += S::lanes)
    sum += S::load_first(a + i, count - i) * S::load_first(b + i, count - i);
  T total = sum[0];
  for (int l = 1; l < S::lanes; ++l) total += sum[l];
  return total;
}

// The quantities of an event, normalised: X (nodes, ldx), and the trace and the total (2, in).
template <class T>
struct Quantities {
  int64_t ldx;
  T *x, *of_event;

  // Numbers of memory that an event needs, whose values are overwritten.
  static int64_t size(const EquivariantMaps& m, int64_t nodes) { return nodes * padded<T>(m.inputs()) + 2 * m.in; }

  Quantities(const EquivariantMaps& m, const NodeInputs<T>& e, T* scratch)
      : ldx(padded<T>(m.inputs())), x(scratch), of_event(scratch + e.nodes * ldx) {
    std::fill(of_event, of_event + 2 * m.in, T(0));
    const T weight = row_weight(e);
    for (int64_t i = 0; i < e.nodes; ++i) {
      T* row = x + i * ldx;
      for (int64_t q = 0; q < m.quantities; ++q) {
        const T *from = e.quantities[q] + i * m.in, shift_by = q == Diagonal ? T(1) : weight;
        for (int64_t c = 0; c < m.in; ++c) row[q * m.in + c] = from[c] * e.scale[c] + shift_by * e.shift[c];
      }
      const T own = e.weights ? e.weights[i] : T(1);
      add_scaled(of_event, row, own, std::min<int64_t>(m.quantities, 2) * m.in);  // diagonal, rows -> trace, total
    }
  }

  const T* of(int64_t quantity, int64_t in) const { return of_event + (quantity - Trace) * in; }

  // Sum of the weights over the pairs of a row.
  static T row_weight(const NodeInputs<T>& e) {
    if (!e.weights) return T(e.nodes);
    T sum = T(0);
    for (int64_t i = 0; i < e.nodes; ++i) sum += e.weights[i];
    return sum;
  }
};

// M (inputs, ld) with `transpose` false, or its transpose (outputs, ld).
template <class T>
static inline void event_matrix(const EquivariantMaps& m, const NodeInputs<T>& e, bool transpose, T* matrix,
                                int64_t ld) {
  std::fill(matrix, matrix + (transpose ? m.outputs() : m.inputs()) * ld, T(0));
  for (int64_t k = 0; k < int64_t(m.maps.size()); ++k) {
    const EquivariantMap& map = m.maps[k];
    if (!map.takes_part() || !map.of_nodes()) continue;
    const T* factors = e.factors + k * m.in;
    const int64_t row = map.quantity * m.in, column = map.target * m.out;
    if (transpose)
      for (int64_t s = 0; s < m.out; ++s) {
        const T* from = e.coefficients_t + (k * m.out + s) * m.in;
        T* to = matrix + (column + s) * ld + row;
        for (int64_t c = 0; c < m.in; ++c) to[c] += factors[c] * from[c];
      }
    else
      for (int64_t c = 0; c < m.in; ++c)
        add_scaled(matrix + (row + c) * ld + column, e.coefficients + (k * m.in + c) * m.out, factors[c], m.out);
  }
}

// Numbers of scratch memory that `map_nodes` and its backward pass need, whatever they hold.
template <class T>
int64_t map_nodes_scratch(const EquivariantMaps& m, int64_t nodes, bool backward) {
  const int64_t ldx = padded<T>(m.inputs()), ldy = padded<T>(m.outputs());
  const int64_t tables = Quantities<T>::size(m, nodes) + nodes * ldy + m.inputs() * ldy + ldy;
  return backward ? tables + nodes * ldx + m.outputs() * ldx + 2 * m.in : tables;
}

// The targets of an event: (nodes, out) each, or u (out) if no map is of nodes.
template <class T>
void map_nodes(const EquivariantMaps& m, const NodeInputs<T>& e, T* const* targets, T* scratch) {
  const Quantities<T> given(m, e, scratch);
  const int64_t ldx = given.ldx, ldy = padded<T>(m.outputs());
  T* y = scratch + Quantities<T>::size(m, e.nodes);
  T *matrix = y + e.nodes * ldy, *common = matrix + m.inputs() * ldy;
  std::fill(common, common + ldy, T(0));
  std::copy(e.bias, e.bias + m.outputs(), common);
  for (int64_t k = 0; k < int64_t(m.maps.size()); ++k) {
    const EquivariantMap& map = m.maps[k];
    if (!map.takes_part() || map.of_nodes()) continue;
    const T *value = given.of(map.quantity, m.in), *factors = e.factors + k * m.in;
    for (int64_t c = 0; c < m.in; ++c)
      add_scaled(common + map.target * m.out, e.coefficients + (k * m.in + c) * m.out, value[c] * factors[c], m.out);
  }
  if (!m.any_of_nodes) {
    std::copy(common, common + m.out, targets[0]);
    return;
  }
  event_matrix(m, e, false, matrix, ldy);
  NothingAhead nothing;
  tile_product<T>(
      given.x, ldx, 1, e.nodes, m.inputs(), matrix, ldy, ldy, for_each_vector<T>([=](int64_t r, int64_t c, auto sum) {
        Simd<T>::store(y + r * ldy + c, sum + Simd<T>::load(common + c));
      }),
      nothing);
  for (int64_t i = 0; i < e.nodes; ++i)
    for (int64_t t = 0; t < m.targets; ++t)
      std::copy(y + i * ldy + t * m.out, y + i * ldy + (t + 1) * m.out, targets[t] + i * m.out);
}

// Adds to the gradients of factors (times log(n / nbar)) and coefficients of row c of map k what the gradient `to` of
// value * factor * coefficients gives, for value = 1 or included in `to`.
template <class T>
static inline void add_gradients_of_map(const EquivariantMaps& m, const NodeInputs<T>& e, int64_t k, int64_t c,
                                        const T* to, T value, T log_n, const SharedGradients<T>& sums) {
  const int64_t row = k * m.in + c;
  const T factor = e.factors[row];
  add_scaled(sums.coefficients + row * m.out, to, value * factor, m.out);
  if (m.maps[k].exponent >= 0)
    sums.factors_times_log[row] += value * factor * log_n * dot(e.coefficients + row * m.out, to, m.out);
}

// Gradients of an event: of its quantities (nodes, in) each, and of what all events share, which is added to `sums`.
// grads: of the targets. log_n: log(n / nbar).
template <class T>
void map_nodes_backward(const EquivariantMaps& m, const NodeInputs<T>& e, const T* const* grads, T log_n,
                        T* const* grad_quantities, const SharedGradients<T>& sums, T* scratch) {
  const Quantities<T> given(m, e, scratch);
  const int64_t ldx = given.ldx, ldy = padded<T>(m.outputs()), in = m.in;
  T* grad_y = scratch + Quantities<T>::size(m, e.nodes);
  T *matrix = grad_y + e.nodes * ldy, *common = matrix + m.inputs() * ldy;
  T *grad_x = common + ldy, *transposed = grad_x + e.nodes * ldx, *of_event = transposed + m.outputs() * ldx;

  // gradients of the rows, and their sums: those of what the event adds to every row
  std::fill(common, common + ldy, T(0));
  if (m.any_of_nodes)
    for (int64_t i = 0; i < e.nodes; ++i) {
      T* row = grad_y + i * ldy;
      for (int64_t t = 0; t < m.targets; ++t)
        std::copy(grads[t] + i * m.out, grads[t] + (i + 1) * m.out, row + t * m.out);
      std::fill(row + m.outputs(), row + ldy, T(0));
      add_scaled(common, row, T(1), ldy);
    }
  else
    std::copy(grads[0], grads[0] + m.out, common);
  add_scaled(sums.bias, common, T(1), m.outputs());

  // maps of the event's own quantities
  std::fill(of_event, of_event + 2 * in, T(0));
  for (int64_t k = 0; k < int64_t(m.maps.size()); ++k) {
    const EquivariantMap& map = m.maps[k];
    if (!map.takes_part() || map.of_nodes()) continue;
    const T *to = common + map.target * m.out, *value = given.of(map.quantity, in);
    T* grad = of_event + (map.quantity - Trace) * in;
    for (int64_t c = 0; c < in; ++c) {
      grad[c] += e.factors[k * in + c] * dot(e.coefficients + (k * in + c) * m.out, to, m.out);
      add_gradients_of_map(m, e, k, c, to, value[c], log_n, sums);
    }
  }

  // maps of nodes
  NothingAhead nothing;
  if (m.any_of_nodes) {
    tile_product<T>(given.x, 1, ldx, m.inputs(), e.nodes, grad_y, ldy, ldy, write_to(matrix, ldy), nothing);
    for (int64_t k = 0; k < int64_t(m.maps.size()); ++k) {
      const EquivariantMap& map = m.maps[k];
      if (!map.takes_part() || !map.of_nodes()) continue;
      for (int64_t c = 0; c < in; ++c)
        add_gradients_of_map(
            m, e, k, c, matrix + (map.quantity * in + c) * ldy + map.target * m.out, T(1), log_n, sums);
    }
    event_matrix(m, e, true, transposed, ldx);
    tile_product<T>(grad_y, ldy, 1, e.nodes, m.outputs(), transposed, ldx, ldx, write_to(grad_x, ldx), nothing);
  } else {
    std::fill(grad_x, grad_x + e.nodes * ldx, T(0));
  }

  // of the quantities before scale and shift
  const T weight = Quantities<T>::row_weight(e);
  for (int64_t i = 0; i < e.nodes; ++i) {
    T* row = grad_x + i * ldx;
    add_scaled(row, of_event, e.weights ? e.weights[i] : T(1), std::min<int64_t>(m.quantities, 2) * in);
    for (int64_t q = 0; q < m.quantities; ++q) {
      const T *from = e.quantities[q] + i * in, shift_by = q == Diagonal ? T(1) : weight, *g = row + q * in;
      T* to = grad_quantities[q] + i * in;
      for (int64_t c = 0; c < in; ++c) {
        sums.scale[c] += g[c] * from[c];
        sums.shift[c] += g[c] * shift_by;
        to[c] = g[c] * e.scale[c];
      }
    }
  }
}
