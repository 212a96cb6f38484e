// Sums of outer products over many rows, a^T b, for the gradients of matrices: both factors are computed on the fly.
// Each block adds up the rows of some tiles in registers and writes its sum; a second kernel adds these sums in order.
//
// A job says what is multiplied (mix.cu, messages.cu):
//   T, parts, Value                    as in tile.cuh
//   rows, left_columns, right_columns  sizes: the result is (left_columns, right_columns) for each part
//   left(row, column), right(row, column)   the numbers of the two factors
//   store(part, i, j, value)           where the result goes
#pragma once

#include "tile.cuh"

namespace puffin::cuda {

constexpr int outer_threads = 256, outer_width = 64;  // the widest piece of a factor
constexpr int outer_most_blocks = 512;                // fixed, so that no sum depends on the GPU
constexpr int outer_slices = 8;                       // threads that add up the partial sums of one number

// Rows in shared memory at once, which has 32 KB for both factors.
template <class Job>
constexpr int outer_rows = 256 / int(sizeof(typename Job::T)) / Job::parts;

// How the result is cut into pieces, and the number of blocks (and of partial sums) that share the rows of each piece.
struct OuterPlan {
  int left_width, left_chunks, right_width, right_chunks;
  int64_t tiles, sums;
};

template <class Job>
OuterPlan plan_outer(const Job& job) {
  const auto pieces = [](int64_t n, int64_t most) { return (n + most - 1) / most; };
  OuterPlan plan;
  plan.left_width = int(pieces(job.left_columns, pieces(job.left_columns, outer_width)));
  plan.left_chunks = int(pieces(job.left_columns, plan.left_width));
  plan.right_width = int(pieces(job.right_columns, pieces(job.right_columns, outer_width)));
  plan.right_chunks = int(pieces(job.right_columns, plan.right_width));
  plan.tiles = pieces(job.rows, outer_rows<Job>);
  // at least four tiles for each block, so that the partial sums are fewer than the rows
  plan.sums = std::min(pieces(plan.tiles, 4), pieces(outer_most_blocks, int64_t(plan.left_chunks) * plan.right_chunks));
  return plan;
}

// Adds a^T b to the sums of one thread: eight columns of a and four of b, which are stored by rows.
template <class T>
__device__ inline void multiply_columns(const T* a, const T* b, int rows, T (&sum)[8][4]) {
  for (int k = 0; k < rows; ++k) {
    const Four<T> low = four(a + k * outer_width), high = four(a + k * outer_width + 4);
    const Four<T> right = four(b + k * outer_width);
    PUFFIN_UNROLL()
    for (int i = 0; i < 4; ++i) PUFFIN_UNROLL()
    for (int j = 0; j < 4; ++j) {
      sum[i][j] = multiply_add(low.at[i], right.at[j], sum[i][j]);
      sum[4 + i][j] = multiply_add(high.at[i], right.at[j], sum[4 + i][j]);
    }
  }
}

// partial (sums, parts, left_columns, right_columns)
template <class Job>
__global__ void __launch_bounds__(outer_threads)
    add_outer_products(const Job job, const OuterPlan plan, typename Job::T* partial) {
  using T = typename Job::T;
  using Value = typename Job::Value;
  constexpr int parts = Job::parts, rows = outer_rows<Job>, part_words = rows * outer_width;
  PUFFIN_SHARED(Four<T>[parts * part_words / 4], left_memory);
  PUFFIN_SHARED(Four<T>[parts * part_words / 4], right_memory);
  T *a = left_memory[0].at, *b = right_memory[0].at;
  const int chunk = blockIdx.x % (plan.left_chunks * plan.right_chunks);
  const int64_t slot = blockIdx.x / (plan.left_chunks * plan.right_chunks);
  const int64_t first_left = int64_t(chunk / plan.right_chunks) * plan.left_width;
  const int64_t first_right = int64_t(chunk % plan.right_chunks) * plan.right_width;
  const int left = int(smaller<int64_t>(plan.left_width, job.left_columns - first_left));
  const int right = int(smaller<int64_t>(plan.right_width, job.right_columns - first_right));
  const int left_groups = (left + 7) / 8, right_groups = (right + 3) / 4;
  const int j = 4 * (threadIdx.x % right_groups), i = 8 * (threadIdx.x / right_groups % left_groups);
  const int part = threadIdx.x / (right_groups * left_groups);
  T sum[8][4] = {};
  for (int64_t tile = slot; tile < plan.tiles; tile += plan.sums) {
    const int64_t first = tile * rows;
    const int height = int(smaller<int64_t>(rows, job.rows - first));
    __syncthreads();  // the tile before has been used
    for_each_element<Value>(
        height, 8 * left_groups, [&](int r, int c) { return c < left ? job.left(first + r, first_left + c) : Value{}; },
        [&](int r, int c, const Value& value) {
          for (int p = 0; p < parts; ++p) a[p * part_words + r * outer_width + c] = value.part[p];
        });
    for_each_element<Value>(
        height, 4 * right_groups,
        [&](int r, int c) { return c < right ? job.right(first + r, first_right + c) : Value{}; },
        [&](int r, int c, const Value& value) {
          for (int p = 0; p < parts; ++p) b[p * part_words + r * outer_width + c] = value.part[p];
        });
    __syncthreads();
    if (part < parts) multiply_columns(a + part * part_words + i, b + part * part_words + j, height, sum);
  }
  if (part >= parts) return;
  for (int r = 0; r < 8; ++r)
    for (int c = 0; c < 4; ++c)
      if (i + r < left && j + c < right)
        partial[((slot * parts + part) * job.left_columns + first_left + i + r) * job.right_columns + first_right + j +
                c] = sum[r][c];
}

// Adds the partial sums in order: eight threads of a block add every eighth each, and one adds these.
template <class Job>
__global__ void __launch_bounds__(outer_threads)
    add_partial_sums(const Job job, const typename Job::T* partial, int64_t sums) {
  constexpr int numbers = outer_threads / outer_slices;
  PUFFIN_SHARED(double[outer_threads], shares);
  const int64_t size = job.left_columns * job.right_columns, count = Job::parts * size;
  const int64_t number = int64_t(blockIdx.x) * numbers + threadIdx.x % numbers;
  double share = 0;
  if (number < count) {
    PUFFIN_UNROLL(8)
    for (int64_t s = threadIdx.x / numbers; s < sums; s += outer_slices) share += double(partial[s * count + number]);
  }
  shares[threadIdx.x] = share;
  __syncthreads();
  if (threadIdx.x >= numbers || number >= count) return;
  for (int slice = 1; slice < outer_slices; ++slice) share += shares[slice * numbers + threadIdx.x];
  const int64_t at = number % size;
  job.store(int(number / size), at / job.right_columns, at % job.right_columns, typename Job::T(share));
}

// Computes a job's sums over all of its rows; 0 without rows.
template <class Job>
void sum_outer_products(const Job& job, const Tensor& like, const Scope& scope) {
  using T = typename Job::T;
  const int64_t count = Job::parts * job.left_columns * job.right_columns;
  if (count == 0) return;
  const OuterPlan plan = plan_outer(job);
  Tensor partial = new_tensor(like, {plan.sums, count}, like.scalar_type());
  if (plan.sums > 0)
    PUFFIN_LAUNCH(add_outer_products<Job>, unsigned(plan.sums * plan.left_chunks * plan.right_chunks), outer_threads,
                  scope.stream, job, plan, partial.mutable_data_ptr<T>());
  constexpr int numbers = outer_threads / outer_slices;
  PUFFIN_LAUNCH(add_partial_sums<Job>, unsigned((count + numbers - 1) / numbers), outer_threads, scope.stream, job,
                partial.const_data_ptr<T>(), plan.sums);
}

}  // namespace puffin::cuda
