// Checks of the memory that kernels use.
//
// The compiler's -fsanitize=thread calls a function __tsan_... before every access to memory; here these functions are
// not those of ThreadSanitizer. They report a race: two threads access a word, one of them writes it, not both accesses
// are atomic or volatile, and neither a barrier of the block nor a __syncwarp of the whole warp lies between them.
// Threads of different blocks have no barrier. They also report accesses beyond the variables in shared memory, and
// reads of shared memory that no thread of the block has written.
//
// Built with AddressSanitizer instead, these functions are never called; it checks the bounds of all memory.
#include "state.h"
#include "traffic.h"

#include <dlfcn.h>

#include <memory>
#include <unordered_map>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace puffin::emulate {
namespace {

struct Access {  // block and thread + 1; thread 0: none
  uint32_t block;
  uint16_t thread, atomic;
  uint32_t block_epoch, warp_epoch;
};

struct Word {  // 4 bytes of memory: the last write and the last reads of two threads
  Access write, read, other_read;
};

constexpr size_t page_words = 256;

struct Page {
  Word words[page_words];
};

std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
uintptr_t last_number = 0;
Page* last_page = nullptr;

Word& word_of(uintptr_t address) {
  const uintptr_t number = address / 4 / page_words;
  if (!last_page || number != last_number) {
    auto& page = pages[number];
    if (!page) page = std::make_unique<Page>();
    last_number = number;
    last_page = page.get();
  }
  return last_page->words[address / 4 % page_words];
}

// Whether something makes the current access wait for the earlier one.
bool ordered(const Access& earlier, const Access& now, bool in_shared) {
  if (earlier.thread == 0) return true;
  if (earlier.block != now.block) return in_shared;  // shared memory of a block that has ended
  if (earlier.thread == now.thread || earlier.block_epoch < now.block_epoch) return true;
  return (earlier.thread - 1) / warp_size == (now.thread - 1) / warp_size && earlier.warp_epoch < now.warp_epoch;
}

std::string source(void* caller) {
  Dl_info info;
  if (!dladdr(caller, &info)) return "";
  char offset[32];
  std::snprintf(
      offset, sizeof offset, "0x%zx", size_t(static_cast<char*>(caller) - static_cast<char*>(info.dli_fbase)) - 1);
  return std::string(" (addr2line -Cfie ") + info.dli_fname + " " + offset + ")";
}

const Variable* variable_at(size_t offset) {
  for (const Variable& v : current.variables)
    if (offset >= v.offset && offset < v.offset + v.size) return &v;
  return nullptr;
}

void check_race(const Access& earlier, const Access& now, bool in_shared, const char* what, const char* kind,
                size_t offset, void* caller) {
  if (ordered(earlier, now, in_shared) || (earlier.atomic && now.atomic)) return;
  const std::string memory = in_shared ? "shared " + variable_at(offset)->name : "global memory";
  fail(std::string("race: ") + kind + " a word of " + memory + " that block " + std::to_string(earlier.block) +
       ", thread " + std::to_string(earlier.thread - 1) + " " + what + " without a barrier in between" +
       source(caller));
}

void check_shared(size_t offset, size_t size, bool write, void* caller) {
  Block& block = *running->block;
  const size_t own = offset - block.slot * shared_stride;
  const Variable* variable = own < shared_stride ? variable_at(own) : nullptr;
  if (!variable || own + size > variable->offset + variable->size) {
    std::string message = "shared memory out of bounds";
    for (const Variable& v : current.variables)
      if (own >= v.offset)
        message = "shared memory out of bounds: byte " + std::to_string(own - v.offset) + " of " + v.name +
                  ", which has " + std::to_string(v.size);
    fail(message + source(caller));
  }
  for (size_t i = own; i < own + size; ++i) {
    if (!write && !block.written[i])
      fail("reads shared " + variable->name + ", which no thread of the block has written" + source(caller));
    block.written[i] = block.written[i] || write;
  }
}

void note(const void* pointer, size_t size, bool read, bool write, bool atomic, void* caller) {
  if (!running || size == 0) return;
  const char* p = static_cast<const char*>(pointer);
  if (p >= stacks && p < stacks + stacks_size) return;  // local variables
  const auto* fixed = reinterpret_cast<const char*>(&built_ins);
  if (p >= fixed && p < fixed + sizeof built_ins) return;
  const char* arguments = static_cast<const char*>(current.call.arguments);
  if (p >= arguments && p < arguments + current.call.size) return;
  const bool in_shared = p >= shared_memory && p < shared_memory + max_resident * shared_stride;
  const size_t offset = in_shared ? size_t(p - shared_memory) : 0;
  if (in_shared) check_shared(offset, size, write && !read, caller);
  if (counting) count_access(p, size, write, in_shared, caller);
  const Access now{running->block->index, uint16_t(running->number * warp_size + running_lane + 1), uint16_t(atomic),
                   running->block->epoch, running->epoch};
  const uintptr_t first = reinterpret_cast<uintptr_t>(p) & ~uintptr_t(3), last = reinterpret_cast<uintptr_t>(p) + size;
  for (uintptr_t address = first; address < last; address += 4) {
    Word& word = word_of(address);
    const size_t own = in_shared ? offset % shared_stride : 0;
    check_race(word.write, now, in_shared, "has written", write ? "writes" : "reads", own, caller);
    if (write) {
      check_race(word.read, now, in_shared, "has read", "writes", own, caller);
      check_race(word.other_read, now, in_shared, "has read", "writes", own, caller);
      word.write = now;
    }
    if (read) {
      if (word.read.thread != now.thread || word.read.block != now.block) word.other_read = word.read;
      word.read = now;
    }
  }
  if (write && atomic) current.idle = 0;
}

}  // namespace

void forget_accesses() {
  pages.clear();
  last_page = nullptr;
}

void start_shared(Block& block) {
  char* memory = shared_memory + block.slot * shared_stride;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(memory, shared_stride);
#endif
  std::memset(memory, 0xcb, shared_limit);
  std::memset(block.written, 0, sizeof block.written);
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(memory, shared_stride);  // until `shared` opens the variables
#endif
}

void* shared(const char* name, size_t size, Site site) {
  char* memory = shared_memory + running->block->slot * shared_stride;
  const Variable* found = nullptr;
  for (const Variable& v : current.variables)
    if (v.site == site && v.name == name) found = &v;
  if (!found) {
    const size_t end = current.variables.empty() ? 0 : current.variables.back().offset + current.variables.back().size;
    const size_t offset = (end + 15) / 16 * 16 + red_zone;
    if (offset + size + red_zone > shared_limit) fail("more than 48 KB of shared memory");
    current.variables.push_back({name, site, offset, size});
    found = &current.variables.back();
  }
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(memory + found->offset, size);
#endif
  return memory + found->offset;
}

void note_atomic(const void* address, size_t size) {
  current.idle = 0;
  note(address, size, true, true, true, __builtin_return_address(0));
}

}  // namespace puffin::emulate

// -- what the compiler calls -----------------------------------------------------------------------------------------

#define PUFFIN_HOOK(name, size, read, write, atomic)                                          \
  extern "C" void name(void* address) {                                                       \
    ::puffin::emulate::note(address, size, read, write, atomic, __builtin_return_address(0)); \
  }
#define PUFFIN_HOOKS(size)                                                   \
  PUFFIN_HOOK(__tsan_read##size, size, true, false, false)                   \
  PUFFIN_HOOK(__tsan_write##size, size, false, true, false)                  \
  PUFFIN_HOOK(__tsan_unaligned_read##size, size, true, false, false)         \
  PUFFIN_HOOK(__tsan_unaligned_write##size, size, false, true, false)        \
  PUFFIN_HOOK(__tsan_volatile_read##size, size, true, false, true)           \
  PUFFIN_HOOK(__tsan_volatile_write##size, size, false, true, true)          \
  PUFFIN_HOOK(__tsan_unaligned_volatile_read##size, size, true, false, true) \
  PUFFIN_HOOK(__tsan_unaligned_volatile_write##size, size, false, true, true)

PUFFIN_HOOKS(1)
PUFFIN_HOOKS(2)
PUFFIN_HOOKS(4)
PUFFIN_HOOKS(8)
PUFFIN_HOOKS(16)

extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}
extern "C" void __tsan_read_range(void* address, size_t size) {
  ::puffin::emulate::note(address, size, true, false, false, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* address, size_t size) {
  ::puffin::emulate::note(address, size, false, true, false, __builtin_return_address(0));
}
extern "C" int __tsan_atomic32_fetch_add(volatile int* address, int value, int) {  // of shared pointers on the host
  return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}
