// Small matrices for gemm_tile.h, whose rows are padded with zeros to whole vectors.
#pragma once

#include "../common.h"

#include <vector>

namespace puffin {

// (rows, columns) -> (rows, padded columns), or the transpose, padded. The matrix is contiguous.
template <class T>
std::vector<T> pad_matrix(const Tensor& matrix, bool transpose) {
  const int64_t rows = matrix.size(0), columns = matrix.size(1);
  const int64_t r = transpose ? columns : rows, c = transpose ? rows : columns, ld = baseline::padded<T>(c);
  std::vector<T> out(r * ld, T(0));
  const T* m = matrix.const_data_ptr<T>();
  for (int64_t i = 0; i < r; ++i)
    for (int64_t j = 0; j < c; ++j) out[i * ld + j] = transpose ? m[j * columns + i] : m[i * columns + j];
  return out;
}

// The same as words for a product with a table of elements E.
template <class E, class T = baseline::Sum<E>>
std::vector<T> pad_matrix_for(const Tensor& matrix, bool transpose) {
  std::vector<T> out = pad_matrix<T>(matrix, transpose);
  const int64_t inner = matrix.size(transpose ? 1 : 0), columns = matrix.size(transpose ? 0 : 1);
  PUFFIN_TABLE_CALL(E, make_words<E>, out.data(), inner, baseline::padded<T>(columns));
  return out;
}

}  // namespace puffin
