// Loops over threads, and checks of event lengths, for the CPU kernels.
#pragma once

#include "../common.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>

namespace puffin {

// Calls fn(i) for i in 0..count-1. Threads take the tasks one by one, which balances tasks of different sizes. What
// fn(i) writes must depend on i only, so that no result depends on the number of threads. If tasks raise errors, that
// of the first task is raised here: torch::stable::parallel_for would drop its text.
template <class F>
void for_each_task(int64_t count, const F& fn) {
  const int64_t threads = std::min<int64_t>(count, torch::stable::get_num_threads());
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) fn(i);
    return;
  }
  std::atomic<int64_t> next{0};
  std::mutex lock;
  int64_t failed = count;
  std::exception_ptr error;
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      try {
        fn(i);
      } catch (...) {
        next = count;  // the tasks before i have been taken, the others need not run
        const std::lock_guard<std::mutex> hold(lock);
        if (i < failed) error = std::current_exception();
        failed = std::min(failed, i);
      }
    }
  });
  if (error) std::rethrow_exception(error);
}

// The lengths of a contiguous int64 (B,) tensor, checked against the padded size.
inline const int64_t* checked_lengths(const Tensor& lengths, int64_t size, const char* name) {
  const int64_t* values = lengths.const_data_ptr<int64_t>();
  for (int64_t b = 0; b < lengths.size(0); ++b)
    STD_TORCH_CHECK(values[b] >= 0 && values[b] <= size, name, ": expected values in 0..", size, ", got ", values[b],
                    " for event ", b);
  return values;
}

// The first row of each segment, then `rows`: a contiguous int64 (S + 1,) tensor, checked.
inline const int64_t* checked_ptr(const Tensor& ptr, int64_t rows) {
  STD_TORCH_CHECK(
      ptr.dim() == 1 && ptr.size(0) > 0 && ptr.is_contiguous() && ptr.is_cpu() && ptr.scalar_type() == ScalarType::Long,
      "ptr: expected contiguous (S + 1,) int64 on the CPU");
  const int64_t* first = ptr.const_data_ptr<int64_t>();
  const int64_t count = ptr.size(0) - 1;
  STD_TORCH_CHECK(first[0] == 0 && first[count] == rows, "ptr: expected to run from 0 to ", rows);
  for (int64_t s = 0; s < count; ++s) STD_TORCH_CHECK(first[s] <= first[s + 1], "ptr: expected ascending values");
  return first;
}

}  // namespace puffin
