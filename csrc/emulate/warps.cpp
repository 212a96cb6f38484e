// The functions of warps: lanes that call one wait for the lanes of its mask, then exchange their values.
#include "state.h"
#include "traffic.h"

namespace puffin::emulate {
namespace {

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
        fail(std::string(name_of(op)) + " at " + text(lane.site) + ": reads lane " + std::to_string(source) +
                 ", which is not in the mask",
             number);
      lane.value = values[source];
    }
  }
  if (op == Op::sync_warp && mask == warp.exists) ++warp.epoch;
  if (counting && mask == warp.exists) close_requests(warp);
  warp.waits &= ~mask;
  warp.ready |= mask;
}

}  // namespace

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

}  // namespace puffin::emulate
