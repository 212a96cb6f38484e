// Linear layer, leaky ReLU and batch statistics on the CPU; defined in src/puffin/ops/messages.py. A task is a block
// with a fixed number of rows, and the sums of the blocks are added in order, so that no result depends on the number
// of threads.
#define PUFFIN_KERNEL "messages_kernel.h"
#define PUFFIN_TABLES
#include "targets.h"

#include "matrix.h"
#include "parallel.h"

#include <vector>

namespace puffin {
namespace {

constexpr int64_t block_rows = 48 * 64;

int64_t num_blocks(int64_t rows) { return (rows + block_rows - 1) / block_rows; }

void check_rows(const Tensor& x, const Tensor& like, int64_t rows, int64_t columns, const char* name) {
  STD_TORCH_CHECK(
      x.dim() == 2 && x.size(0) == rows && x.size(1) == columns, name, ": expected (", rows, ", ", columns, ")");
  check_table(x, name);
  STD_TORCH_CHECK(x.scalar_type() == like.scalar_type(), name, ": expected the dtype of the other tables");
}

void check_weight(const Tensor& x, const Tensor& table) {
  STD_TORCH_CHECK(x.dim() == 2 && x.scalar_type() == type_of_sums(table) && x.is_cpu(),
                  "weight: expected (out, in) with the dtype of x, or float32 if that is bfloat16");
}

void check_vector(const Tensor& x, const Tensor& table, int64_t size, const char* name) {
  STD_TORCH_CHECK(x.dim() == 1 && x.size(0) == size && x.scalar_type() == type_of_sums(table) && x.is_cpu(), name,
                  ": expected (", size, ",) with the dtype of x, or float32 if that is bfloat16");
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> message(const Tensor x_in, const Tensor weight_in, const Tensor bias_in,
                                           double slope) {
  check_table(x_in, "x");
  check_weight(weight_in, x_in);
  const int64_t rows = x_in.size(0), out = weight_in.size(0), in = weight_in.size(1);
  check_rows(x_in, x_in, rows, in, "x");
  check_vector(bias_in, x_in, out, "bias");
  STD_TORCH_CHECK(slope >= 0 && slope <= 1, "slope: expected 0..1, got ", slope);
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
    std::vector<double> total(2 * out, 0.0);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = b * block_rows;
      baseline::merge_moments(total.data(), total.data() + out, double(first), &moments[b * 2 * out],
                              &moments[b * 2 * out + out], double(std::min(block_rows, rows - first)), out);
    }
    T *pm = mean.mutable_data_ptr<T>(), *pv = variance.mutable_data_ptr<T>();
    for (int64_t s = 0; s < out; ++s) {
      pm[s] = T(total[s]);
      pv[s] = rows ? T(total[out + s] / double(rows)) : T(0);
    }
  });
  return {y, mean, variance};
}

std::tuple<Tensor, Tensor, Tensor> message_backward(const Tensor grad_in, const Tensor y_in, const Tensor x_in,
                                                    const Tensor weight_in, const Tensor mean, const Tensor offset,
                                                    const Tensor factor, double slope) {
  check_table(x_in, "x");
  check_weight(weight_in, x_in);
  const int64_t rows = x_in.size(0), out = weight_in.size(0), in = weight_in.size(1);
  check_rows(x_in, x_in, rows, in, "x");
  check_rows(grad_in, x_in, rows, out, "grad");
  check_rows(y_in, x_in, rows, out, "y");
  check_vector(mean, x_in, out, "mean");
  check_vector(offset, x_in, out, "offset");
  check_vector(factor, x_in, out, "factor");
  const Tensor x = torch::stable::contiguous(x_in), y = torch::stable::contiguous(y_in);
  const Tensor grad = torch::stable::contiguous(grad_in), weight = torch::stable::contiguous(weight_in);
  Tensor grad_x = torch::stable::empty_like(x), grad_weight = torch::stable::empty_like(weight);
  Tensor grad_bias = new_tensor(weight, {out}, weight.scalar_type());
  for_table_type(x, [&](auto type) {
    using E = decltype(type);
    using T = baseline::Sum<E>;
    const E *pg = table_data<E>(grad), *py = table_data<E>(y), *px = table_data<E>(x);
    const int64_t blocks = num_blocks(rows), ldo = baseline::padded<T>(out);
    std::vector<T> moments(3 * ldo, T(0));
    int64_t at = 0;
    for (const Tensor& t : {mean, offset, factor}) {
      const Tensor values = torch::stable::contiguous(t);
      std::copy(values.const_data_ptr<T>(), values.const_data_ptr<T>() + out, moments.begin() + at);
      at += ldo;
    }
    const std::vector<T> matrix = pad_matrix_for<E>(weight, false);
    std::vector<T> parts(blocks * in * ldo, T(0));
    std::vector<double> biases(blocks * out, 0.0);
    E* gx = mutable_table_data<E>(grad_x);
    for_each_task(blocks, [&](int64_t b) {
      const int64_t first = b * block_rows, count = std::min(block_rows, rows - first);
      PUFFIN_TABLE_CALL(
          E, message_rows_backward<E>, pg + first * out, py + first * out, px + first * in, matrix.data(),
          moments.data(), T(slope), count, in, out, gx + first * in, parts.data() + b * in * ldo, &biases[b * out]);
    });
    T *gw = grad_weight.mutable_data_ptr<T>(), *gb = grad_bias.mutable_data_ptr<T>();
    for (int64_t s = 0; s < out; ++s) {
      for (int64_t i = 0; i < in; ++i) {
        double sum = 0.0;
        for (int64_t b = 0; b < blocks; ++b) sum += parts[(b * in + i) * ldo + s];
        gw[s * in + i] = T(sum);
      }
      double sum = 0.0;
      for (int64_t b = 0; b < blocks; ++b) sum += biases[b * out + s];
      gb[s] = T(sum);
    }
  });
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace puffin

STABLE_TORCH_LIBRARY_IMPL(puffin, CPU, m) {
  m.impl("message", TORCH_BOX(&puffin::message));
  m.impl("message_backward", TORCH_BOX(&puffin::message_backward));
}
