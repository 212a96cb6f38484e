// Products over the existing entries of a table of rows. The entries of a tile of outputs are listed offset by offset,
// so that several rows are multiplied by the same matrix in registers. The rows of a tile stay in the cache for all
// offsets.
#include "gemm_tile.h"

constexpr int64_t sparse_tile = 256;  // outputs

// Input row and output, which counts from the first row of the tile.
struct Entry {
  int32_t input, output;
};

// Bit i is set where entry i of the first n, at most 16, is a row.
static inline unsigned existing(const int32_t* p, int64_t n) {
#if PUFFIN_WIDTH == 64
  const __mmask16 first = first_lanes(n);
  return _mm512_mask_cmpge_epi32_mask(first, _mm512_maskz_loadu_epi32(first, p), _mm512_setzero_si512());
#else
  unsigned bits = 0;
  for (int i = 0; i < std::min<int64_t>(n, 16); ++i) bits |= unsigned(p[i] >= 0) << i;
  return bits;
#endif
}

// The existing entries of a tile, offset by offset, in the order of the outputs.
struct Entries {
  int64_t offsets;
  std::vector<Entry> of_offset;  // (offsets, sparse_tile)
  std::vector<int32_t> counts;

  explicit Entries(int64_t offsets) : offsets(offsets), of_offset(offsets * sparse_tile), counts(offsets) {}

  // Reads the rows of a table, and returns whether all entries are below `inputs`.
  inline bool fill(const int32_t* table, int64_t rows, int64_t inputs) {
    int32_t most = -1;
    std::fill(counts.begin(), counts.end(), 0);
    for (int64_t t = 0; t < rows; ++t, table += offsets)
      for (int64_t first = 0; first < offsets; first += 16)
        for (unsigned left = existing(table + first, offsets - first); left; left &= left - 1) {
          const int64_t k = first + __builtin_ctz(left);
          of_offset[k * sparse_tile + counts[k]++] = {table[k], int32_t(t)};
          most = std::max(most, table[k]);
        }
    return most < inputs;
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
static inline void add_products(const T* x, const Entry* entry, int64_t inner, const T* b, int64_t ld, T* sums) {
  using S = Simd<T>;
  const T* from[ROWS];
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r) from[r] = x + entry[r].input * inner;
  const auto add = for_each_vector<T>([=](int64_t r, int64_t c, auto sum) {
    T* at = sums + entry[r].output * ld + c;
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
                                      const Entry* entry, int64_t count, T* sums, int64_t ld) {
  using S = Simd<T>;
  NothingAhead nothing;
  micro_product<T, ROWS, VECTORS>(
      count, [=](int r, int64_t i) { return x[entry[i].input * in + r]; },
      [=](int64_t i, int v) { return S::load_first(g + entry[i].output * out + v * S::lanes, columns - v * S::lanes); },
      [=](const auto& sum) { add_to(sums, ld)(0, 0, sum); }, nothing);
}

// Outputs y of `rows` rows of the table (rows, offsets); inputs: rows of x. weight: (offsets, in, padded out). Returns
// false if an entry of the table is not below `inputs`. The sums of a row do not depend on the other rows.
template <class E, class T = Sum<E>>
bool convolve_rows(const T* x, int64_t inputs, const T* weight, const int32_t* table, int64_t offsets, int64_t rows,
                   int64_t in, int64_t out, E* y) {
  using S = Simd<T>;
  const int64_t ld = padded<T>(out);
  Buffer<T> buffer(sparse_tile * ld);
  T* sums = buffer.data();
  Entries entries(offsets);
  for (int64_t first = 0; first < rows; first += sparse_tile) {
    const int64_t n = std::min(sparse_tile, rows - first);
    if (!entries.fill(table + first * offsets, n, inputs)) return false;
    std::fill(sums, sums + n * ld, T(0));
    for (int64_t k = 0; k < offsets; ++k) {
      const Entry* entry = entries.of_offset.data() + k * sparse_tile;
      const T* matrix = weight + k * in * ld;
      for_each_block<T>(entries.counts[k], ld, [=](int64_t r, auto height, int64_t c, auto vectors) {
        add_products<height.value, vectors.value>(x, entry + r, in, matrix + c, ld, sums + c);
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
bool add_weight_gradient(const T* x, int64_t inputs, const T* g, const int32_t* table, int64_t offsets, int64_t rows,
                         int64_t in, int64_t out, T* sums) {
  const int64_t ld = padded<T>(out);
  Entries entries(offsets);
  for (int64_t first = 0; first < rows; first += sparse_tile) {
    const int64_t n = std::min(sparse_tile, rows - first);
    if (!entries.fill(table + first * offsets, n, inputs)) return false;
    for (int64_t k = 0; k < offsets; ++k) {
      const Entry* entry = entries.of_offset.data() + k * sparse_tile;
      const int64_t count = entries.counts[k];
      T* to = sums + k * in * ld;
      const T* own = g + first * out;
      if (count > 0)
        for_each_block<T>(in, ld, [=](int64_t r, auto height, int64_t c, auto vectors) {
          add_outer_products<height.value, vectors.value>(
              x + r, in, own + c, out, out - c, entry, count, to + r * ld + c, ld);
        });
    }
  }
  return true;
}
