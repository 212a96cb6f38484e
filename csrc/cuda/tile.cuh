// Products of many rows with a small matrix, for kernels that compute the rows on the fly and use the result at once:
// y = finish(x W). A block multiplies one tile of rows after the other; W stays in shared memory where it fits.
//
// A job says what is multiplied (mix.cu, messages.cu):
//   T, parts               the type, and the number of products that are computed side by side
//   Value                  one number for each part
//   Notes                  what the job keeps in shared memory for the rows of a tile
//   State                  what each thread keeps in registers from tile to tile
//   rows, inner, outer     sizes: (rows, inner) (inner, outer) -> (rows, outer)
//   left(row, k)           the numbers of one row, computed from global memory
//   right(k, column)       those of the matrices
//   stored_by_columns      whether numbers of neighbouring k, instead of columns, are neighbours in memory
//   note(notes, r, row)    fills in the notes of row r of the tile
//   finish(tile, notes, state), end(state, notes, ...)   what happens with the products of a tile, and after the last
#pragma once

#include "device.cuh"

namespace puffin::cuda {

constexpr int tile_threads = 128, tile_most_rows = 128, tile_most_columns = 64;
constexpr int tile_most_blocks = 1024;  // enough for the largest GPUs; fixed, so that no sum depends on the GPU

// Bytes of shared memory for the rows of a tile and for the matrices: with a job's notes less than 48 KB, and large
// enough for 56 pairs of the preset 48k (60 -> 35 channels, two float32 products) at once.
constexpr int tile_row_bytes = 27648, tile_matrix_bytes = 17408;

// Four neighbouring numbers, which one instruction (two for double) reads from shared memory.
template <class T>
struct alignas(16) Four {
  T at[4];
};

template <class T>
__device__ inline const Four<T>& four(const T* p) {
  return *reinterpret_cast<const Four<T>*>(p);
}
template <class T>
__device__ inline Four<T>& four(T* p) {
  return *reinterpret_cast<Four<T>*>(p);
}

// The build has --fmad=false, so that distances are the same everywhere; products ask for fused operations.
template <class T>
__device__ inline T multiply_add(T a, T b, T c) {
  return std::fma(a, b, c);
}

// Rows that each thread multiplies at once: with four columns each, its sums fill 32 registers.
template <class Job>
constexpr int rows_per_thread = 32 / int(sizeof(typename Job::T)) / Job::parts;

template <class Job>
constexpr int row_words = tile_row_bytes / int(sizeof(typename Job::T));

// Calls write(row, column, read(row, column)) for a table. The threads of the block take neighbouring columns, and each
// reads four numbers before it writes the first, so that their latencies overlap.
template <class Value, class Read, class Write>
__device__ inline void for_each_element(int height, int width, const Read& read, const Write& write) {
  constexpr int batch = 4;
  const int down = blockDim.x / width, right = blockDim.x % width;
  int row = threadIdx.x / width, column = threadIdx.x % width;
  while (row < height) {
    Value values[batch];
    int rows[batch], columns[batch];
    PUFFIN_UNROLL()
    for (int b = 0; b < batch; ++b) {
      rows[b] = row;
      columns[b] = column;
      if (row < height) values[b] = read(row, column);
      row += down;
      column += right;
      if (column >= width) {
        column -= width;
        ++row;
      }
    }
    PUFFIN_UNROLL()
    for (int b = 0; b < batch; ++b)
      if (rows[b] < height) write(rows[b], columns[b], values[b]);
  }
}

struct Nothing {};  // the notes or the state of a job that has none

// How a product is cut into pieces. The last columns and the last part of the inner dimension may be shorter.
struct TilePlan {
  int groups;                  // of four columns, each multiplied by one thread
  int columns, column_chunks;  // per block; number of pieces
  int inner, inner_chunks;     // in shared memory at once, a multiple of four; number of pieces
  int stride;                  // of rows in shared memory
  int row_threads, height;     // threads that share a group of columns; rows of a tile
  int64_t tiles;
  unsigned blocks;
};

inline int up_to_four(int64_t n) { return int((n + 3) / 4 * 4); }

template <class Job>
TilePlan plan_tiles(const Job& job) {
  constexpr int most_inner = 64, rows = rows_per_thread<Job>, parts = Job::parts;
  constexpr int matrix_words = tile_matrix_bytes / int(sizeof(typename Job::T));
  const auto pieces = [](int64_t n, int64_t most) { return (n + most - 1) / most; };
  // rows that begin 16 bytes apart (modulo 32) are in different banks
  const auto padded = [](int width) { return width % 8 == 4 ? width : width + 4; };
  TilePlan plan;
  plan.columns = up_to_four(pieces(job.outer, pieces(job.outer, tile_most_columns)));
  plan.column_chunks = int(pieces(job.outer, plan.columns));
  plan.groups = plan.columns / 4;
  const int whole = up_to_four(std::clamp<int64_t>(job.inner, 1, most_inner));
  plan.row_threads =
      std::min({tile_threads / plan.groups, tile_most_rows / rows, row_words<Job> / (parts * rows * padded(whole))});
  plan.height = plan.row_threads * rows;
  const int most = std::min(whole, matrix_words / (parts * plan.columns) / 4 * 4);
  plan.inner = up_to_four(pieces(std::max<int64_t>(job.inner, 1), pieces(std::max<int64_t>(job.inner, 1), most)));
  plan.inner_chunks = int(pieces(job.inner, plan.inner));
  plan.stride = padded(plan.inner);
  plan.tiles = pieces(job.rows, plan.height);
  plan.blocks = unsigned(plan.column_chunks * std::min(plan.tiles, pieces(tile_most_blocks, plan.column_chunks)));
  return plan;
}

// Adds a b to the sums of one thread, for each part: `rows_per_thread` rows of a, `row_step` apart, and four columns of
// b. a is stored by rows, so a thread reads four numbers of a row at once, and uses each for four columns.
template <class T, int parts, int rows>
__device__ inline void multiply_rows(const T* a, int a_part, int row_step, const T* b, int b_part, int b_stride,
                                     int inner, Four<T> (&sum)[parts][rows]) {
  for (int k = 0; k < inner; k += 4) PUFFIN_UNROLL()
  for (int p = 0; p < parts; ++p) {
    Four<T> left[rows];
    PUFFIN_UNROLL()
    for (int r = 0; r < rows; ++r) left[r] = four(a + p * a_part + r * row_step + k);
    PUFFIN_UNROLL()
    for (int q = 0; q < 4; ++q) {
      const Four<T> right = four(b + p * b_part + (k + q) * b_stride);
      PUFFIN_UNROLL()
      for (int r = 0; r < rows; ++r) PUFFIN_UNROLL()
      for (int c = 0; c < 4; ++c) sum[p][r].at[c] = multiply_add(left[r].at[q], right.at[c], sum[p][r].at[c]);
    }
  }
}

// The products of one tile in shared memory: part p of row r and column c is at(p, r, c). They are the rows first_row
// and following, and the columns first_column and following, of the result.
template <class T>
struct Products {
  const T* data;
  int part, stride, height, width;
  int64_t first_row, first_column;
  __device__ T at(int p, int r, int c) const { return data[p * part + r * stride + c]; }
};

// What a job with one part works with.
template <class T>
struct One {
  T part[1];
};

// Writes the products of such a job as they are, to a matrix (rows, columns).
template <class T>
__device__ inline void store_products(const Products<T>& tile, T* to, int64_t columns) {
  using Value = One<T>;
  for_each_element<Value>(
      tile.height, tile.width, [&](int r, int c) { return Value{{tile.at(0, r, c)}}; },
      [&](int r, int c, const Value& value) {
        to[(tile.first_row + r) * columns + tile.first_column + c] = value.part[0];
      });
}

// Shared memory for a (parts, rows, width), of which `height` rows and `inner` columns are not padding. A thread in the
// padding reads the nearest number and stores 0, so that all lanes of a warp read together.
template <class Job>
__device__ inline void load_rows(const Job& job, const TilePlan& plan, int64_t first_row, int height, int64_t first,
                                 typename Job::T* a) {
  using Value = typename Job::Value;
  const int inner = int(smaller<int64_t>(plan.inner, job.inner - first)), part = plan.height * plan.stride;
  for_each_element<Value>(
      plan.height, plan.inner,
      [&](int r, int k) {
        const Value value = job.left(first_row + smaller(r, height - 1), first + smaller(k, inner - 1));
        return r < height && k < inner ? value : Value{};
      },
      [&](int r, int k, const Value& value) {
        for (int p = 0; p < Job::parts; ++p) a[p * part + r * plan.stride + k] = value.part[p];
      });
}

// The same for the matrices (parts, inner, columns), in the order in which the job has them in memory.
template <class Job>
__device__ inline void load_matrices(const Job& job, const TilePlan& plan, int64_t first, int64_t first_column,
                                     int width, typename Job::T* b) {
  using Value = typename Job::Value;
  const int inner = int(smaller<int64_t>(plan.inner, job.inner - first)), part = plan.inner * plan.columns;
  const auto read = [&](int k, int c) {
    const Value value = job.right(first + smaller(k, inner - 1), first_column + smaller(c, width - 1));
    return k < inner && c < width ? value : Value{};
  };
  const auto write = [&](int k, int c, const Value& value) {
    for (int p = 0; p < Job::parts; ++p) b[p * part + k * plan.columns + c] = value.part[p];
  };
  if constexpr (Job::stored_by_columns)
    for_each_element<Value>(
        plan.columns, plan.inner, [&](int c, int k) { return read(k, c); },
        [&](int c, int k, const Value& value) { write(k, c, value); });
  else
    for_each_element<Value>(plan.inner, plan.columns, read, write);
}

// The fewest blocks of a multiprocessor that the compiler leaves registers for. Four is what shared memory holds.
template <class Job>
constexpr int tile_resident = sizeof(typename Job::T) == 4 ? 4 : 3;

template <class Job>
__global__ void __launch_bounds__(tile_threads, tile_resident<Job>) multiply_tiles(const Job job, const TilePlan plan) {
  using T = typename Job::T;
  constexpr int parts = Job::parts, rows = rows_per_thread<Job>;
  PUFFIN_SHARED(Four<T>[tile_row_bytes / (4 * sizeof(T))], row_memory);
  PUFFIN_SHARED(Four<T>[tile_matrix_bytes / (4 * sizeof(T))], matrix_memory);
  PUFFIN_SHARED(typename Job::Notes, notes);
  T *a = row_memory[0].at, *b = matrix_memory[0].at;
  const int a_part = plan.height * plan.stride, b_part = plan.inner * plan.columns;
  const int group = threadIdx.x % plan.groups, own_row = threadIdx.x / plan.groups;
  const bool multiplies = own_row < plan.row_threads;
  const int64_t first_column = int64_t(blockIdx.x % plan.column_chunks) * plan.columns;
  const int width = int(smaller<int64_t>(plan.columns, job.outer - first_column));
  typename Job::State state{};
  bool fresh = true;  // the matrices are not yet in shared memory
  for (int64_t tile = blockIdx.x / plan.column_chunks; tile < plan.tiles; tile += gridDim.x / plan.column_chunks) {
    const int64_t first_row = tile * plan.height;
    const int height = int(smaller<int64_t>(plan.height, job.rows - first_row));
    Four<T> sum[parts][rows] = {};
    for (int chunk = 0; chunk < plan.inner_chunks; ++chunk) {
      const int64_t first = int64_t(chunk) * plan.inner;
      __syncthreads();  // what is overwritten now has been used
      load_rows(job, plan, first_row, height, first, a);
      if (fresh || plan.inner_chunks > 1) load_matrices(job, plan, first, first_column, width, b);
      fresh = false;
      __syncthreads();
      if (multiplies)
        multiply_rows(a + own_row * plan.stride, a_part, plan.row_threads * plan.stride, b + 4 * group, b_part,
                      plan.columns, plan.inner, sum);
    }
    __syncthreads();  // the products take the place of the rows
    const Products<T> products{a, plan.height * plan.columns, plan.columns, height, width, first_row, first_column};
    if (multiplies)
      for (int p = 0; p < parts; ++p)
        for (int r = 0; r < rows; ++r)
          four(a + p * products.part + (own_row + r * plan.row_threads) * products.stride + 4 * group) = sum[p][r];
    for (int r = threadIdx.x; r < height; r += blockDim.x) job.note(notes, r, first_row + r);
    __syncthreads();
    job.finish(products, notes, state);
  }
  job.end(notes, state, first_column, width, blockIdx.x / plan.column_chunks);
}

}  // namespace puffin::cuda
