// What the scheduler and the checks of the memory know of a launch. Only one launch runs at a time.
#pragma once

#include "cuda_runtime.h"
#include "fiber.h"
#include "launch.h"

#include <string>
#include <vector>

namespace puffin::emulate {

constexpr int warp_size = 32;
constexpr size_t stack_size = 1 << 16, shared_limit = 48 << 10, shared_stride = 1 << 16, red_zone = 64;
constexpr unsigned max_resident = 4;

struct Lane {
  Context context;
  char* stack = nullptr;
  Op op;  // where it waits, if it does
  unsigned mask;
  uint64_t value;  // what it brings to a rendezvous, then what it takes from there
  int argument, width;
  Site site;
};

struct Block;

// One bit per lane: a lane that exists is ready, waits for its warp, waits at a barrier, or has returned.
struct Warp {
  Block* block;
  unsigned number, exists, ready, waits, at_barrier, done, epoch;  // epoch: number of __syncwarp of the whole warp
  Lane lanes[warp_size];
};

struct Block {
  unsigned index, slot, arrived, done, epoch;  // epoch: number of barriers
  std::vector<Warp> warps;
  bool written[shared_limit];  // bytes of the shared memory
};

struct Variable {  // in shared memory
  std::string name;
  Site site;
  size_t offset, size;
};

struct Launch {
  const char* kernel = nullptr;  // null: no kernel runs
  Call call;
  unsigned blocks, threads;
  std::vector<Variable> variables;
  std::string failure;
  uint64_t idle;  // calls of __nanosleep since something happened that could end a wait
};

extern Launch current;
extern Warp* running;  // the warp and the lane of the running thread
extern int running_lane;
extern char *stacks, *shared_memory;  // of all resident blocks
extern size_t stacks_size;

// Stop the launch with a message about the running thread, or another lane of its warp; does not return.
[[noreturn]] void fail(const std::string& what, int lane = running_lane);
std::string place(unsigned block, unsigned thread);
std::string text(const Site& site);

// fibers.cpp: prepare a thread, switch to it, and from the running thread back to the host.
void start_lane(Lane& lane, char* stack);
void to_lane(Warp& warp, int lane);
void to_host();

// warps.cpp: why the lanes of a warp that wait will do so for ever.
std::string stuck(const Warp& warp);

void forget_accesses();  // at the start of a launch
void start_shared(Block& block);

}  // namespace puffin::emulate
