// The threads of a launch as fibers: how the host switches to one of them, and back.
#include "state.h"

#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

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

namespace puffin::emulate {

Warp* running = nullptr;
int running_lane = 0;

namespace {

Context host;

#if defined(__SANITIZE_ADDRESS__)
const void* host_stack = nullptr;
size_t host_stack_size = 0;
void before_switch(void** own, const void* stack, size_t size) { __sanitizer_start_switch_fiber(own, stack, size); }
void after_switch(void* own, const void** stack, size_t* size) { __sanitizer_finish_switch_fiber(own, stack, size); }
#endif

void thread_main() {
#if defined(__SANITIZE_ADDRESS__)
  after_switch(nullptr, &host_stack, &host_stack_size);
#endif
  current.call.run(current.call.arguments);
  running->ready &= ~(1u << running_lane);
  running->done |= 1u << running_lane;
  ++running->block->done;
  current.idle = 0;
  to_host();
  std::abort();  // nobody switches to a thread that has returned
}

}  // namespace

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

void start_lane(Lane& lane, char* stack) {
  lane.stack = stack;
  make_context(lane.context, stack, stack_size, thread_main);
}

}  // namespace puffin::emulate
