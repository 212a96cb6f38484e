// Attention within events on the CPU; defined in src/puffin/ops/attention.py. A task is a head of an event, so that no
// result depends on the number of threads.
#include <cstdint>

namespace puffin {
// A head of an event whose first token is `first`. `size` numbers of a token belong to the head. Dropout sets the
// attention weights whose random number is below the threshold to 0, and multiplies the others by the factor.
struct AttentionHead {
  int64_t tokens, size, heads, head, first;
  double scale, factor;
  uint64_t seed;
  uint32_t threshold;
};
}  // namespace puffin

#include "table_types.h"

#define PUFFIN_KERNEL "attention_kernel.h"
#include "targets.h"

#include "../common.h"
#include "parallel.h"

#include <cmath>
#include <limits>
#include <vector>

namespace puffin {
namespace {

// Calls fn(head) for every head of every event.
template <class F>
void for_each_head(const Tensor& qkv, const Tensor& ptr, const std::optional<Tensor>& seed, int64_t heads,
                   double dropout, const F& fn) {
  const int64_t* first = checked_ptr(ptr, qkv.size(0));
  STD_TORCH_CHECK(dropout >= 0 && dropout < 1, "dropout: expected 0 <= dropout < 1, got ", dropout);
  STD_TORCH_CHECK(dropout == 0 || seed.has_value(), "seed: expected a tensor, as there is dropout");
  AttentionHead shape{};
  shape.size = qkv.size(1) / (3 * heads);
  shape.heads = heads;
  shape.scale = 1 / std::sqrt(double(shape.size));
  const double steps = 4294967296.0;
  shape.threshold = uint32_t(std::min(std::nearbyint(dropout * steps), steps - 1));
  shape.factor = 1 / (1 - double(shape.threshold) / steps);
  if (shape.threshold) {
    STD_TORCH_CHECK(seed->numel() == 1 && seed->scalar_type() == ScalarType::Long && seed->is_cpu(),
                    "seed: expected one int64 on the CPU");
    shape.seed = uint64_t(*seed->const_data_ptr<int64_t>());
  }
  for_each_task((ptr.size(0) - 1) * heads, [&](int64_t task) {
    AttentionHead head = shape;
    head.first = first[task / heads];
    head.tokens = first[task / heads + 1] - head.first;
    head.head = task % heads;
    if (head.tokens) fn(head);
  });
}

void check_qkv(const Tensor& qkv, int64_t heads) {
  check_table(qkv, {any, any}, "qkv");
  STD_TORCH_CHECK(heads > 0, "heads: expected at least 1, got ", heads);
  STD_TORCH_CHECK(
      qkv.size(1) > 0 && qkv.size(1) % (3 * heads) == 0, "qkv: expected (T, 3 dim), and dim a multiple of the heads");
}

void check_like_out(const Tensor& x, const Tensor& qkv, const char* name) {
  check_tensor(x, {qkv.size(0), qkv.size(1) / 3}, qkv.scalar_type(), name);
}

}  // namespace

std::tuple<Tensor, Tensor> segment_attention(const Tensor qkv_in, const Tensor ptr, const std::optional<Tensor> seed,
                                             int64_t heads, double dropout) {
  check_qkv(qkv_in, heads);
  const Tensor qkv = torch::stable::contiguous(qkv_in);
  const int64_t dim = qkv.size(1) / 3;
  Tensor out = new_tensor(qkv, {qkv.size(0), dim}, qkv.scalar_type());
  Tensor lse = new_tensor(qkv, {qkv.size(0), heads}, type_of_sums(qkv));
  for_table_type(qkv, [&](auto type) {
    using E = decltype(type);
    const E* from = table_data<E>(qkv);
    E* to = mutable_table_data<E>(out);
    auto* to_lse = lse.mutable_data_ptr<baseline::Sum<E>>();
    for_each_head(qkv, ptr, seed, heads, dropout, [&](const AttentionHead& head) {
      const int64_t column = head.head * head.size;
      PUFFIN_CALL(attend<E>, head, from + head.first * 3 * dim + column, to + head.first * dim + column,
                  to_lse + head.first * heads + head.head);
    });
  });
  return {out, lse};
}

Tensor segment_attention_backward(const Tensor grad_in, const Tensor qkv_in, const Tensor out_in, const Tensor lse_in,
                                  const Tensor ptr, const std::optional<Tensor> seed, int64_t heads, double dropout) {
  check_qkv(qkv_in, heads);
  check_like_out(grad_in, qkv_in, "grad");
  check_like_out(out_in, qkv_in, "out");
  check_tensor(lse_in, {qkv_in.size(0), heads}, type_of_sums(qkv_in), "lse");
  const Tensor qkv = torch::stable::contiguous(qkv_in), grad = torch::stable::contiguous(grad_in);
  const Tensor out = torch::stable::contiguous(out_in), lse = torch::stable::contiguous(lse_in);
  const int64_t dim = qkv.size(1) / 3;
  Tensor grad_qkv = torch::stable::empty_like(qkv);
  for_table_type(qkv, [&](auto type) {
    using E = decltype(type);
    const E *pg = table_data<E>(grad), *from = table_data<E>(qkv), *po = table_data<E>(out);
    const auto* pl = lse.const_data_ptr<baseline::Sum<E>>();
    E* to = mutable_table_data<E>(grad_qkv);
    for_each_head(qkv, ptr, seed, heads, dropout, [&](const AttentionHead& head) {
      const int64_t column = head.head * head.size, row = head.first * dim + column;
      PUFFIN_CALL(attend_backward<E>, head, pg + row, from + head.first * 3 * dim + column, po + row,
                  pl + head.first * heads + head.head, to + head.first * 3 * dim + column);
    });
  });
  return grad_qkv;
}

}  // namespace puffin

STABLE_TORCH_LIBRARY_IMPL(puffin, CPU, m) {
  m.impl("segment_attention", TORCH_BOX(&puffin::segment_attention));
  m.impl("segment_attention_backward", TORCH_BOX(&puffin::segment_attention_backward));
}
