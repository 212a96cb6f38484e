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

constexpr int outer_sums = 32;  // of each thread: eight columns of the left factor, four of the right one

// How the result is cut into pieces, and the number of blocks (and of partial sums) that share the rows of each piece.
struct OuterPlan {
  int left_width, left_chunks, left_groups;     // columns of a piece; pieces; groups of eight columns of a piece
  int right_width, right_chunks, right_groups;  // the same, groups of four
  int workers;                                  // threads that multiply
  int64_t tiles, sums;

  __host__ __device__ int chunks() const { return left_chunks * right_chunks; }
};

// What a thread multiplies: a part of the products, and the first of its columns within the piece.
struct OuterShare {
  int part, left, right;
};

__device__ inline OuterShare share_of(const OuterPlan& plan, int thread) {
  const int group = thread / plan.right_groups;
  return {group / plan.left_groups, group % plan.left_groups * 8, thread % plan.right_groups * 4};
}

template <class Job>
OuterPlan plan_outer(const Job& job) {
  const auto pieces = [](int64_t n, int64_t most) { return int((n + most - 1) / most); };
  OuterPlan plan;
  plan.left_width = pieces(job.left_columns, pieces(job.left_columns, outer_width));
  plan.left_chunks = pieces(job.left_columns, plan.left_width);
  plan.left_groups = pieces(plan.left_width, 8);
  plan.right_width = pieces(job.right_columns, pieces(job.right_columns, outer_width));
  plan.right_chunks = pieces(job.right_columns, plan.right_width);
  plan.right_groups = pieces(plan.right_width, 4);
  plan.workers = Job::parts * plan.left_groups * plan.right_groups;
  plan.tiles = (job.rows + outer_rows<Job> - 1) / outer_rows<Job>;
  // at least four tiles for each block, so that the partial sums are fewer than the rows
  plan.sums = std::min<int64_t>((plan.tiles + 3) / 4, pieces(outer_most_blocks, plan.chunks()));
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

// Shared memory for `height` rows of a factor, (parts, rows, outer_width); beyond `width` columns 0.
template <class Job, class Read>
__device__ inline void load_factor(int height, int width, int padded, const Read& read, typename Job::T* to) {
  using Value = typename Job::Value;
  for_each_element<Value>(
      height, padded,
      [&](int r, int c) {
        const Value value = read(r, smaller(c, width - 1));  // all lanes read together, in the padding too
        return c < width ? value : Value{};
      },
      [&](int r, int c, const Value& value) {
        for (int p = 0; p < Job::parts; ++p) to[(p * outer_rows<Job> + r) * outer_width + c] = value.part[p];
      });
}

// partial (sums, chunks, outer_sums, workers): neighbouring threads write neighbouring numbers
template <class Job>
__global__ void __launch_bounds__(outer_threads)
    add_outer_products(const Job job, const OuterPlan plan, typename Job::T* partial) {
  using T = typename Job::T;
  constexpr int rows = outer_rows<Job>, part_words = rows * outer_width;
  PUFFIN_SHARED(Four<T>[Job::parts * part_words / 4], left_memory);
  PUFFIN_SHARED(Four<T>[Job::parts * part_words / 4], right_memory);
  T *a = left_memory[0].at, *b = right_memory[0].at;
  const int chunk = blockIdx.x % plan.chunks();
  const int64_t slot = blockIdx.x / plan.chunks();
  const int64_t first_left = int64_t(chunk / plan.right_chunks) * plan.left_width;
  const int64_t first_right = int64_t(chunk % plan.right_chunks) * plan.right_width;
  const int left = int(smaller<int64_t>(plan.left_width, job.left_columns - first_left));
  const int right = int(smaller<int64_t>(plan.right_width, job.right_columns - first_right));
  const OuterShare own = share_of(plan, threadIdx.x);
  const bool multiplies = int(threadIdx.x) < plan.workers;
  T sum[8][4] = {};
  for (int64_t tile = slot; tile < plan.tiles; tile += plan.sums) {
    const int64_t first = tile * rows;
    const int height = int(smaller<int64_t>(rows, job.rows - first));
    __syncthreads();  // the tile before has been used
    load_factor<Job>(
        height, left, 8 * plan.left_groups, [&](int r, int c) { return job.left(first + r, first_left + c); }, a);
    load_factor<Job>(
        height, right, 4 * plan.right_groups, [&](int r, int c) { return job.right(first + r, first_right + c); }, b);
    __syncthreads();
    if (multiplies)
      multiply_columns(a + own.part * part_words + own.left, b + own.part * part_words + own.right, height, sum);
  }
  if (!multiplies) return;
  T* to = partial + (slot * plan.chunks() + chunk) * outer_sums * plan.workers + threadIdx.x;
  PUFFIN_UNROLL()
  for (int k = 0; k < outer_sums; ++k) to[k * plan.workers] = sum[k / 4][k % 4];
}

// Adds the partial sums in order: eight threads of a block add every eighth each, and one adds these.
template <class Job>
__global__ void __launch_bounds__(outer_threads)
    add_partial_sums(const Job job, const OuterPlan plan, const typename Job::T* partial) {
  constexpr int numbers = outer_threads / outer_slices;
  PUFFIN_SHARED(double[outer_threads], shares);
  const int size = outer_sums * plan.workers, count = plan.chunks() * size;
  const int number = blockIdx.x * numbers + threadIdx.x % numbers;
  double share = 0;
  if (number < count) {
    PUFFIN_UNROLL(8)
    for (int64_t s = threadIdx.x / numbers; s < plan.sums; s += outer_slices)
      share += double(partial[s * count + number]);
  }
  shares[threadIdx.x] = share;
  __syncthreads();
  if (threadIdx.x >= numbers || number >= count) return;
  for (int slice = 1; slice < outer_slices; ++slice) share += shares[slice * numbers + threadIdx.x];
  const int chunk = number / size, k = number % size / plan.workers;
  const OuterShare own = share_of(plan, number % plan.workers);
  const int i = own.left + k / 4, j = own.right + k % 4;
  const int64_t left = int64_t(chunk / plan.right_chunks) * plan.left_width + i;
  const int64_t right = int64_t(chunk % plan.right_chunks) * plan.right_width + j;
  if (i < plan.left_width && j < plan.right_width && left < job.left_columns && right < job.right_columns)
    job.store(own.part, left, right, typename Job::T(share));
}

// Computes a job's sums over all of its rows; 0 without rows.
template <class Job>
void sum_outer_products(const Job& job, const Tensor& like, const Scope& scope) {
  using T = typename Job::T;
  if (job.left_columns == 0 || job.right_columns == 0) return;
  const OuterPlan plan = plan_outer(job);
  const int64_t count = int64_t(plan.chunks()) * outer_sums * plan.workers;
  Tensor partial = new_tensor(like, {plan.sums, count}, like.scalar_type());
  if (plan.sums > 0)
    PUFFIN_LAUNCH(add_outer_products<Job>, unsigned(plan.sums * plan.chunks()), outer_threads, scope.stream, job, plan,
                  partial.mutable_data_ptr<T>());
  constexpr int numbers = outer_threads / outer_slices;
  PUFFIN_LAUNCH(add_partial_sums<Job>, unsigned((count + numbers - 1) / numbers), outer_threads, scope.stream, job,
                plan, partial.const_data_ptr<T>());
}

}  // namespace puffin::cuda
