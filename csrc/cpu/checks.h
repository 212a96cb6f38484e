// Checks of tensors on the CPU.
#pragma once

#include "../common.h"

#include <string>

namespace puffin {

constexpr int64_t any = -1;  // a size that is not checked

inline void check_sizes(const Tensor& x, std::initializer_list<int64_t> sizes, const char* name) {
  bool fits = x.dim() == int64_t(sizes.size()) && x.is_cpu();
  int64_t d = 0;
  for (const int64_t size : sizes) {
    fits = fits && (size == any || x.size(d) == size);
    ++d;
  }
  if (fits) return;
  std::string text;
  for (const int64_t size : sizes) text += (text.empty() ? "" : ", ") + (size == any ? "any" : std::to_string(size));
  STD_TORCH_CHECK(false, name, ": expected sizes (", text, ") on the CPU");
}

inline void check_tensor(const Tensor& x, std::initializer_list<int64_t> sizes, ScalarType type, const char* name) {
  check_sizes(x, sizes, name);
  STD_TORCH_CHECK(x.scalar_type() == type, name, ": expected dtype ", torch::headeronly::toString(type), ", got ",
                  torch::headeronly::toString(x.scalar_type()));
}

inline void check_slope(double slope) {
  STD_TORCH_CHECK(slope >= 0 && slope <= 1, "slope: expected 0..1, got ", slope);
}

}  // namespace puffin
