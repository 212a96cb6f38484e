// Compiles the file PUFFIN_KERNEL once per instruction set, in the namespaces puffin::baseline, puffin::avx2 and
// puffin::avx512. PUFFIN_CALL(function<T>, arguments) chooses one at run time. There is no header guard: each source
// file has one PUFFIN_KERNEL and includes this header once.
//
// Kernels of tables (with PUFFIN_TABLES defined) are also compiled for puffin::avx512bf16, which multiplies bfloat16.
// PUFFIN_TABLE_CALL(E, function<E>, arguments) chooses that one too if the tables have elements E = Bf16 and the
// processor multiplies bfloat16 fast.
//
// All other code, the standard library included, is compiled for the baseline, so that none of its inline functions
// uses instructions that the machine may not have.
#include "kdtree.h"
#ifdef PUFFIN_TABLES
#include "table_types.h"
#endif

#include <cstdlib>
#include <cstring>
#include <string_view>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define PUFFIN_TARGETS 3
#include <immintrin.h>
#else
#define PUFFIN_TARGETS 1
#endif

namespace puffin {
namespace baseline {
#define PUFFIN_WIDTH 16
#include "simd.h"
#include PUFFIN_KERNEL
#undef PUFFIN_WIDTH
}  // namespace baseline

#if PUFFIN_TARGETS > 1
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,lzcnt,popcnt")
namespace avx2 {
#define PUFFIN_WIDTH 32
#include "simd.h"
#include PUFFIN_KERNEL
#undef PUFFIN_WIDTH
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,bmi,bmi2,lzcnt,popcnt")
namespace avx512 {
#define PUFFIN_WIDTH 64
#include "simd.h"
#include PUFFIN_KERNEL
#undef PUFFIN_WIDTH
}  // namespace avx512
#pragma GCC pop_options

#ifdef PUFFIN_TABLES
#pragma GCC push_options
#pragma GCC target("avx512bf16,avx512f,avx512vl,avx512bw,avx512dq,avx2,bmi,bmi2,lzcnt,popcnt")
namespace avx512bf16 {
#define PUFFIN_WIDTH 64
#define PUFFIN_BF16
#include "simd.h"
#include PUFFIN_KERNEL
#undef PUFFIN_BF16
#undef PUFFIN_WIDTH
}  // namespace avx512bf16
#pragma GCC pop_options
#endif

inline int instruction_set() {
  static const int level = [] {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi2") || !__builtin_cpu_supports("fma")) return 0;
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    const char* value = std::getenv("PUFFIN_ISA");  // used by tests: baseline, avx2, avx512 or avx512bf16
    const std::string_view limit = value ? value : "";
    if (limit == "baseline") return 0;
    if (!wide || limit == "avx2") return 1;
    if (!__builtin_cpu_supports("avx512bf16") || limit == "avx512") return 2;
    // On Intel's processors these products take longer than those of float32.
    return limit == "avx512bf16" || !__builtin_cpu_is("intel") ? 3 : 2;
  }();
  return level;
}
#define PUFFIN_CALL(function, ...)                          \
  (instruction_set() >= 2   ? avx512::function(__VA_ARGS__) \
   : instruction_set() == 1 ? avx2::function(__VA_ARGS__)   \
                            : baseline::function(__VA_ARGS__))
#define PUFFIN_TABLE_CALL(E, function, ...)                                 \
  [&] {                                                                     \
    if constexpr (std::is_same_v<E, Bf16>)                                  \
      if (instruction_set() == 3) return avx512bf16::function(__VA_ARGS__); \
    return PUFFIN_CALL(function, __VA_ARGS__);                              \
  }()
#else
#define PUFFIN_CALL(function, ...) baseline::function(__VA_ARGS__)
#define PUFFIN_TABLE_CALL(E, function, ...) baseline::function(__VA_ARGS__)
#endif
}  // namespace puffin
