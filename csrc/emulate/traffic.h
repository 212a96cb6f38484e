// Counts the memory traffic of kernels as a GPU would see it; bench/traffic.py asks for it.
#pragma once

#include "state.h"

namespace puffin::emulate {

extern bool counting;  // whether the calls below have to be made

// An access by the running thread. caller: the instruction. The accesses of one instruction by the lanes of a warp are
// one request: the n-th of each lane since the lanes last met.
void count_access(const char* address, size_t size, bool write, bool in_shared, void* caller);

// All lanes of the warp have met: their next accesses belong to new requests.
void close_requests(const Warp& warp);

// The launch has ended.
void close_launch();

}  // namespace puffin::emulate
