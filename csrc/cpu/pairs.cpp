// Packed pairs on the CPU; defined in src/puffin/ops/pairs.py. A task is a group of whole events. The groups depend
// only on the sizes of the events, so that no sum depends on the number of threads.
#define PUFFIN_KERNEL "pairs_kernel.h"
#define PUFFIN_TABLES
#include "targets.h"

#include "events.h"
#include "matrix.h"

#include <vector>

namespace puffin {
std::tuple<Tensor, Tensor, Tensor> pair_reduce(const Tensor x_in, const std::optional<Tensor> weights_in,
                                               const Tensor node_ptr, const Tensor upper_ptr, int64_t num_nodes) {
  const Events events(node_ptr, upper_ptr);
  STD_TORCH_CHECK(num_nodes == events.nodes, "num_nodes: does not fit node_ptr");
  check_table(x_in, {events.pairs(), any}, "x");
  const Tensor x = torch::stable::contiguous(x_in);
  const std::optional<Tensor> weights = checked_weights(weights_in, events, type_of_sums(x));
  const int64_t channels = x.size(1);
  Tensor diagonal = new_tensor(x, {events.nodes, channels}, type_of_sums(x));
  Tensor rows = torch::stable::empty_like(diagonal), columns = torch::stable::empty_like(diagonal);
  for_table_type(x, [&](auto type) {
    using E = decltype(type);
    using T = baseline::Sum<E>;
    const E* px = table_data<E>(x);
    const T* pw = data_or_null<T>(weights);
    T *pd = diagonal.mutable_data_ptr<T>(), *pr = rows.mutable_data_ptr<T>(), *pc = columns.mutable_data_ptr<T>();
    events.for_each([&](int64_t b) {
      const Blocks<const E> at(px, events, b, channels);
      const int64_t first = events.node[b];
      PUFFIN_TABLE_CALL(E, reduce_event<E>, at.diagonal, at.upper, at.lower, pw ? pw + first : nullptr, events.size(b),
                        channels, pd + first * channels, pr + first * channels, pc + first * channels);
    });
  });
  return {diagonal, rows, columns};
}

Tensor pair_expand(const Tensor u_in, const Tensor v_in, const std::optional<Tensor> d_in,
                   const std::optional<Tensor> weights_in, const std::optional<Tensor> base_in, const Tensor node_ptr,
                   const Tensor upper_ptr, int64_t num_upper) {
  const Events events(node_ptr, upper_ptr);
  STD_TORCH_CHECK(num_upper == events.uppers, "num_upper: does not fit upper_ptr");
  if (base_in) check_table(*base_in, {events.pairs(), any}, "base");
  check_table(u_in, {events.nodes, base_in ? base_in->size(1) : any}, "u");
  const int64_t channels = u_in.size(1);
  const ScalarType sums = type_of_sums(base_in ? *base_in : u_in);
  for (const Tensor& t : {u_in, v_in, d_in.value_or(u_in)}) check_tensor(t, {events.nodes, channels}, sums, "u, v, w");
  const Tensor u = torch::stable::contiguous(u_in), v = torch::stable::contiguous(v_in);
  const std::optional<Tensor> d = contiguous(d_in), weights = checked_weights(weights_in, events, u.scalar_type());
  const std::optional<Tensor> base = contiguous(base_in);
  const Tensor& like = base ? *base : u;
  Tensor out = new_tensor(u, {events.pairs(), channels}, like.scalar_type());
  for_table_type(like, [&](auto type) {
    using E = decltype(type);
    using T = baseline::Sum<E>;
    const T *pu = u.const_data_ptr<T>(), *pv = v.const_data_ptr<T>();
    const T *pd = data_or_null<T>(d), *pw = data_or_null<T>(weights);
    const E* pb = base ? table_data<E>(*base) : nullptr;
    E* po = mutable_table_data<E>(out);
    events.for_each([&](int64_t b) {
      const Blocks<E> at(po, events, b, channels);
      const Blocks<const E> on = pb ? Blocks<const E>(pb, events, b, channels) : Blocks<const E>();
      const int64_t first = events.node[b];
      PUFFIN_TABLE_CALL(E, expand_event<E>, pu + first * channels, pv + first * channels,
                        pd ? pd + first * channels : nullptr, pw ? pw + first : nullptr, events.size(b), channels,
                        on.diagonal, on.upper, on.lower, at.diagonal, at.upper, at.lower);
    });
  });
  return out;
}

Tensor pair_mix(const Tensor x_in, const Tensor even_in, const Tensor odd_in, const Tensor u_in, const Tensor v_in,
                const std::optional<Tensor> d_in, const Tensor node_ptr, const Tensor upper_ptr, double slope) {
  const Events events(node_ptr, upper_ptr);
  check_table(x_in, {events.pairs(), any}, "x");
  check_slope(slope);
  const ScalarType sums = type_of_sums(x_in);
  check_tensor(even_in, {x_in.size(1), any}, sums, "even");
  const int64_t in = x_in.size(1), out = even_in.size(1);
  check_tensor(odd_in, {in, out}, sums, "odd");
  for (const Tensor& t : {u_in, v_in, d_in.value_or(u_in)}) check_tensor(t, {events.nodes, out}, sums, "u, v, w");
  const Tensor x = torch::stable::contiguous(x_in), even = torch::stable::contiguous(even_in);
  const Tensor odd = torch::stable::contiguous(odd_in), u = torch::stable::contiguous(u_in);
  const Tensor v = torch::stable::contiguous(v_in);
  const std::optional<Tensor> d = contiguous(d_in);
  Tensor result = new_tensor(x, {events.pairs(), out}, x.scalar_type());
  for_table_type(x, [&](auto type) {
    using E = decltype(type);
    using T = baseline::Sum<E>;
    const std::vector<T> a = pad_matrix_for<E>(even, false), b = pad_matrix_for<E>(odd, false);
    const E* px = table_data<E>(x);
    const T *pu = u.const_data_ptr<T>(), *pv = v.const_data_ptr<T>(), *pd = data_or_null<T>(d);
    E* po = mutable_table_data<E>(result);
    for_each_task(events.num_groups(), [&](int64_t g) {
      std::vector<T> scratch(2 * baseline::mix_tile * (in + baseline::padded<T>(out)));
      for (int64_t e = events.groups[g]; e < events.groups[g + 1]; ++e) {
        const Blocks<const E> from(px, events, e, in);
        const Blocks<E> to(po, events, e, out);
        const int64_t first = events.node[e] * out, n = events.size(e);
        PUFFIN_TABLE_CALL(
            E, mix_event<E>, in, out, a.data(), b.data(), T(slope), n, from.diagonal, from.upper, from.lower,
            pu + first, pv + first, pd ? pd + first : nullptr, to.diagonal, to.upper, to.lower, scratch.data());
      }
    });
  });
  return result;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> pair_mix_backward(
    const Tensor grad_in, const Tensor y_in, const Tensor x_in, const Tensor even_in, const Tensor odd_in,
    const Tensor node_ptr, const Tensor upper_ptr, int64_t num_nodes, double slope) {
  const Events events(node_ptr, upper_ptr);
  STD_TORCH_CHECK(num_nodes == events.nodes, "num_nodes: does not fit node_ptr");
  check_table(x_in, {events.pairs(), any}, "x");
  check_tensor(grad_in, {events.pairs(), any}, x_in.scalar_type(), "grad");
  const int64_t in = x_in.size(1), out = grad_in.size(1);
  check_tensor(y_in, {events.pairs(), out}, x_in.scalar_type(), "y");
  for (const Tensor& t : {even_in, odd_in}) check_tensor(t, {in, out}, type_of_sums(x_in), "even, odd");
  const Tensor x = torch::stable::contiguous(x_in), y = torch::stable::contiguous(y_in);
  const Tensor grad = torch::stable::contiguous(grad_in);
  const Tensor even = torch::stable::contiguous(even_in), odd = torch::stable::contiguous(odd_in);
  Tensor grad_x = torch::stable::empty_like(x);
  Tensor grad_even = torch::stable::empty_like(even), grad_odd = torch::stable::empty_like(odd);
  Tensor rows = new_tensor(x, {events.nodes, out}, type_of_sums(x));
  Tensor columns = torch::stable::empty_like(rows), diagonal = torch::stable::empty_like(rows);
  for_table_type(x, [&](auto type) {
    using E = decltype(type);
    using T = baseline::Sum<E>;
    const std::vector<T> at = pad_matrix_for<E>(even, true), bt = pad_matrix_for<E>(odd, true);
    const int64_t ldo = baseline::padded<T>(out), ldi = baseline::padded<T>(in);
    std::vector<T> parts(events.num_groups() * 2 * in * ldo, T(0));  // one for each group, summed in order below
    const E *pg = table_data<E>(grad), *py = table_data<E>(y), *px = table_data<E>(x);
    E* gx = mutable_table_data<E>(grad_x);
    T *pr = rows.mutable_data_ptr<T>(), *pc = columns.mutable_data_ptr<T>(), *pd = diagonal.mutable_data_ptr<T>();
    for_each_task(events.num_groups(), [&](int64_t g) {
      std::vector<T> scratch(2 * baseline::mix_tile * (in + ldo + ldi));
      T* part = parts.data() + g * 2 * in * ldo;
      for (int64_t e = events.groups[g]; e < events.groups[g + 1]; ++e) {
        const Blocks<const E> dy(pg, events, e, out), result(py, events, e, out), from(px, events, e, in);
        const Blocks<E> dx(gx, events, e, in);
        const int64_t first = events.node[e] * out, n = events.size(e);
        PUFFIN_TABLE_CALL(
            E, mix_event_backward<E>, in, out, at.data(), bt.data(), T(slope), n, dy.diagonal, dy.upper, dy.lower,
            result.diagonal, result.upper, result.lower, from.diagonal, from.upper, from.lower, dx.diagonal, dx.upper,
            dx.lower, pr + first, pc + first, pd + first, part, part + in * ldo, scratch.data());
      }
    });
    T *oe = grad_even.mutable_data_ptr<T>(), *oo = grad_odd.mutable_data_ptr<T>();
    for (int64_t i = 0; i < in; ++i)
      for (int64_t s = 0; s < out; ++s) {
        T a = T(0), b = T(0);
        for (int64_t g = 0; g < events.num_groups(); ++g) {
          a += parts[(g * 2 * in + i) * ldo + s];
          b += parts[(g * 2 * in + in + i) * ldo + s];
        }
        oe[i * out + s] = a;
        oo[i * out + s] = b;
      }
  });
  return {grad_x, grad_even, grad_odd, rows, columns, diagonal};
}

}  // namespace puffin

STABLE_TORCH_LIBRARY_IMPL(puffin, CPU, m) {
  m.impl("pair_reduce", TORCH_BOX(&puffin::pair_reduce));
  m.impl("pair_expand", TORCH_BOX(&puffin::pair_expand));
  m.impl("pair_mix", TORCH_BOX(&puffin::pair_mix));
  m.impl("pair_mix_backward", TORCH_BOX(&puffin::pair_mix_backward));
}
