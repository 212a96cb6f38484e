// Products over the existing entries of a table of rows. The entries of a tile of outputs are listed offset by offset,
// so that several rows are multiplied by the same matrix in registers. The rows of a tile stay in the cache for all
// offsets.
#include "gemm_tile.h"

constexpr int64_t sparse_tile = 256;  // outputs

// Lists the entries of a column of a table that are rows, and their positions among its first `rows` entries; returns
// their number. Sets `good` to false if an entry is not below `bound`. Both lists have room for 16 numbers more.
static inline int32_t list_existing(const int32_t* column, int64_t rows, int32_t bound, int32_t* input, int32_t* output,
                                    bool& good) {
  int32_t count = 0;
#if PUFFIN_WIDTH == 64
  __m512i position = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __mmask16 wrong = 0;
  for (int64_t t = 0; t < rows; t += 16) {
    const __m512i entry = _mm512_mask_loadu_epi32(_mm512_set1_epi32(-1), first_lanes(rows - t), column + t);
    const __mmask16 exists = _mm512_cmpge_epi32_mask(entry, _mm512_setzero_si512());
    _mm512_storeu_si512(input + count, _mm512_maskz_compress_epi32(exists, entry));
    _mm512_storeu_si512(output + count, _mm512_maskz_compress_epi32(exists, position));
    count += __builtin_popcount(exists);
    position = _mm512_add_epi32(position, _mm512_set1_epi32(16));
    wrong |= _mm512_cmpge_epi32_mask(entry, _mm512_set1_epi32(bound));
  }
  good &= wrong == 0;
#else
  for (int64_t t = 0; t < rows; ++t) {
    input[count] = column[t];
    output[count] = int32_t(t);
    count += column[t] >= 0;
    good &= column[t] < bound;
  }
#endif
  return count;
}

// The existing entries of a tile, offset by offset, in the order of the outputs: rows of x, and outputs, which count
// from the first row of the tile.
struct Entries {
  static constexpr int64_t room = sparse_tile + 16;

  int64_t offsets;
  std::vector<int32_t> inputs, outputs;  // (offsets, room)
  std::vector<int32_t> counts;

  explicit Entries(int64_t offsets)
      : offsets(offsets), inputs(offsets * room), outputs(offsets * room), counts(offsets) {}

  const int32_t* inputs_of(int64_t k) const { return inputs.data() + k * room; }
  const int32_t* outputs_of(int64_t k) const { return outputs.data() + k * room; }

  // Reads `rows` outputs of a table that is stored by columns, each `ld` long; returns whether all entries are below
  // `bound`.
  inline bool fill(const int32_t* table, int64_t ld, int64_t rows, int64_t bound) {
    bool good = true;
    for (int64_t k = 0; k < offsets; ++k)
      counts[k] = list_existing(
          table + k * ld, rows, int32_t(bound), inputs.data() + k * room, outputs.data() + k * room, good);
    return good;
  }
};

// Memory that begins at a whole vector.
template <class T>
struct Buffer {
  std::vector<T> memory;
  explicit Buffer(int64_t size) : memory(size + widest / sizeof(T)) {}
  T* data() {
    const auto address = reinterpret_cast<uintptr_t>(memory.data());
    return memory.data() + (-address % widest) / sizeof(T);
  }
};

// Adds the products of ROWS inputs, rows of x (inputs, inner), with b (inner, ld) to the outputs, rows of `sums`.
template <int ROWS, int VECTORS, class T>
static inline void add_products(const T* x, const int32_t* input, const int32_t* output, int64_t inner, const T* b,
                                int64_t ld, T* sums) {
  using S = Simd<T>;
  const T* from[ROWS];
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r) from[r] = x + input[r] * inner;
  const auto add = for_each_vector<T>([=](int64_t r, int64_t c, auto sum) {
    T* at = sums + output[r] * ld + c;
    S::store(at, S::load(at) + sum);
  });
  NothingAhead nothing;
  micro_product<T, ROWS, VECTORS>(
      inner, [&](int r, int64_t k) { return from[r][k]; },
      [=](int64_t k, int v) { return S::load(b + k * ld + v * S::lanes); }, [&](const auto& sum) { add(0, 0, sum); },
      nothing);
}

// Adds x^T g, for ROWS columns of the inputs of x (inputs, in) and `columns` of their outputs in g (outputs, out), to
// `sums` (ROWS, ld).
template <int ROWS, int VECTORS, class T>
static inline void add_outer_products(const T* x, int64_t in, const T* g, int64_t out, int64_t columns,
                                      const int32_t* input, const int32_t* output, int64_t count, T* sums, int64_t ld) {
  using S = Simd<T>;
  NothingAhead nothing;
  micro_product<T, ROWS, VECTORS>(
      count, [=](int r, int64_t i) { return x[input[i] * in + r]; },
      [=](int64_t i, int v) { return S::load_first(g + output[i] * out + v * S::lanes, columns - v * S::lanes); },
      [=](const auto& sum) { add_to(sums, ld)(0, 0, sum); }, nothing);
}

// Outputs y of `rows` rows of the table, of whose columns (offsets, table_ld) only these are read; inputs: rows of x.
// weight: (offsets, in, padded out). Returns false if an entry of the table is not below `inputs`. The sums of a row do
// not depend on the other rows.
template <class E, class T = Sum<E>>
bool convolve_rows(const T* x, int64_t inputs, const T* weight, const int32_t* table, int64_t table_ld, int64_t offsets,
                   int64_t rows, int64_t in, int64_t out, E* y) {
  using S = Simd<T>;
  const int64_t ld = padded<T>(out);
  Buffer<T> buffer(sparse_tile * ld);
  T* sums = buffer.data();
  Entries entries(offsets);
  for (int64_t first = 0; first < rows; first += sparse_tile) {
    const int64_t n = std::min(sparse_tile, rows - first);
    if (!entries.fill(table + first, table_ld, n, inputs)) return false;
    std::fill(sums, sums + n * ld, T(0));
    for (int64_t k = 0; k < offsets; ++k) {
      const int32_t *input = entries.inputs_of(k), *output = entries.outputs_of(k);
      const T* matrix = weight + k * in * ld;
      for_each_block<T>(entries.counts[k], ld, [=](int64_t r, auto height, int64_t c, auto vectors) {
        add_products<height.value, vectors.value>(x, input + r, output + r, in, matrix + c, ld, sums + c);
      });
    }
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < out; c += S::lanes) write(y + (first + r) * out + c, S::load(sums + r * ld + c), out - c);
  }
  return true;
}

// Adds to `sums` (offsets, in, padded out) the gradient of the weights from `rows` outputs, with their gradients g
// (rows, out). Returns as above.
template <class T>
bool add_weight_gradient(const T* x, int64_t inputs, const T* g, const int32_t* table, int64_t table_ld,
                         int64_t offsets, int64_t rows, int64_t in, int64_t out, T* sums) {
  const int64_t ld = padded<T>(out);
  Entries entries(offsets);
  for (int64_t first = 0; first < rows; first += sparse_tile) {
    const int64_t n = std::min(sparse_tile, rows - first);
    if (!entries.fill(table + first, table_ld, n, inputs)) return false;
    for (int64_t k = 0; k < offsets; ++k) {
      const int32_t *input = entries.inputs_of(k), *output = entries.outputs_of(k);
      const int64_t count = entries.counts[k];
      T* to = sums + k * in * ld;
      const T* own = g + first * out;
      if (count > 0)
        for_each_block<T>(in, ld, [=](int64_t r, auto height, int64_t c, auto vectors) {
          add_outer_products<height.value, vectors.value>(
              x + r, in, own + c, out, out - c, input, output, count, to + r * ld + c, ld);
        });
    }
  }
  return true;
}
