// The embedding of pairs on the CPU; defined in src/puffin/ops/embedding.py. A task is a group of whole events, and the
// sums of the groups are added in order, so that no result depends on the number of threads.
#define PUFFIN_KERNEL "embed_kernel.h"
#define PUFFIN_TABLES

#include <cstdint>

namespace puffin {

// Sizes and weights of the embedding; rows of weights have `ld` numbers, whole vectors.
template <class T>
struct Embedding {
  int64_t in, channels, labels, ld;
  const T *weight, *bias, *exponent;  // (in, ld), (ld), (ld)
  T offset, slope;
  bool has_sign;
};

}  // namespace puffin

#include "targets.h"

#include "events.h"
#include "parallel.h"

#include <vector>

namespace puffin {
namespace {

// The arguments of both operators, checked.
struct Arguments {
  const Events events;
  const Tensor x, weight, bias, exponent, u, v, w;
  const double offset, slope;
  const bool has_sign;

  Arguments(const Tensor& x_in, const Tensor& weight_in, const Tensor& bias_in, const Tensor& exponent_in,
            const Tensor& u_in, const Tensor& v_in, const Tensor& w_in, const Tensor& node_ptr, const Tensor& upper_ptr,
            double offset_, bool has_sign_, double slope_)
      : events(node_ptr, upper_ptr),
        x(torch::stable::contiguous(x_in)),
        weight(torch::stable::contiguous(weight_in)),
        bias(torch::stable::contiguous(bias_in)),
        exponent(torch::stable::contiguous(exponent_in)),
        u(torch::stable::contiguous(u_in)),
        v(torch::stable::contiguous(v_in)),
        w(torch::stable::contiguous(w_in)),
        offset(offset_),
        slope(slope_),
        has_sign(has_sign_) {
    const ScalarType type = x.scalar_type();
    check_floating(x, "x");
    check_sizes(x, {events.nodes + events.uppers, any}, "x");
    check_tensor(weight, {any, in()}, type, "weight");
    for (const Tensor& t : {bias, exponent}) check_tensor(t, {channels()}, type, "bias, exponent");
    check_sizes(u, {events.nodes, any}, "u");
    for (const Tensor& t : {u, v, w}) check_tensor(t, {events.nodes, labels()}, type, "u, v, w");
    STD_TORCH_CHECK(offset > 1e-37, "offset: expected a normal number > 0, got ", offset);
    check_slope(slope);
  }

  int64_t in() const { return x.size(1); }
  int64_t channels() const { return weight.size(0); }
  int64_t labels() const { return u.size(1); }
};

// The weights of a kernel, padded to whole vectors.
template <class T>
struct Padded {
  int64_t ld;
  std::vector<T> weight, bias, exponent;
  Embedding<T> embedding;

  explicit Padded(const Arguments& a)
      : ld(baseline::padded<T>(a.channels())), weight(a.in() * ld), bias(ld), exponent(ld, T(1)) {
    const T* from = a.weight.const_data_ptr<T>();
    for (int64_t c = 0; c < a.channels(); ++c)
      for (int64_t k = 0; k < a.in(); ++k) weight[k * ld + c] = from[c * a.in() + k];
    std::copy_n(a.bias.const_data_ptr<T>(), a.channels(), bias.begin());
    std::copy_n(a.exponent.const_data_ptr<T>(), a.channels(), exponent.begin());
    embedding = {a.in(),      a.channels(),    a.labels(),  ld,         weight.data(),
                 bias.data(), exponent.data(), T(a.offset), T(a.slope), a.has_sign};
  }
};

}  // namespace

Tensor pair_embed(const Tensor x, const Tensor weight, const Tensor bias, const Tensor exponent, const Tensor u,
                  const Tensor v, const Tensor w, const Tensor node_ptr, const Tensor upper_ptr, double offset,
                  bool has_sign, double slope, bool half) {
  const Arguments a(x, weight, bias, exponent, u, v, w, node_ptr, upper_ptr, offset, has_sign, slope);
  STD_TORCH_CHECK(!half || a.x.scalar_type() == ScalarType::Float, "half: expected inputs of float32");
  const int64_t width = a.channels() + a.labels();
  Tensor out = new_tensor(a.x, {a.events.pairs(), width}, half ? ScalarType::BFloat16 : a.x.scalar_type());
  for_table_type(out, [&](auto type) {
    using E = decltype(type);
    using T = baseline::Sum<E>;
    const Padded<T> padded(a);
    const T *px = a.x.const_data_ptr<T>(), *pu = a.u.const_data_ptr<T>(), *pv = a.v.const_data_ptr<T>();
    const T* pw = a.w.const_data_ptr<T>();
    E* po = mutable_table_data<E>(out);
    a.events.for_each([&](int64_t b) {
      const Blocks<const T> from(px, a.events, b, a.in());
      const Blocks<E> to(po, a.events, b, width);
      const int64_t first = a.events.node[b] * a.labels();
      PUFFIN_TABLE_CALL(E, embed_event<E>, padded.embedding, a.events.size(b), from.diagonal, from.upper, pu + first,
                        pv + first, pw + first, to.diagonal, to.upper, to.lower);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> pair_embed_backward(
    const Tensor grad_in, const Tensor x, const Tensor weight, const Tensor bias, const Tensor exponent, const Tensor u,
    const Tensor v, const Tensor w, const Tensor node_ptr, const Tensor upper_ptr, double offset, bool has_sign,
    double slope, bool needs_x) {
  const Arguments a(x, weight, bias, exponent, u, v, w, node_ptr, upper_ptr, offset, has_sign, slope);
  const int64_t in = a.in(), channels = a.channels(), labels = a.labels(), width = channels + labels;
  const bool half = grad_in.scalar_type() == ScalarType::BFloat16 && a.x.scalar_type() == ScalarType::Float;
  check_tensor(grad_in, {a.events.pairs(), width}, half ? ScalarType::BFloat16 : a.x.scalar_type(), "grad");
  const Tensor grad = torch::stable::contiguous(grad_in);
  Tensor grad_x = new_tensor(a.x, {needs_x ? a.x.size(0) : 0, in}, a.x.scalar_type());
  Tensor grad_weight = torch::stable::empty_like(a.weight), grad_bias = torch::stable::empty_like(a.bias);
  Tensor grad_exponent = torch::stable::empty_like(a.exponent), grad_u = torch::stable::empty_like(a.u);
  Tensor grad_v = torch::stable::empty_like(a.v), grad_w = torch::stable::empty_like(a.w);
  torch::stable::zero_(grad_u);
  torch::stable::zero_(grad_v);
  for_table_type(grad, [&](auto type) {
    using E = decltype(type);
    using T = baseline::Sum<E>;
    const Padded<T> padded(a);
    const int64_t ld = padded.ld, groups = a.events.num_groups();
    const T *px = a.x.const_data_ptr<T>(), *pu = a.u.const_data_ptr<T>(), *pv = a.v.const_data_ptr<T>();
    const T* pw = a.w.const_data_ptr<T>();
    const E* pg = table_data<E>(grad);
    T* gx = needs_x ? grad_x.mutable_data_ptr<T>() : nullptr;
    T *gu = grad_u.mutable_data_ptr<T>(), *gv = grad_v.mutable_data_ptr<T>(), *gw = grad_w.mutable_data_ptr<T>();
    std::vector<T> parts(groups * (2 + in) * ld, T(0));  // one for each group, summed in order below
    for_each_task(groups, [&](int64_t g) {
      std::vector<T> scratch(ld);
      for (int64_t b = a.events.groups[g]; b < a.events.groups[g + 1]; ++b) {
        const Blocks<const E> dy(pg, a.events, b, width);
        const Blocks<const T> from(px, a.events, b, in);
        const Blocks<T> dx = gx ? Blocks<T>(gx, a.events, b, in) : Blocks<T>();
        const int64_t first = a.events.node[b] * labels;
        PUFFIN_TABLE_CALL(
            E, embed_event_backward<E>, padded.embedding, a.events.size(b), dy.diagonal, dy.upper, dy.lower,
            from.diagonal, from.upper, pu + first, pv + first, pw + first, dx.diagonal, dx.upper, gu + first,
            gv + first, gw + first, parts.data() + g * (2 + in) * ld, scratch.data());
      }
    });
    const auto total = [&](int64_t row, int64_t c) {
      double sum = 0.0;
      for (int64_t g = 0; g < groups; ++g) sum += parts[(g * (2 + in) + row) * ld + c];
      return sum;
    };
    T *pb = grad_bias.mutable_data_ptr<T>(), *pe = grad_exponent.mutable_data_ptr<T>();
    T* pk = grad_weight.mutable_data_ptr<T>();
    for (int64_t c = 0; c < channels; ++c) {
      pb[c] = T(total(0, c));
      pe[c] = T(total(1, c) / double(padded.exponent[c]));
      for (int64_t k = 0; k < in; ++k) pk[c * in + k] = T(total(2 + k, c));
    }
  });
  return {grad_x, grad_weight, grad_bias, grad_exponent, grad_u, grad_v, grad_w};
}

}  // namespace puffin

STABLE_TORCH_LIBRARY_IMPL(puffin, CPU, m) {
  m.impl("pair_embed", TORCH_BOX(&puffin::pair_embed));
  m.impl("pair_embed_backward", TORCH_BOX(&puffin::pair_embed_backward));
}
