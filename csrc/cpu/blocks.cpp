// The blocks of a network for inference, a few events at a time; defined in src/puffin/ops/pair_blocks.py. The tables
// of these events stay in the cache from the first block to the last. Only the input and the output of all blocks are
// tables of the whole batch.
#include "events.h"
#include "operators.h"
#include "table_types.h"

#include <cstring>

namespace puffin {
namespace {

// Copies the pairs of group g from a table of the batch to one of its own, or back; row: bytes of a pair.
void copy_group(const Events& events, int64_t g, char* batch, char* own, int64_t row, bool back) {
  const Group<char> group(batch, events, g, row);
  const auto copy = [&](char* outside, int64_t pairs) {
    if (pairs * row > 0) std::memcpy(back ? outside : own, back ? own : outside, pairs * row);  // else both may be null
    own += pairs * row;
  };
  copy(group.diagonal, group.nodes);
  copy(group.upper, group.uppers);
  copy(group.lower, group.uppers);
}

// Values first..last of a pointer, from 0.
Tensor part_of_pointer(const Tensor& like, const int64_t* pointer, int64_t first, int64_t last) {
  Tensor part = new_index(like, {last - first + 1});
  int64_t* to = part.mutable_data_ptr<int64_t>();
  for (int64_t b = first; b <= last; ++b) *to++ = pointer[b] - pointer[first];
  return part;
}

// Rows first..last of a contiguous tensor of numbers of type T, (rows, 1) or (rows,).
template <class T>
Tensor part_of_rows(const Tensor& x, int64_t first, int64_t last) {
  Tensor part =
      x.dim() == 2 ? new_tensor(x, {last - first, 1}, x.scalar_type()) : new_tensor(x, {last - first}, x.scalar_type());
  std::copy(x.const_data_ptr<T>() + first, x.const_data_ptr<T>() + last, part.mutable_data_ptr<T>());
  return part;
}

}  // namespace

Tensor pair_blocks(
    const Tensor x_in, const std::vector<Tensor> message_weights, const std::vector<Tensor> message_biases,
    const std::vector<Tensor> scales, const std::vector<Tensor> shifts, const std::vector<Tensor> coefficients,
    const std::vector<Tensor> alphas, const std::vector<Tensor> biases, const std::vector<Tensor> diagonal_biases,
    const std::optional<Tensor> weights_in, const Tensor multiplicity_in, const Tensor node_ptr, const Tensor upper_ptr,
    const std::vector<int64_t> maps, double message_slope, double mix_slope, double nbar) {
  const Events events(node_ptr, upper_ptr);
  check_table(x_in, {events.pairs(), any}, "x");
  const size_t count = message_weights.size();
  STD_TORCH_CHECK(count > 0 && message_biases.size() == count && scales.size() == count && shifts.size() == count &&
                      coefficients.size() == count && alphas.size() == count && biases.size() == count &&
                      (diagonal_biases.empty() || diagonal_biases.size() == count),
                  "expected the same number of tensors of each kind, one for each block");
  STD_TORCH_CHECK(coefficients.back().dim() == 3, "coefficients: expected (maps, in, out)");
  check_tensor(multiplicity_in, {events.count, 1}, type_of_sums(x_in), "multiplicity");
  const Tensor x = torch::stable::contiguous(x_in), multiplicity = torch::stable::contiguous(multiplicity_in);
  const std::optional<Tensor> weights = checked_weights(weights_in, events, type_of_sums(x));
  const int64_t out = coefficients.back().size(2);
  Tensor result = new_tensor(x, {events.pairs(), out}, x.scalar_type());
  char* const from = const_cast<char*>(static_cast<const char*>(x.const_data_ptr()));
  char* const to = static_cast<char*>(result.mutable_data_ptr());
  for_each_task(events.num_groups(), [&](int64_t g) {
    const int64_t first = events.groups[g], last = events.groups[g + 1];
    const int64_t start = events.node[first], nodes = events.node[last] - start;
    const Tensor own_nodes = part_of_pointer(node_ptr, events.node, first, last);
    const Tensor own_uppers = part_of_pointer(node_ptr, events.upper, first, last);
    Tensor table = new_tensor(x, {events.pairs_of(g), x.size(1)}, x.scalar_type());
    const int64_t size = x.scalar_type() == ScalarType::BFloat16 ? 2 : x.scalar_type() == ScalarType::Float ? 4 : 8;
    copy_group(events, g, from, static_cast<char*>(table.mutable_data_ptr()), x.size(1) * size, false);
    std::optional<Tensor> own_weights;
    Tensor n = multiplicity;
    for_float_type(multiplicity, [&](auto number) {
      using T = decltype(number);
      n = part_of_rows<T>(multiplicity, first, last);
      if (weights) own_weights = part_of_rows<T>(*weights, start, start + nodes);
    });
    for (size_t k = 0; k < count; ++k) {
      const auto [values, mean, variance, diagonal, rows, columns] = pair_message(
          table, message_weights[k], message_biases[k], message_slope, own_weights, own_nodes, own_uppers, nodes);
      table = values;  // so that the result of the mix takes the memory of the input, which is in the cache
      std::optional<Tensor> diagonal_bias;
      if (!diagonal_biases.empty()) diagonal_bias = diagonal_biases[k];
      const auto [targets, even, odd, factors] =
          equivariant_nodes({diagonal, rows, columns}, scales[k], shifts[k], coefficients[k], alphas[k], biases[k],
                            diagonal_bias, own_weights, n, own_nodes, maps, true, nbar);
      STD_TORCH_CHECK(targets.size() >= 2, "maps: expected maps to u and v");
      std::optional<Tensor> w;
      if (targets.size() > 2) w = targets[2];
      table = pair_mix(values, even, odd, targets[0], targets[1], w, own_nodes, own_uppers, mix_slope);
    }
    copy_group(events, g, to, static_cast<char*>(table.mutable_data_ptr()), out * size, true);
  });
  return result;
}

}  // namespace puffin

STABLE_TORCH_LIBRARY_IMPL(puffin, CPU, m) { m.impl("pair_blocks", TORCH_BOX(&puffin::pair_blocks)); }
