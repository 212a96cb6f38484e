// Fibers: functions with a stack of their own, which switch to each other by hand.
//
// On x86-64 a switch is twelve instructions. Elsewhere it is swapcontext, which also saves the signal mask and is
// slower by a system call.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace puffin::emulate {

#if defined(__x86_64__)

using Context = void*;  // the stack pointer, below the saved registers

extern "C" void puffin_switch_context(Context* from, Context to);

inline void switch_context(Context& from, Context& to) { puffin_switch_context(&from, to); }

// Prepare a context that calls entry (which must not return) on the stack.
inline void make_context(Context& context, char* stack, size_t size, void (*entry)()) {
  auto** top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack + size) & ~uintptr_t(15));
  *--top = nullptr;  // in the place of a return address, so that the stack is aligned as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  context = top;
}

#else

using Context = ucontext_t;

inline void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }

inline void make_context(Context& context, char* stack, size_t size, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = size;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}

#endif

}  // namespace puffin::emulate
