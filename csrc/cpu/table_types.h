// Element types of the tables of pairs, and which types the other arguments of their kernels have.
#pragma once

#include "checks.h"

#include <cstring>
#include <type_traits>

namespace puffin {

// A bfloat16 number, and two that are neighbours in memory.
struct Bf16 {
  uint16_t bits;
};
struct Bf16Pair {
  Bf16 first, second;
};

// float32, float64 or bfloat16
inline void check_table(const Tensor& x, std::initializer_list<int64_t> sizes, const char* name) {
  check_sizes(x, sizes, name);
  const auto type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::BFloat16, name,
                  ": expected float32, float64 or bfloat16");
}

// The type of everything that is not a table: that of the table, but float32 for a table of bfloat16.
inline ScalarType type_of_sums(const Tensor& table) {
  return table.scalar_type() == ScalarType::BFloat16 ? ScalarType::Float : table.scalar_type();
}

// Calls fn(float{}), fn(double{}) or fn(Bf16{}).
template <class F>
void for_table_type(const Tensor& table, F&& fn) {
  if (table.scalar_type() == ScalarType::BFloat16)
    fn(Bf16{});
  else if (table.scalar_type() == ScalarType::Float)
    fn(float{});
  else
    fn(double{});
}

template <class E>
const E* table_data(const Tensor& table) {
  return static_cast<const E*>(table.const_data_ptr());
}
template <class E>
E* mutable_table_data(const Tensor& table) {
  return static_cast<E*>(table.mutable_data_ptr());
}

}  // namespace puffin
