// Helpers of the CPU and CUDA kernels: checks of the inputs, and new tensors. The error messages for users are in
// src/puffin/ops; the checks here protect the memory when an op is called directly.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace puffin {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check_floating(const Tensor& x, const char* name) {
  const auto type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, name, ": expected float32 or float64");
}

// points (B, N, D >= 3), float32 or float64
inline void check_points(const Tensor& points, const char* name) {
  STD_TORCH_CHECK(points.dim() == 3 && points.size(2) >= 3, name, ": expected (B, N, D >= 3)");
  check_floating(points, name);
}

// a and b must have the same batch size, dtype and device
inline void check_alike(const Tensor& a, const Tensor& b, const char* name) {
  STD_TORCH_CHECK(a.size(0) == b.size(0), name, ": expected the same batch size as the first argument");
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type(), name, ": expected the same dtype as the first argument");
  STD_TORCH_CHECK(a.device() == b.device(), name, ": expected the same device as the first argument");
}

// one int64 per event
inline void check_per_event(const Tensor& values, const Tensor& points, const char* name) {
  STD_TORCH_CHECK(values.dim() == 1 && values.size(0) == points.size(0), name, ": expected (B,)");
  STD_TORCH_CHECK(values.scalar_type() == ScalarType::Long, name, ": expected int64");
  STD_TORCH_CHECK(values.device() == points.device(), name, ": expected the device of the points");
}

inline Tensor new_tensor(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  return torch::stable::new_empty(like, {sizes.begin(), sizes.size()}, type);
}

inline Tensor new_index(const Tensor& like, std::initializer_list<int64_t> sizes) {
  return new_tensor(like, sizes, ScalarType::Long);
}

inline std::optional<Tensor> contiguous(const std::optional<Tensor>& x) {
  return x ? std::optional<Tensor>(torch::stable::contiguous(*x)) : std::nullopt;
}

// A matrix (rows, columns) as its columns, one after another in memory: (columns, rows). Copies nothing if the matrix
// is stored by columns.
inline Tensor stored_by_columns(const Tensor& matrix) {
  return torch::stable::contiguous(torch::stable::transpose(matrix, 0, 1));
}

template <class T>
const T* data_or_null(const std::optional<Tensor>& x) {
  return x ? x->const_data_ptr<T>() : nullptr;
}

// Calls fn(float{}) or fn(double{}).
template <class F>
void for_float_type(const Tensor& points, F&& fn) {
  if (points.scalar_type() == ScalarType::Float)
    fn(float{});
  else
    fn(double{});
}

}  // namespace puffin
