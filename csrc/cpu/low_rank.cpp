// Low-rank coefficients of the equivariant layers on the CPU; defined in src/puffin/ops/low_rank.py. They are small, so
// one thread computes them.
#include "checks.h"

#include <vector>

namespace puffin {
namespace {

struct Factors {
  Tensor in_maps, out_maps, in_out0, in_out1;
  int64_t maps, in, out;

  Factors(const Tensor& in_maps_, const Tensor& out_maps_, const Tensor& in_out0_, const Tensor& in_out1_)
      : in_maps(torch::stable::contiguous(in_maps_)),
        out_maps(torch::stable::contiguous(out_maps_)),
        in_out0(torch::stable::contiguous(in_out0_)),
        in_out1(torch::stable::contiguous(in_out1_)) {
    check_floating(in_maps, "in_maps");
    check(in_maps, {any, any}, "in_maps");
    maps = in_maps.size(1);
    in = in_maps.size(0);
    check(out_maps, {any, maps}, "out_maps");
    out = out_maps.size(0);
    check(in_out0, {in, out}, "in_out0");
    check(in_out1, {in, out}, "in_out1");
  }

  void check(const Tensor& x, std::initializer_list<int64_t> sizes, const char* name) const {
    check_tensor(x, sizes, in_maps.scalar_type(), name);
  }

  // out_maps as (maps, out)
  template <class T>
  std::vector<T> maps_out() const {
    std::vector<T> result(maps * out);
    const T* p = out_maps.const_data_ptr<T>();
    for (int64_t s = 0; s < out; ++s)
      for (int64_t k = 0; k < maps; ++k) result[k * out + s] = p[s * maps + k];
    return result;
  }
};

}  // namespace

Tensor low_rank(const Tensor in_maps, const Tensor out_maps, const Tensor in_out0, const Tensor in_out1) {
  const Factors f(in_maps, out_maps, in_out0, in_out1);
  Tensor result = new_tensor(f.in_maps, {f.maps, f.in, f.out}, f.in_maps.scalar_type());
  for_float_type(f.in_maps, [&](auto type) {
    using T = decltype(type);
    const std::vector<T> of_out = f.maps_out<T>();
    const T *of_in = f.in_maps.const_data_ptr<T>(), *p0 = f.in_out0.const_data_ptr<T>();
    const T* p1 = f.in_out1.const_data_ptr<T>();
    T* to = result.mutable_data_ptr<T>();
    for (int64_t k = 0; k < f.maps; ++k)
      for (int64_t c = 0; c < f.in; ++c, to += f.out) {
        const T *row0 = p0 + c * f.out, *row1 = p1 + c * f.out, *column = of_out.data() + k * f.out;
        const T factor = of_in[c * f.maps + k];
        for (int64_t s = 0; s < f.out; ++s) to[s] = factor * row0[s] + column[s] * row1[s];
      }
  });
  return result;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> low_rank_backward(
    const Tensor grad_in, const Tensor in_maps, const Tensor out_maps, const Tensor in_out0, const Tensor in_out1) {
  const Factors f(in_maps, out_maps, in_out0, in_out1);
  f.check(grad_in, {f.maps, f.in, f.out}, "grad");
  const Tensor grad = torch::stable::contiguous(grad_in);
  Tensor grad_in_maps = torch::stable::empty_like(f.in_maps), grad_out_maps = torch::stable::empty_like(f.out_maps);
  Tensor grad0 = torch::stable::empty_like(f.in_out0), grad1 = torch::stable::empty_like(f.in_out1);
  for_float_type(f.in_maps, [&](auto type) {
    using T = decltype(type);
    const std::vector<T> of_out = f.maps_out<T>();
    const T *of_in = f.in_maps.const_data_ptr<T>(), *p0 = f.in_out0.const_data_ptr<T>();
    const T *p1 = f.in_out1.const_data_ptr<T>(), *g = grad.const_data_ptr<T>();
    T *to_in = grad_in_maps.mutable_data_ptr<T>(), *to_out = grad_out_maps.mutable_data_ptr<T>();
    T *to0 = grad0.mutable_data_ptr<T>(), *to1 = grad1.mutable_data_ptr<T>();
    std::fill(to0, to0 + f.in * f.out, T(0));
    std::fill(to1, to1 + f.in * f.out, T(0));
    std::vector<T> of_column(f.out);
    for (int64_t k = 0; k < f.maps; ++k) {
      std::fill(of_column.begin(), of_column.end(), T(0));
      for (int64_t c = 0; c < f.in; ++c, g += f.out) {
        const T *row0 = p0 + c * f.out, *row1 = p1 + c * f.out, *column = of_out.data() + k * f.out;
        const T factor = of_in[c * f.maps + k];
        T sum = T(0);
        for (int64_t s = 0; s < f.out; ++s) {
          sum += g[s] * row0[s];
          of_column[s] += g[s] * row1[s];
          to0[c * f.out + s] += factor * g[s];
          to1[c * f.out + s] += column[s] * g[s];
        }
        to_in[c * f.maps + k] = sum;
      }
      for (int64_t s = 0; s < f.out; ++s) to_out[s * f.maps + k] = of_column[s];
    }
  });
  return {grad_in_maps, grad_out_maps, grad0, grad1};
}

}  // namespace puffin

STABLE_TORCH_LIBRARY_IMPL(puffin, CPU, m) {
  m.impl("low_rank", TORCH_BOX(&puffin::low_rank));
  m.impl("low_rank_backward", TORCH_BOX(&puffin::low_rank_backward));
}
