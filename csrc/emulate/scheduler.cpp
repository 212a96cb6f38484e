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
#include <stdexcept>

#if defined(__x86_64__)
asm(R"(
.text
.globl puffin_switch_context
.hidden puffin_switch_context
puffin_switch_context:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace puffin::emulate {

BuiltIns built_ins;
Launch current;
Warp* running = nullptr;
int running_lane = 0;
char *stacks = nullptr, *shared_memory = nullptr;
size_t stacks_size = 0;

namespace {

constexpr unsigned max_threads = 1024, patience = 2000;  // patience: naps of each lane in which nothing happens

std::mutex one_launch;
Context host;
const std::function<void()>* body = nullptr;
std::unique_ptr<Block> slots[max_resident];
std::vector<Warp*> runnable;
std::mt19937_64 random_numbers;

uint64_t number_of(const char* variable, uint64_t other) {
  const char* value = std::getenv(variable);
  return value && *value ? std::strtoull(value, nullptr, 10) : other;
}

unsigned below(uint64_t limit) { return unsigned(random_numbers() % limit); }

// -- switching between the host and a thread; AddressSanitizer must know the stack ------------------------------------

#if defined(__SANITIZE_ADDRESS__)
const void* host_stack = nullptr;
size_t host_stack_size = 0;
void before_switch(void** own, const void* stack, size_t size) { __sanitizer_start_switch_fiber(own, stack, size); }
void after_switch(void* own, const void** stack, size_t* size) { __sanitizer_finish_switch_fiber(own, stack, size); }
#endif

void to_lane(Warp& warp, int lane) {
  running = &warp;
  running_lane = lane;
  built_ins.thread.x = warp.number * warp_size + lane;
  built_ins.block.x = warp.block->index;
#if defined(__SANITIZE_ADDRESS__)
  void* own = nullptr;
  before_switch(&own, warp.lanes[lane].stack, stack_size);
#endif
  switch_context(host, warp.lanes[lane].context);
#if defined(__SANITIZE_ADDRESS__)
  after_switch(own, nullptr, nullptr);
#endif
  running = nullptr;
}

void to_host() {
#if defined(__SANITIZE_ADDRESS__)
  void* own = nullptr;
  before_switch(&own, host_stack, host_stack_size);
#endif
  switch_context(running->lanes[running_lane].context, host);
#if defined(__SANITIZE_ADDRESS__)
  after_switch(own, &host_stack, &host_stack_size);
#endif
}

void thread_main() {
#if defined(__SANITIZE_ADDRESS__)
  after_switch(nullptr, &host_stack, &host_stack_size);
#endif
  (*body)();
  running->ready &= ~(1u << running_lane);
  running->done |= 1u << running_lane;
  ++running->block->done;
  current.idle = 0;
  to_host();
  std::abort();  // nobody switches to a thread that has returned
}

// -- rendezvous ------------------------------------------------------------------------------------------------------

const char* name_of(Op op) {
  static const char* const names[] = {
      "",           "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync", "__ballot_sync",
      "__any_sync", "__all_sync",  "__syncwarp"};
  return names[int(op)];
}

// The lane that a lane reads in a shuffle.
int source_of(const Lane& lane, int number) {
  const int first = number & ~(lane.width - 1), a = lane.argument;
  if (lane.op == Op::shuffle) return first + (a & (lane.width - 1));
  const int source = lane.op == Op::shuffle_up ? number - a : lane.op == Op::shuffle_down ? number + a : number ^ a;
  if (lane.op == Op::shuffle_xor) return source >= first + lane.width ? number : source;
  return source < first || source >= first + lane.width ? number : source;
}

bool complete(const Warp& warp, const Lane& own) {
  if ((warp.waits & own.mask) != own.mask) return false;
  for (unsigned m = own.mask; m; m &= m - 1) {
    const Lane& other = warp.lanes[__builtin_ctz(m)];
    if (other.op != own.op || other.mask != own.mask || !(other.site == own.site)) return false;
  }
  return true;
}

void exchange(Warp& warp, unsigned mask) {
  const Op op = warp.lanes[__builtin_ctz(mask)].op;
  uint64_t values[warp_size] = {}, ballot = 0;
  for (unsigned m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    values[lane] = warp.lanes[lane].value;
    ballot |= uint64_t(values[lane] != 0) << lane;
  }
  for (unsigned m = mask; m; m &= m - 1) {
    const int number = __builtin_ctz(m);
    Lane& lane = warp.lanes[number];
    if (op == Op::ballot) {
      lane.value = ballot;
    } else if (op == Op::any) {
      lane.value = ballot != 0;
    } else if (op == Op::all) {
      lane.value = ballot == mask;
    } else if (op != Op::sync_warp) {
      const int source = source_of(lane, number);
      if (!(mask >> source & 1))
        fail(std::string(name_of(op)) + " at " + text(lane.site) + ": lane " + std::to_string(number) + " reads lane " +
             std::to_string(source) + ", which is not in the mask");
      lane.value = values[source];
    }
  }
  if (op == Op::sync_warp && mask == warp.exists) ++warp.epoch;
  if (counting && mask == warp.exists) close_requests(warp);
  warp.waits &= ~mask;
  warp.ready |= mask;
}

// Why the lanes of a warp that wait will do so for ever.
std::string stuck(const Warp& warp) {
  const int number = __builtin_ctz(warp.waits);
  const Lane& lane = warp.lanes[number];
  std::string message = place(warp.block->index, warp.number * warp_size + number) + ": " + name_of(lane.op) + " at " +
                        text(lane.site) + " waits for ";
  for (int other = 0; other < warp_size; ++other) {
    const unsigned bit = 1u << other;
    const Lane& o = warp.lanes[other];
    if (!(lane.mask & bit)) continue;
    const std::string name = "lane " + std::to_string(other);
    if (!(warp.exists & bit)) return message + name + ", which does not exist";
    if (warp.done & bit) return message + name + ", which has returned";
    if (warp.at_barrier & bit) return message + name + ", which waits at the barrier at " + text(o.site);
    if (o.op != lane.op || !(o.site == lane.site))
      return message + name + ", which is in " + name_of(o.op) + " at " + text(o.site);
    if (o.mask != lane.mask) return message + name + ", which has another mask";
  }
  return message + "no lane";
}

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
      warp.lanes[l].stack = stacks + ((slot * max_threads + w * warp_size + l) * stack_size);
      make_context(warp.lanes[l].context, warp.lanes[l].stack, stack_size, thread_main);
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
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stacks, stacks_size + max_resident * shared_stride);  // threads that were given up
#endif
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

void fail(const std::string& what) {
  current.failure = place(running->block->index, running->number * warp_size + running_lane) + ": " + what;
  to_host();
  std::abort();
}

uint64_t rendezvous(Op op, unsigned mask, uint64_t value, int argument, int width, Site site) {
  Warp& warp = *running;
  Lane& lane = warp.lanes[running_lane];
  const unsigned bit = 1u << running_lane;
  if (!(mask & bit)) fail(std::string(name_of(op)) + " at " + text(site) + ": the calling lane is not in the mask");
  if (width < 1 || width > warp_size || (width & (width - 1)))
    fail(std::string(name_of(op)) + " at " + text(site) + ": the width is not a power of two up to 32");
  lane.op = op;
  lane.mask = mask;
  lane.value = value;
  lane.argument = argument;
  lane.width = width;
  lane.site = site;
  warp.ready &= ~bit;
  warp.waits |= bit;
  if (complete(warp, lane)) exchange(warp, mask);
  to_host();
  return lane.value;
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

void launch(const char* kernel, unsigned blocks, unsigned threads, const std::function<void()>& function) {
  const std::lock_guard<std::mutex> lock(one_launch);
  static const bool seeded = (random_numbers.seed(number_of("PUFFIN_EMULATE_SEED", 0)), true);
  (void)seeded;
  if (blocks == 0 || threads == 0 || threads > max_threads)
    throw std::runtime_error(std::string(kernel) + ": a launch of " + std::to_string(blocks) + " blocks of " +
                             std::to_string(threads) + " threads is not possible");
  allocate();
  current = {kernel, blocks, threads, {}, "", 0};
  built_ins = {{}, {}, {threads, 1, 1}, {blocks, 1, 1}};
  body = &function;
  forget_accesses();
  try {
    run_blocks();
  } catch (...) {
    clean_up();
    throw;
  }
  clean_up();
}

}  // namespace puffin::emulate
