// Compiles the file PUFFIN_KERNEL once per instruction set, in the namespaces puffin::baseline, puffin::avx2 and
// puffin::avx512. PUFFIN_CALL(function<T>, arguments) chooses one at run time. There is no header guard: each source
// file has one PUFFIN_KERNEL and includes this header once.
//
// All other code, the standard library included, is compiled for the baseline, so that none of its inline functions
// uses instructions that the machine may not have.
#include "kdtree.h"

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

inline int instruction_set() {
  static const int level = [] {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi2") || !__builtin_cpu_supports("fma")) return 0;
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    const char* limit = std::getenv("PUFFIN_ISA");  // used by tests: baseline or avx2
    if (limit && std::string_view(limit) == "baseline") return 0;
    return wide && !(limit && std::string_view(limit) == "avx2") ? 2 : 1;
  }();
  return level;
}
#define PUFFIN_CALL(function, ...)                          \
  (instruction_set() == 2   ? avx512::function(__VA_ARGS__) \
   : instruction_set() == 1 ? avx2::function(__VA_ARGS__)   \
                            : baseline::function(__VA_ARGS__))
#else
#define PUFFIN_CALL(function, ...) baseline::function(__VA_ARGS__)
#endif
}  // namespace puffin
