// Runs the threads of a launch, one at a time, in an order that depends on PUFFIN_EMULATE_SEED (default 0).
//
// Up to four blocks are resident together, as many as the order says; PUFFIN_EMULATE_RESIDENT sets the number. A warp
// runs for a random number of steps, and the order of its lanes between two rendezvous is random too. So code that
// lacks a barrier gives wrong results here as on a GPU, and code that waits for blocks that are not resident never
// ends.
#include "launch.h"
#include "state.h"
#include "traffic.h"

#include <sys/mman.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace puffin::emulate {

BuiltIns built_ins;
Launch current;
char *stacks = nullptr, *shared_memory = nullptr;
size_t stacks_size = 0;

namespace {

constexpr unsigned max_threads = 1024, patience = 2000;  // patience: naps of each lane in which nothing happens

std::mutex one_launch;
std::unique_ptr<Block> slots[max_resident];
std::vector<Warp*> runnable;
std::mt19937_64 random_numbers;

uint64_t number_of(const char* variable, uint64_t other) {
  const char* value = std::getenv(variable);
  return value && *value ? std::strtoull(value, nullptr, 10) : other;
}

unsigned below(uint64_t limit) { return unsigned(random_numbers() % limit); }

// -- blocks ----------------------------------------------------------------------------------------------------------

void allocate() {
  if (stacks) return;
  stacks_size = max_resident * max_threads * stack_size;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* memory = mmap(nullptr, stacks_size + max_resident * shared_stride, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("the emulator got no memory for its stacks");
  shared_memory = static_cast<char*>(memory) + stacks_size;
  stacks = static_cast<char*>(memory);
  for (unsigned slot = 0; slot < max_resident; ++slot) slots[slot] = std::make_unique<Block>();
}

void start_block(unsigned index, unsigned slot) {
  Block& block = *slots[slot];
  const unsigned threads = current.threads, warps = (threads + warp_size - 1) / warp_size;
  block.index = index;
  block.slot = slot;
  block.arrived = block.done = block.epoch = 0;
  block.warps.resize(warps);
  start_shared(block);
  for (unsigned w = 0; w < warps; ++w) {
    Warp& warp = block.warps[w];
    const unsigned lanes = std::min(threads - w * warp_size, unsigned(warp_size));
    warp.block = &block;
    warp.number = w;
    warp.exists = warp.ready = lanes == warp_size ? ~0u : (1u << lanes) - 1;
    warp.waits = warp.at_barrier = warp.done = warp.epoch = 0;
    for (unsigned l = 0; l < lanes; ++l) {
      start_lane(warp.lanes[l], stacks + (slot * max_threads + w * warp_size + l) * stack_size);
    }
    runnable.push_back(&warp);
  }
}

// All threads of the block have arrived at a barrier or returned. Returns whether the block has ended.
bool pass_barrier(Block& block) {
  if (counting)
    for (const Warp& warp : block.warps) close_requests(warp);
  if (block.done == current.threads) return true;
  const Site* site = nullptr;
  unsigned first = 0;
  for (Warp& warp : block.warps)
    for (unsigned m = warp.at_barrier; m; m &= m - 1) {
      const int lane = __builtin_ctz(m);
      const unsigned thread = warp.number * warp_size + lane;
      if (!site) {
        site = &warp.lanes[lane].site;
        first = thread;
      } else if (!(*site == warp.lanes[lane].site)) {
        throw std::runtime_error(
            place(block.index, thread) + ": waits at the barrier at " + text(warp.lanes[lane].site) + ", but thread " +
            std::to_string(first) + " waits at that at " + text(*site));
      }
    }
  for (Warp& warp : block.warps)
    if (warp.done)
      throw std::runtime_error(
          place(block.index, warp.number * warp_size + __builtin_ctz(warp.done)) + ": has returned, but thread " +
          std::to_string(first) + " waits for it at the barrier at " + text(*site));
  ++block.epoch;
  block.arrived = 0;
  for (Warp& warp : block.warps) {
    warp.ready = warp.at_barrier;
    warp.at_barrier = 0;
    runnable.push_back(&warp);
  }
  return false;
}

// Run a warp for some steps. Returns whether it is still runnable.
bool run_warp(Warp& warp) {
  for (unsigned steps = 1 + below(4 * warp_size); steps && warp.ready; --steps) {
    const unsigned turn = below(warp_size), turned = warp.ready >> turn | warp.ready << (-turn & 31);
    to_lane(warp, (__builtin_ctz(turned) + turn) % warp_size);
    if (!current.failure.empty()) throw std::runtime_error(current.failure);
    if (current.idle > uint64_t(patience) * current.threads * max_resident)
      throw std::runtime_error(
          place(warp.block->index, warp.number * warp_size) + ": waits for something that no resident block does");
  }
  if (warp.ready) return true;
  if (warp.waits) throw std::runtime_error(stuck(warp));
  return false;
}

void run_blocks() {
  // A random order of the blocks: start + i step, with a step that has no divisor in common with their number.
  const uint64_t number = current.blocks, start = below(number);
  uint64_t step = 1 + below(number);
  while (std::gcd(step, number) != 1) ++step;
  const uint64_t most = number_of("PUFFIN_EMULATE_RESIDENT", 1 + below(max_resident));
  const unsigned resident = unsigned(std::clamp<uint64_t>(most, 1, std::min<uint64_t>(max_resident, number)));
  uint64_t started = 0;
  for (; started < resident; ++started) start_block(unsigned((start + started * step) % number), unsigned(started));
  while (!runnable.empty()) {
    const unsigned chosen = below(runnable.size());
    Warp& warp = *runnable[chosen];
    if (run_warp(warp)) continue;
    runnable[chosen] = runnable.back();
    runnable.pop_back();
    Block& block = *warp.block;
    if (block.arrived + block.done < current.threads || !pass_barrier(block)) continue;
    if (started < number) start_block(unsigned((start + started++ * step) % number), block.slot);
  }
}

void clean_up() {
  if (counting) close_launch();
  current.kernel = nullptr;
  running = nullptr;
  runnable.clear();
}

}  // namespace

// -- what kernels and launches call ----------------------------------------------------------------------------------

std::string text(const Site& site) {
  const char* slash = std::strrchr(site.file, '/');
  return std::string(slash ? slash + 1 : site.file) + ":" + std::to_string(site.line);
}

std::string place(unsigned block, unsigned thread) {
  return std::string(current.kernel) + ", block " + std::to_string(block) + ", thread " + std::to_string(thread);
}

void fail(const std::string& what, int lane) {
  current.failure = place(running->block->index, running->number * warp_size + lane) + ": " + what;
  to_host();
  std::abort();
}

void barrier(Site site) {
  const unsigned bit = 1u << running_lane;
  running->lanes[running_lane].site = site;
  running->ready &= ~bit;
  running->at_barrier |= bit;
  ++running->block->arrived;
  to_host();
}

void sleep() {
  ++current.idle;
  to_host();
}

void launch(const char* kernel, unsigned blocks, unsigned threads, const Call& call) {
  const std::lock_guard<std::mutex> lock(one_launch);
  static const bool seeded = (random_numbers.seed(number_of("PUFFIN_EMULATE_SEED", 0)), true);
  (void)seeded;
  if (blocks == 0 || threads == 0 || threads > max_threads)
    throw std::runtime_error(std::string(kernel) + ": a launch of " + std::to_string(blocks) + " blocks of " +
                             std::to_string(threads) + " threads is not possible");
  allocate();
  current = {kernel, call, blocks, threads, {}, "", 0};
  built_ins = {{}, {}, {threads, 1, 1}, {blocks, 1, 1}};
  forget_accesses();
  try {
    run_blocks();
  } catch (...) {
    clean_up();
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stacks, stacks_size);  // the frames of the threads that were given up
#endif
    throw;
  }
  clean_up();
}

}  // namespace puffin::emulate
