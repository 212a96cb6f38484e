// Chamfer distance on CUDA; defined in src/puffin/ops/chamfer.py. One thread per point compares it with every point of
// the other cloud, because a loss has many small clouds. Each coordinate gathers its gradient (no atomic additions), so
// that the result is reproducible.
#include "device.cuh"

namespace puffin::cuda {
namespace {

// One point with Dims coordinates in registers; Dims 0: any number of them, which stay in memory.
template <class T, int Dims>
struct Point {
  T at[Dims];
  __device__ explicit Point(const T* x) {
    for (int c = 0; c < Dims; ++c) at[c] = x[c];
  }
  __device__ T operator[](int64_t c) const { return at[c]; }
};

template <class T>
struct Point<T, 0> {
  const T* at;
  __device__ explicit Point(const T* x) : at(x) {}
  __device__ T operator[](int64_t c) const { return at[c]; }
};

// x (B, rx, D), y (B, ry, D): nearest of y for every x
template <class T, int Dims>
__global__ void find_nearest(const T* x, const T* y, const int64_t* lengths_x, const int64_t* lengths_y, int64_t batch,
                             int64_t rx, int64_t ry, int64_t any_dims, T* distance, int64_t* index) {
  const int64_t dims = Dims ? Dims : any_dims;
  for (int64_t i = thread_id(); i < batch * rx; i += thread_count()) {
    const int64_t event = i / rx, ny = event_size(lengths_y, event, ry);
    const T* others = y + event * ry * dims;
    const Point<T, Dims> own(x + i * dims);
    T best = infinity<T>();
    int64_t nearest = 0;
    const bool used = ny > 0 && i % rx < event_size(lengths_x, event, rx);
    for (int64_t j = 0; used && j < ny; ++j) {
      T sum = T(0);
      for (int64_t c = 0; c < dims; ++c) {
        const T d = own[c] - others[j * dims + c];
        sum = c == 0 ? d * d : sum + d * d;
      }
      if (sum < best) {  // strict: ties go to the lowest index
        best = sum;
        nearest = j;
      }
    }
    distance[i] = used ? best : T(0);
    index[i] = used ? nearest : -1;
  }
}

// out_x = d/dx of sum(grad_x |x_i - y_index_x[i]|^2) + sum(grad_y |y_j - x_index_y[j]|^2); one thread per coordinate
template <class T>
__global__ void gather_gradient(const T* grad_x, const T* grad_y, const T* x, const T* y, const int64_t* index_x,
                                const int64_t* index_y, int64_t batch, int64_t rx, int64_t ry, int64_t dims, T* out_x) {
  for (int64_t k = thread_id(); k < batch * rx * dims; k += thread_count()) {
    const int64_t i = k / dims, c = k % dims, event = i / rx, row = i % rx, j = index_x[i];
    const T *others = y + event * ry * dims + c, *grads = grad_y + event * ry;
    const T own = x[k];
    T sum = j >= 0 && j < ry ? T(2) * grad_x[i] * (own - others[j * dims]) : T(0);
    for (int64_t m = 0; m < ry; ++m)
      if (index_y[event * ry + m] == row) sum -= T(2) * grads[m] * (others[m * dims] - own);
    out_x[k] = sum;
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> chamfer(const Tensor x_in, const Tensor y_in, const Tensor lengths_x_in,
                                                   const Tensor lengths_y_in) {
  check_points(x_in, "x");
  check_points(y_in, "y");
  check_alike(x_in, y_in, "y");
  STD_TORCH_CHECK(x_in.size(2) == y_in.size(2), "y: expected as many coordinates as x");
  check_per_event(lengths_x_in, x_in, "lengths_x");
  check_per_event(lengths_y_in, y_in, "lengths_y");
  const Scope scope(x_in);
  const Tensor x = torch::stable::contiguous(x_in), y = torch::stable::contiguous(y_in);
  const Tensor lengths_x = torch::stable::contiguous(lengths_x_in), lengths_y = torch::stable::contiguous(lengths_y_in);
  const int64_t batch = x.size(0), rx = x.size(1), ry = y.size(1), dims = x.size(2);
  Tensor dx = new_tensor(x, {batch, rx}, x.scalar_type()), dy = new_tensor(x, {batch, ry}, x.scalar_type());
  Tensor ix = new_index(x, {batch, rx}), iy = new_index(x, {batch, ry});
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    const auto run = [&](const Tensor& a, const Tensor& b, const Tensor& la, const Tensor& lb, Tensor& d, Tensor& i) {
      if (d.numel() == 0) return;
      const auto find_partner =
          a.size(2) == 3   ? &find_nearest<T, 3>
          : a.size(2) == 4 ? &find_nearest<T, 4>
                           : &find_nearest<T, 0>;
      PUFFIN_LAUNCH(find_partner, blocks_for(d.numel()), threads_per_block, scope.stream, a.const_data_ptr<T>(),
                    b.const_data_ptr<T>(), la.const_data_ptr<int64_t>(), lb.const_data_ptr<int64_t>(), batch, a.size(1),
                    b.size(1), dims, d.mutable_data_ptr<T>(), i.mutable_data_ptr<int64_t>());
    };
    run(x, y, lengths_x, lengths_y, dx, ix);
    run(y, x, lengths_y, lengths_x, dy, iy);
  });
  return {dx, ix, dy, iy};
}

std::tuple<Tensor, Tensor> chamfer_backward(const Tensor grad_x_in, const Tensor grad_y_in, const Tensor x_in,
                                            const Tensor y_in, const Tensor index_x_in, const Tensor index_y_in) {
  check_points(x_in, "x");
  check_points(y_in, "y");
  check_alike(x_in, y_in, "y");
  const Scope scope(x_in);
  const Tensor x = torch::stable::contiguous(x_in), y = torch::stable::contiguous(y_in);
  const Tensor grad_x = torch::stable::contiguous(grad_x_in), grad_y = torch::stable::contiguous(grad_y_in);
  const Tensor index_x = torch::stable::contiguous(index_x_in), index_y = torch::stable::contiguous(index_y_in);
  const int64_t batch = x.size(0), rx = x.size(1), ry = y.size(1), dims = x.size(2);
  STD_TORCH_CHECK(y.size(2) == dims, "y: expected as many coordinates as x");
  for (const Tensor& t : {grad_x, index_x})
    STD_TORCH_CHECK(t.dim() == 2 && t.size(0) == batch && t.size(1) == rx, "grad_x, index_x: expected (B, N)");
  for (const Tensor& t : {grad_y, index_y})
    STD_TORCH_CHECK(t.dim() == 2 && t.size(0) == batch && t.size(1) == ry, "grad_y, index_y: expected (B, M)");
  Tensor out_x = torch::stable::empty_like(x), out_y = torch::stable::empty_like(y);
  for_float_type(x, [&](auto type) {
    using T = decltype(type);
    const auto run = [&](const Tensor& ga, const Tensor& gb, const Tensor& a, const Tensor& b, const Tensor& ja,
                         const Tensor& jb, Tensor& out) {
      if (ga.numel() == 0) return;
      PUFFIN_LAUNCH(gather_gradient<T>, blocks_for(a.numel()), threads_per_block, scope.stream, ga.const_data_ptr<T>(),
                    gb.const_data_ptr<T>(), a.const_data_ptr<T>(), b.const_data_ptr<T>(), ja.const_data_ptr<int64_t>(),
                    jb.const_data_ptr<int64_t>(), batch, a.size(1), b.size(1), dims, out.mutable_data_ptr<T>());
    };
    run(grad_x, grad_y, x, y, index_x, index_y, out_x);
    run(grad_y, grad_x, y, x, index_y, index_x, out_y);
  });
  return {out_x, out_y};
}

}  // namespace puffin::cuda

PUFFIN_KERNELS(m) {
  m.impl("chamfer", TORCH_BOX(&puffin::cuda::chamfer));
  m.impl("chamfer_backward", TORCH_BOX(&puffin::cuda::chamfer_backward));
}
