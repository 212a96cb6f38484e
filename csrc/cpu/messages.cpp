// Linear layer, leaky ReLU and batch statistics on the CPU, and the sums of pairs with them; defined in
// src/puffin/ops/messages.py and pair_messages.py. A task is a block with a fixed number of rows, or a group of events,
// and the sums of the tasks are added in order, so that no result depends on the number of threads.
#include "events.h"

#define PUFFIN_KERNEL "messages_kernel.h"
#define PUFFIN_TABLES
#include "targets.h"

#include "matrix.h"

#include <vector>

namespace puffin {
namespace {

constexpr int64_t block_rows = 48 * 64;

int64_t num_blocks(int64_t rows) { return (rows + block_rows - 1) / block_rows; }

// Mean and biased variance (out) of all rows, from those of the tasks: rows(t) rows, and two rows of numbers at
// moments + 2 t out, means and sums of squared deviations.
template <class T, class Rows>
void merge_tasks(const std::vector<double>& moments, int64_t tasks, const Rows& rows, Tensor& mean, Tensor& variance) {
  const int64_t out = mean.size(0);
  std::vector<double> total(2 * out, 0.0);
  int64_t before = 0;
  for (int64_t t = 0; t < tasks; ++t) {
    const double *means = &moments[t * 2 * out], *deviations = means + out;
    if (rows(t) == 0) continue;
    baseline::merge_moments(total.data(), total.data() + out, double(before), means, deviations, double(rows(t)), out);
    before += rows(t);
  }
  T *pm = mean.mutable_data_ptr<T>(), *pv = variance.mutable_data_ptr<T>();
  for (int64_t s = 0; s < out; ++s) {
    pm[s] = T(total[s]);
    pv[s] = before ? T(total[out + s] / double(before)) : T(0);
  }
}

// Mean, offset and factor as three rows of numbers, padded.
template <class T>
std::vector<T> pad_moments(const Tensor& mean, const Tensor& offset, const Tensor& factor) {
  const int64_t out = mean.size(0), ld = baseline::padded<T>(out);
  std::vector<T> moments(3 * ld, T(0));
  int64_t at = 0;
  for (const Tensor& t : {mean, offset, factor}) {
    const Tensor values = torch::stable::contiguous(t);
    std::copy(values.const_data_ptr<T>(), values.const_data_ptr<T>() + out, moments.begin() + at);
    at += ld;
  }
  return moments;
}

// Sums of the tasks' gradients: parts (tasks, in, padded out), biases (tasks, out).
template <class T>
void add_tasks(const std::vector<T>& parts, const std::vector<double>& biases, int64_t tasks, Tensor& grad_weight,
               Tensor& grad_bias) {
  const int64_t out = grad_weight.size(0), in = grad_weight.size(1), ldo = baseline::padded<T>(out);
  T *gw = grad_weight.mutable_data_ptr<T>(), *gb = grad_bias.mutable_data_ptr<T>();
  for (int64_t s = 0; s < out; ++s) {
    for (int64_t i = 0; i < in; ++i) {
      double sum = 0.0;
      for (int64_t t = 0; t < tasks; ++t) sum += parts[(t * in + i) * ldo + s];
      gw[s * in + i] = T(sum);
    }
    double sum = 0.0;
    for (int64_t t = 0; t < tasks; ++t) sum += biases[t * out + s];
    gb[s] = T(sum);
  }
}

// x (rows, in), weight (out, in), bias or mean (out,), and slope of either operator.
void check_message(const Tensor& x, int64_t rows, const Tensor& weight, const Tensor& vector, const char* name,
                   double slope) {
  check_table(x, {rows, any}, "x");
  check_tensor(weight, {any, x.size(1)}, type_of_sums(x), "weight");
  check_tensor(vector, {weight.size(0)}, type_of_sums(x), name);
  check_slope(slope);
}

void check_backward(const std::optional<Tensor>& grad, const Tensor& y, const Tensor& x, int64_t rows,
                    const Tensor& weight, const Tensor& mean, const Tensor& offset, const Tensor& factor,
                    double slope) {
  check_message(x, rows, weight, mean, "mean", slope);
  const int64_t out = weight.size(0);
  if (grad) check_tensor(*grad, {x.size(0), out}, x.scalar_type(), "grad");
  check_tensor(y, {x.size(0), out}, x.scalar_type(), "y");
  check_tensor(offset, {out}, type_of_sums(x), "offset");
  check_tensor(factor, {out}, type_of_sums(x), "factor");
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> message(const Tensor x_in, const Tensor weight_in, const Tensor bias_in,
                                           double slope) {
  check_message(x_in, any, weight_in, bias_in, "bias", slope);
  const int64_t rows = x_in.size(0), out = weight_in.size(0), in = weight_in.size(1);
  const Tensor x = torch::stable::contiguous(x_in), weight = torch::stable::contiguous(weight_in);
  const Tensor bias = torch::stable::contiguous(bias_in);
  Tensor y = new_tensor(x, {rows, out}, x.scalar_type());
  Tensor mean = torch::stable::empty_like(bias), variance = torch::stable::empty_like(bias);
  for_table_type(x, [&](auto type) {
    using E = decltype(type);
    using T = baseline::Sum<E>;
    const std::vector<T> matrix = pad_matrix_for<E>(weight, true);
    const E* px = table_data<E>(x);
    const T* pb = bias.const_data_ptr<T>();
    E* py = mutable_table_data<E>(y);
    const int64_t blocks = num_blocks(rows);
    std::vector<double> moments(blocks * 2 * out, 0.0);
    for_each_task(blocks, [&](int64_t b) {
      double* own = moments.data() + b * 2 * out;
      const int64_t first = b * block_rows, count = std::min(block_rows, rows - first);
      PUFFIN_TABLE_CALL(E, message_rows<E>, px + first * in, matrix.data(), pb, T(slope), count, in, out,
                        py + first * out, own, own + out);
    });
    merge_tasks<T>(
        moments, blocks, [&](int64_t b) { return std::min(block_rows, rows - b * block_rows); }, mean, variance);
  });
  return {y, mean, variance};
}

std::tuple<Tensor, Tensor, Tensor> message_backward(const Tensor grad_in, const Tensor y_in, const Tensor x_in,
                                                    const Tensor weight_in, const Tensor mean, const Tensor offset,
                                                    const Tensor factor, double slope) {
  check_backward(grad_in, y_in, x_in, any, weight_in, mean, offset, factor, slope);
  const int64_t rows = x_in.size(0), out = weight_in.size(0), in = weight_in.size(1);
  const Tensor x = torch::stable::contiguous(x_in), y = torch::stable::contiguous(y_in);
  const Tensor grad = torch::stable::contiguous(grad_in), weight = torch::stable::contiguous(weight_in);
  Tensor grad_x = torch::stable::empty_like(x), grad_weight = torch::stable::empty_like(weight);
  Tensor grad_bias = torch::stable::empty_like(mean);
  for_table_type(x, [&](auto type) {
    using E = decltype(type);
    using T = baseline::Sum<E>;
    const E *pg = table_data<E>(grad), *py = table_data<E>(y), *px = table_data<E>(x);
    const int64_t blocks = num_blocks(rows), ldo = baseline::padded<T>(out);
    const std::vector<T> moments = pad_moments<T>(mean, offset, factor), matrix = pad_matrix_for<E>(weight, false);
    std::vector<T> parts(blocks * in * ldo, T(0));
    std::vector<double> biases(blocks * out, 0.0);
    E* gx = mutable_table_data<E>(grad_x);
    for_each_task(blocks, [&](int64_t b) {
      const int64_t first = b * block_rows, count = std::min(block_rows, rows - first);
      PUFFIN_TABLE_CALL(
          E, message_rows_backward<E>, pg + first * out, py + first * out, px + first * in, matrix.data(),
          moments.data(), T(slope), count, in, out, gx + first * in, parts.data() + b * in * ldo, &biases[b * out]);
    });
    add_tasks(parts, biases, blocks, grad_weight, grad_bias);
  });
  return {grad_x, grad_weight, grad_bias};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> pair_message(
    const Tensor x_in, const Tensor weight_in, const Tensor bias_in, double slope,
    const std::optional<Tensor> weights_in, const Tensor node_ptr, const Tensor upper_ptr, int64_t num_nodes) {
  const Events events(node_ptr, upper_ptr);
  STD_TORCH_CHECK(num_nodes == events.nodes, "num_nodes: does not fit node_ptr");
  check_message(x_in, events.pairs(), weight_in, bias_in, "bias", slope);
  const int64_t out = weight_in.size(0), in = weight_in.size(1);
  const Tensor x = torch::stable::contiguous(x_in), weight = torch::stable::contiguous(weight_in);
  const Tensor bias = torch::stable::contiguous(bias_in);
  const std::optional<Tensor> weights = checked_weights(weights_in, events, type_of_sums(x));
  Tensor y = new_tensor(x, {events.pairs(), out}, x.scalar_type());
  Tensor mean = torch::stable::empty_like(bias), variance = torch::stable::empty_like(bias);
  Tensor diagonal = new_tensor(x, {events.nodes, out}, type_of_sums(x));
  Tensor rows = torch::stable::empty_like(diagonal), columns = torch::stable::empty_like(diagonal);
  for_table_type(x, [&](auto type) {
    using E = decltype(type);
    using T = baseline::Sum<E>;
    const std::vector<T> matrix = pad_matrix_for<E>(weight, true);
    const E* px = table_data<E>(x);
    const T *pb = bias.const_data_ptr<T>(), *pw = data_or_null<T>(weights);
    E* py = mutable_table_data<E>(y);
    T *pd = diagonal.mutable_data_ptr<T>(), *pr = rows.mutable_data_ptr<T>(), *pc = columns.mutable_data_ptr<T>();
    std::vector<double> moments(events.num_groups() * 2 * out, 0.0);
    for_each_task(events.num_groups(), [&](int64_t g) {
      const Group<const E> from(px, events, g, in);
      const Group<E> to(py, events, g, out);
      const int64_t first = events.first_node(g), at = first * out;
      double* own = moments.data() + g * 2 * out;
      PUFFIN_TABLE_CALL(E, message_pairs<E>, from, matrix.data(), pb, T(slope), pw ? pw + first : nullptr, in, out, to,
                        {pd + at, pr + at, pc + at}, own, own + out);
    });
    merge_tasks<T>(moments, events.num_groups(), [&](int64_t g) { return events.pairs_of(g); }, mean, variance);
  });
  return {y, mean, variance, diagonal, rows, columns};
}

std::tuple<Tensor, Tensor, Tensor> pair_message_backward(
    const std::optional<Tensor> grad_in, const Tensor y_in, const Tensor x_in, const Tensor weight_in,
    const Tensor mean, const Tensor offset, const Tensor factor, const Tensor diagonal_in, const Tensor rows_in,
    const Tensor columns_in, const std::optional<Tensor> weights_in, const Tensor node_ptr, const Tensor upper_ptr,
    double slope) {
  const Events events(node_ptr, upper_ptr);
  check_backward(grad_in, y_in, x_in, events.pairs(), weight_in, mean, offset, factor, slope);
  const int64_t out = weight_in.size(0), in = weight_in.size(1);
  for (const Tensor& t : {diagonal_in, rows_in, columns_in})
    check_tensor(t, {events.nodes, out}, type_of_sums(x_in), "diagonal, rows, columns");
  const Tensor x = torch::stable::contiguous(x_in), y = torch::stable::contiguous(y_in);
  const std::optional<Tensor> grad = contiguous(grad_in),
                              weights = checked_weights(weights_in, events, type_of_sums(x));
  const Tensor weight = torch::stable::contiguous(weight_in), diagonal = torch::stable::contiguous(diagonal_in);
  const Tensor rows = torch::stable::contiguous(rows_in), columns = torch::stable::contiguous(columns_in);
  Tensor grad_x = torch::stable::empty_like(x), grad_weight = torch::stable::empty_like(weight);
  Tensor grad_bias = torch::stable::empty_like(mean);
  for_table_type(x, [&](auto type) {
    using E = decltype(type);
    using T = baseline::Sum<E>;
    const E *pg = grad ? table_data<E>(*grad) : nullptr, *py = table_data<E>(y), *px = table_data<E>(x);
    const T *pd = diagonal.const_data_ptr<T>(), *pr = rows.const_data_ptr<T>(), *pc = columns.const_data_ptr<T>();
    const T* pw = data_or_null<T>(weights);
    const int64_t tasks = events.num_groups(), ldo = baseline::padded<T>(out);
    const std::vector<T> moments = pad_moments<T>(mean, offset, factor), matrix = pad_matrix_for<E>(weight, false);
    std::vector<T> parts(tasks * in * ldo, T(0));
    std::vector<double> biases(tasks * out, 0.0);
    E* gx = mutable_table_data<E>(grad_x);
    for_each_task(tasks, [&](int64_t g) {
      const Group<const E> from(px, events, g, in), dy(pg, events, g, out), result(py, events, g, out);
      const Group<E> to(gx, events, g, in);
      const int64_t first = events.first_node(g), at = first * out;
      PUFFIN_TABLE_CALL(E, message_pairs_backward<E>, dy, result, from, matrix.data(), moments.data(), T(slope),
                        {pr + at, pc + at, pd + at}, pw ? pw + first : nullptr, in, out, to,
                        parts.data() + g * in * ldo, &biases[g * out]);
    });
    add_tasks(parts, biases, tasks, grad_weight, grad_bias);
  });
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace puffin

STABLE_TORCH_LIBRARY_IMPL(puffin, CPU, m) {
  m.impl("message", TORCH_BOX(&puffin::message));
  m.impl("message_backward", TORCH_BOX(&puffin::message_backward));
  m.impl("pair_message", TORCH_BOX(&puffin::pair_message));
  m.impl("pair_message_backward", TORCH_BOX(&puffin::pair_message_backward));
}
