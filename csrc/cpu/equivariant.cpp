// The small products on nodes of the equivariant layers on the CPU; defined in src/puffin/ops/equivariant_nodes.py. A
// task is a group of whole events. The groups depend only on the sizes of the events, and their sums are added in
// order, so that no result depends on the number of threads.
#include "equivariant_maps.h"
#include "table_types.h"
#define PUFFIN_KERNEL "equivariant_kernel.h"
#include "targets.h"

#include "checks.h"
#include "parallel.h"

#include <array>
#include <cmath>

namespace puffin {
namespace {

constexpr int64_t group_nodes = 128;  // in a group, at least
constexpr int64_t numbers_per_map = 5;

// The arguments that forward and backward pass share, checked.
struct Arguments {
  EquivariantMaps maps;
  int64_t nodes, events;
  bool pairs;  // whether the first two coefficients are of the pair and of its transpose
  double nbar;
  std::vector<Tensor> quantities;
  Tensor scale, shift, coefficients, alphas, multiplicity, node_ptr;
  std::optional<Tensor> weights;
  std::vector<int64_t> groups{0};  // first event of each group, and the end

  Arguments(const std::vector<Tensor>& quantities_in, const Tensor& scale_in, const Tensor& shift_in,
            const Tensor& coefficients_in, const Tensor& alphas_in, const std::optional<Tensor>& weights_in,
            const Tensor& multiplicity_in, const Tensor& node_ptr_in, const std::vector<int64_t>& table, bool pairs_in,
            double nbar_in)
      : pairs(pairs_in),
        nbar(nbar_in),
        scale(torch::stable::contiguous(scale_in)),
        shift(torch::stable::contiguous(shift_in)),
        coefficients(torch::stable::contiguous(coefficients_in)),
        alphas(torch::stable::contiguous(alphas_in)),
        multiplicity(torch::stable::contiguous(multiplicity_in)),
        node_ptr(torch::stable::contiguous(node_ptr_in)),
        weights(contiguous(weights_in)) {
    STD_TORCH_CHECK(quantities_in.size() == 1 || quantities_in.size() == 3, "quantities: expected one or three");
    for (const Tensor& x : quantities_in) quantities.push_back(torch::stable::contiguous(x));
    nodes = quantities[0].size(0);
    check_floating(quantities[0], "quantities");
    check(coefficients, {any, any, any}, "coefficients");
    maps.in = coefficients.size(1);
    maps.out = coefficients.size(2);
    maps.quantities = int64_t(quantities.size());
    for (const Tensor& x : quantities) check(x, {nodes, maps.in}, "quantities");
    check(scale, {maps.in}, "scale");
    check(shift, {maps.in}, "shift");
    check(alphas, {maps.in, any}, "alphas");
    if (weights) check(*weights, {nodes}, "weights");
    read_table(table);
    const int64_t* first = checked_ptr(node_ptr, nodes);
    events = node_ptr.size(0) - 1;
    check(multiplicity, {events, 1}, "multiplicity");
    for (int64_t b = 0; b < events; ++b)
      if (first[b + 1] - first[groups.back()] >= group_nodes || b + 1 == events) groups.push_back(b + 1);
  }

  void check(const Tensor& x, std::initializer_list<int64_t> sizes, const char* name) const {
    check_tensor(x, sizes, quantities[0].scalar_type(), name);
  }

  const int64_t* ptr() const { return node_ptr.const_data_ptr<int64_t>(); }
  int64_t num_groups() const { return int64_t(groups.size()) - 1; }
  int64_t num_maps() const { return int64_t(maps.maps.size()); }
  int64_t rows_of_targets() const { return maps.any_of_nodes ? nodes : events; }

 private:
  void read_table(const std::vector<int64_t>& table) {
    const int64_t count = coefficients.size(0), columns = alphas.size(1);
    STD_TORCH_CHECK(int64_t(table.size()) == count * numbers_per_map, "maps: expected five numbers for each map");
    STD_TORCH_CHECK(!pairs || count >= 2, "pairs: expected at least two maps");
    maps.targets = 1;
    maps.any_of_nodes = false;
    for (int64_t k = 0; k < count; ++k) {
      const int64_t* p = table.data() + k * numbers_per_map;
      const EquivariantMap map{p[0], p[1], p[2], p[3], p[4]};
      STD_TORCH_CHECK(map.target >= -1 && map.target < 3 && map.exponent >= -1 && map.exponent < columns &&
                          map.quantity >= Diagonal && map.quantity <= Total &&
                          (maps.quantities == 3 || map.quantity == Diagonal || map.quantity == Trace),
                      "maps: expected targets, quantities and exponents that exist, got another for map ", k);
      maps.targets = std::max(maps.targets, map.target + 1);
      maps.any_of_nodes = maps.any_of_nodes || (map.takes_part() && map.of_nodes());
      maps.maps.push_back(map);
    }
    STD_TORCH_CHECK(maps.any_of_nodes || maps.targets == 1, "maps: expected u alone if no map is of nodes");
  }
};

// What the kernel reads, for the whole batch.
template <class T>
struct Batch {
  const Arguments& arguments;
  std::vector<T> transposed;
  NodeInputs<T> inputs;

  Batch(const Arguments& a, const T* factors, const T* bias) : arguments(a) {
    inputs.nodes = a.nodes;
    for (size_t q = 0; q < a.quantities.size(); ++q)
      inputs.quantities[q] = a.quantities[q].template const_data_ptr<T>();
    inputs.scale = a.scale.template const_data_ptr<T>();
    inputs.shift = a.shift.template const_data_ptr<T>();
    inputs.weights = data_or_null<T>(a.weights);
    inputs.coefficients = a.coefficients.template const_data_ptr<T>();
    inputs.factors = factors;
    inputs.bias = bias;
  }
  Batch(const Batch&) = delete;

  // Also prepares what only the backward pass needs.
  void transpose() {
    const int64_t in = arguments.maps.in, out = arguments.maps.out;
    transposed.resize(arguments.num_maps() * in * out);
    for (int64_t k = 0; k < arguments.num_maps(); ++k)
      for (int64_t s = 0; s < out; ++s)
        for (int64_t c = 0; c < in; ++c)
          transposed[(k * out + s) * in + c] = inputs.coefficients[(k * in + c) * out + s];
    inputs.coefficients_t = transposed.data();
  }

  // Calls fn(event, inputs of the event, index of its first row in the targets, scratch memory) for all events.
  template <class F>
  void for_each(bool backward, const F& fn) const {
    const int64_t* first = arguments.ptr();
    for_each_task(arguments.num_groups(), [&](int64_t g) {
      std::vector<T> scratch;
      for (int64_t b = arguments.groups[g]; b < arguments.groups[g + 1]; ++b) {
        NodeInputs<T> event = inputs;
        event.nodes = first[b + 1] - first[b];
        for (int64_t q = 0; q < arguments.maps.quantities; ++q) event.quantities[q] += first[b] * arguments.maps.in;
        if (event.weights) event.weights += first[b];
        event.factors += b * arguments.num_maps() * arguments.maps.in;
        const size_t size = baseline::map_nodes_scratch<T>(arguments.maps, event.nodes, backward);
        if (scratch.size() < size) scratch.resize(size);
        fn(g, b, event, arguments.maps.any_of_nodes ? first[b] : b, scratch.data());
      }
    });
  }
};

// (n / nbar)^alpha / (nbar^by_nbar n^by_n): (events, maps, in)
template <class T>
void write_factors(const Arguments& a, T* factors) {
  const T *n = a.multiplicity.template const_data_ptr<T>(), *alphas = a.alphas.template const_data_ptr<T>();
  const int64_t columns = a.alphas.size(1);
  for (int64_t b = 0; b < a.events; ++b) {
    const T log_n = std::log(n[b] / T(a.nbar));
    for (const EquivariantMap& map : a.maps.maps) {
      const double divisor = std::pow(a.nbar, double(map.by_nbar)) * std::pow(double(n[b]), double(map.by_n));
      for (int64_t c = 0; c < a.maps.in; ++c) {
        const T power = map.exponent < 0 ? T(1) : std::exp(alphas[c * columns + map.exponent] * log_n);
        *factors++ = power / T(divisor);
      }
    }
  }
}

// Even and odd weights of the pairs (in, out), and adds what the shift of the pairs gives to the bias of u (out).
template <class T>
void mix_pairs(const Batch<T>& batch, T* even, T* odd, T* bias) {
  const int64_t in = batch.arguments.maps.in, out = batch.arguments.maps.out;
  const T *direct = batch.inputs.coefficients, *other = direct + in * out;
  for (int64_t c = 0; c < in; ++c)
    for (int64_t s = 0; s < out; ++s) {
      const int64_t k = c * out + s;
      even[k] = batch.inputs.scale[c] * (direct[k] + other[k]) / T(2);
      odd[k] = batch.inputs.scale[c] * (direct[k] - other[k]) / T(2);
      bias[s] += batch.inputs.shift[c] * (direct[k] + other[k]);
    }
}

// The gradients through `mix_pairs`: those of the coefficients are written, those of scale and shift added.
template <class T>
void mix_pairs_backward(const Batch<T>& batch, const T* even, const T* odd, const T* bias, T* coefficients, T* scale,
                        T* shift) {
  const int64_t in = batch.arguments.maps.in, out = batch.arguments.maps.out;
  const T *direct = batch.inputs.coefficients, *other = direct + in * out;
  for (int64_t c = 0; c < in; ++c)
    for (int64_t s = 0; s < out; ++s) {
      const int64_t k = c * out + s;
      const T by_scale = batch.inputs.scale[c] / T(2), of_shift = batch.inputs.shift[c] * bias[s];
      coefficients[k] = by_scale * (even[k] + odd[k]) + of_shift;
      coefficients[in * out + k] = by_scale * (even[k] - odd[k]) + of_shift;
      scale[c] += (even[k] * (direct[k] + other[k]) + odd[k] * (direct[k] - other[k])) / T(2);
      shift[c] += bias[s] * (direct[k] + other[k]);
    }
}

}  // namespace

std::tuple<std::vector<Tensor>, Tensor, Tensor, Tensor> equivariant_nodes(
    const std::vector<Tensor> quantities, const Tensor scale, const Tensor shift, const Tensor coefficients,
    const Tensor alphas, const Tensor bias_in, const std::optional<Tensor> diagonal_bias_in,
    const std::optional<Tensor> weights, const Tensor multiplicity, const Tensor node_ptr,
    const std::vector<int64_t> table, bool pairs, double nbar) {
  const Arguments a(
      quantities, scale, shift, coefficients, alphas, weights, multiplicity, node_ptr, table, pairs, nbar);
  const EquivariantMaps& maps = a.maps;
  const Tensor bias = torch::stable::contiguous(bias_in);
  const std::optional<Tensor> diagonal_bias = contiguous(diagonal_bias_in);
  a.check(bias, {maps.out}, "bias");
  STD_TORCH_CHECK(!diagonal_bias || maps.targets == 3, "diagonal_bias: expected a map to w");
  if (diagonal_bias) a.check(*diagonal_bias, {maps.out}, "diagonal_bias");
  const ScalarType type = a.coefficients.scalar_type();
  std::vector<Tensor> targets;
  for (int64_t t = 0; t < maps.targets; ++t)
    targets.push_back(new_tensor(a.coefficients, {a.rows_of_targets(), maps.out}, type));
  Tensor even = new_tensor(a.coefficients, {pairs ? maps.in : 0, maps.out}, type);
  Tensor odd = torch::stable::empty_like(even);
  Tensor factors = new_tensor(a.coefficients, {a.events, a.num_maps(), maps.in}, type);
  for_float_type(a.coefficients, [&](auto number) {
    using T = decltype(number);
    std::vector<T> offset(maps.outputs(), T(0));
    std::copy(bias.const_data_ptr<T>(), bias.const_data_ptr<T>() + maps.out, offset.begin());
    if (diagonal_bias)
      std::copy(
          diagonal_bias->const_data_ptr<T>(), diagonal_bias->const_data_ptr<T>() + maps.out, offset.end() - maps.out);
    write_factors(a, factors.mutable_data_ptr<T>());
    const Batch<T> batch(a, factors.const_data_ptr<T>(), offset.data());
    if (pairs) mix_pairs(batch, even.mutable_data_ptr<T>(), odd.mutable_data_ptr<T>(), offset.data());
    std::array<T*, 3> to{};
    for (int64_t t = 0; t < maps.targets; ++t) to[t] = targets[t].mutable_data_ptr<T>();
    batch.for_each(false, [&](int64_t, int64_t, const NodeInputs<T>& event, int64_t row, T* scratch) {
      std::array<T*, 3> at{};
      for (int64_t t = 0; t < maps.targets; ++t) at[t] = to[t] + row * maps.out;
      PUFFIN_CALL(map_nodes<T>, maps, event, at.data(), scratch);
    });
  });
  return {targets, even, odd, factors};
}

std::tuple<std::vector<Tensor>, Tensor, Tensor, Tensor, Tensor, Tensor> equivariant_nodes_backward(
    const std::vector<Tensor> grads_in, const Tensor grad_even_in, const Tensor grad_odd_in, const Tensor factors_in,
    const std::vector<Tensor> quantities, const Tensor scale, const Tensor shift, const Tensor coefficients,
    const Tensor alphas, const std::optional<Tensor> weights, const Tensor multiplicity, const Tensor node_ptr,
    const std::vector<int64_t> table, bool pairs, double nbar) {
  const Arguments a(
      quantities, scale, shift, coefficients, alphas, weights, multiplicity, node_ptr, table, pairs, nbar);
  const EquivariantMaps& maps = a.maps;
  const Tensor factors = torch::stable::contiguous(factors_in);
  a.check(factors, {a.events, a.num_maps(), maps.in}, "factors");
  STD_TORCH_CHECK(int64_t(grads_in.size()) == maps.targets, "grads: expected one for each target");
  std::vector<Tensor> grads, grad_quantities;
  for (const Tensor& grad : grads_in) {
    a.check(grad, {a.rows_of_targets(), maps.out}, "grads");
    grads.push_back(torch::stable::contiguous(grad));
  }
  const Tensor grad_even = torch::stable::contiguous(grad_even_in), grad_odd = torch::stable::contiguous(grad_odd_in);
  a.check(grad_even, {pairs ? maps.in : 0, maps.out}, "grad_even");
  a.check(grad_odd, {pairs ? maps.in : 0, maps.out}, "grad_odd");
  for (const Tensor& x : a.quantities) grad_quantities.push_back(torch::stable::empty_like(x));
  const ScalarType type = a.coefficients.scalar_type();
  const int64_t columns = a.alphas.size(1);
  Tensor grad_coefficients = torch::stable::empty_like(a.coefficients);
  Tensor grad_scale = torch::stable::empty_like(a.scale), grad_shift = torch::stable::empty_like(a.shift);
  Tensor grad_alphas = torch::stable::empty_like(a.alphas);
  Tensor grad_bias = new_tensor(a.coefficients, {maps.targets, maps.out}, type);
  for_float_type(a.coefficients, [&](auto number) {
    using T = decltype(number);
    Batch<T> batch(a, factors.const_data_ptr<T>(), nullptr);
    batch.transpose();
    const int64_t size = SharedGradients<T>::size(maps);
    std::vector<T> parts(std::max<int64_t>(a.num_groups(), 1) * size, T(0));
    const T* n = a.multiplicity.const_data_ptr<T>();
    batch.for_each(true, [&](int64_t g, int64_t b, const NodeInputs<T>& event, int64_t row, T* scratch) {
      std::array<const T*, 3> from{};
      std::array<T*, 3> to{};
      for (int64_t t = 0; t < maps.targets; ++t) from[t] = grads[t].const_data_ptr<T>() + row * maps.out;
      for (int64_t q = 0; q < maps.quantities; ++q)
        to[q] = grad_quantities[q].mutable_data_ptr<T>() + a.ptr()[b] * maps.in;
      PUFFIN_CALL(map_nodes_backward<T>, maps, event, from.data(), std::log(n[b] / T(nbar)), to.data(),
                  SharedGradients<T>(parts.data() + g * size, maps), scratch);
    });
    for (int64_t k = 0; k < size; ++k) {
      double sum = 0.0;
      for (int64_t g = 0; g < a.num_groups(); ++g) sum += double(parts[g * size + k]);
      parts[k] = T(sum);
    }
    const SharedGradients<T> sums(parts.data(), maps);
    if (pairs)
      mix_pairs_backward(batch, grad_even.const_data_ptr<T>(), grad_odd.const_data_ptr<T>(), sums.bias,
                         sums.coefficients, sums.scale, sums.shift);
    T* to_alphas = grad_alphas.mutable_data_ptr<T>();
    std::fill(to_alphas, to_alphas + maps.in * columns, T(0));
    for (int64_t k = 0; k < a.num_maps(); ++k)
      if (maps.maps[k].exponent >= 0)
        for (int64_t c = 0; c < maps.in; ++c)
          to_alphas[c * columns + maps.maps[k].exponent] += sums.factors_times_log[k * maps.in + c];
    std::copy(sums.coefficients, sums.factors_times_log, grad_coefficients.mutable_data_ptr<T>());
    std::copy(sums.scale, sums.shift, grad_scale.mutable_data_ptr<T>());
    std::copy(sums.shift, sums.bias, grad_shift.mutable_data_ptr<T>());
    std::copy(sums.bias, sums.bias + maps.outputs(), grad_bias.mutable_data_ptr<T>());
  });
  return {grad_quantities, grad_scale, grad_shift, grad_coefficients, grad_alphas, grad_bias};
}

}  // namespace puffin

STABLE_TORCH_LIBRARY_IMPL(puffin, CPU, m) {
  m.impl("equivariant_nodes", TORCH_BOX(&puffin::equivariant_nodes));
  m.impl("equivariant_nodes_backward", TORCH_BOX(&puffin::equivariant_nodes_backward));
}
