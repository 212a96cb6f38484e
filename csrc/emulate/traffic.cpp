// A GPU moves global memory in sectors of 32 bytes, and shared memory from 32 banks of words of 4 bytes. So a request
// of a warp costs one pass for each sector, or for each word of its busiest bank. Counted for each instruction:
// requests, passes, and the fewest passes that could move the same words. Counted for each kernel: the sectors that a
// launch reads or writes at all, which the memory of the GPU must move however good its caches are.
#include "traffic.h"

#include <dlfcn.h>

#include <array>
#include <bit>
#include <cstdio>
#include <map>
#include <unordered_map>

namespace puffin::emulate {

bool counting = false;

namespace {

constexpr uintptr_t word_bytes = 4, sector_words = 8, sector_bytes = word_bytes * sector_words, banks = 32;
constexpr uintptr_t page_sectors = 2048;

struct Request {
  uint32_t instruction = 0;       // number_of it << 2 | in shared memory << 1 | write
  std::vector<uint64_t> sectors;  // number of the sector << 8 | one bit for each of its words
};

struct OpenRequests {                                                      // of a warp
  std::unordered_map<uint64_t, Request> requests;                          // by instruction and its n-th execution
  std::unordered_map<uint32_t, std::array<uint32_t, warp_size>> executed;  // how often by each lane
};

struct Passes {
  uint64_t requests = 0, passes = 0, fewest = 0;
};

struct Page {  // one bit per sector
  std::array<uint64_t, page_sectors / 64> read{}, written{};
};

struct Kernel {
  uint64_t launches = 0, sectors_read = 0, sectors_written = 0;
  std::unordered_map<uint32_t, Passes> instructions;
};

OpenRequests open_requests[max_resident][warp_size];
std::unordered_map<uintptr_t, Page> pages;          // of the launch
std::unordered_map<uint32_t, Passes> instructions;  // of the launch
std::map<std::string, Kernel> kernels;

// Where the instruction is in this library, which is smaller than 2^30 bytes.
uint32_t number_of(void* caller) {
  static const char* const start = [] {
    Dl_info info{};
    dladdr(&kernels, &info);
    return static_cast<const char*>(info.dli_fbase);
  }();
  return uint32_t(static_cast<const char*>(caller) - start);
}

void add_words(Request& request, uintptr_t address, size_t size) {
  for (uintptr_t word = address / word_bytes; word * word_bytes < address + size; ++word) {
    const uint64_t sector = word / sector_words, bit = uint64_t(1) << (word % sector_words);
    bool found = false;
    for (uint64_t& known : request.sectors)
      if (known >> 8 == sector) {
        known |= bit;
        found = true;
      }
    if (!found) request.sectors.push_back(sector << 8 | bit);
  }
}

void add_passes(const Request& request) {
  uint64_t words = 0, busiest = 0;
  std::array<uint64_t, banks> in_bank{};
  for (const uint64_t sector : request.sectors)
    for (uintptr_t w = 0; w < sector_words; ++w)
      if (sector >> w & 1) {
        ++words;
        busiest = std::max(busiest, ++in_bank[((sector >> 8) * sector_words + w) % banks]);
      }
  const bool in_shared = request.instruction & 2;
  const uint64_t most = in_shared ? banks : sector_words;
  Passes& sum = instructions[request.instruction];
  ++sum.requests;
  sum.passes += in_shared ? busiest : request.sectors.size();
  sum.fewest += (words + most - 1) / most;
}

void write_table(std::FILE* file) {
  std::fputs(
      "kernel\tlaunches\tsectors_read\tsectors_written\toffset\tshared\twrite\trequests\tpasses\tfewest\n", file);
  for (const auto& [name, kernel] : kernels)
    for (const auto& [instruction, sum] : kernel.instructions)
      std::fprintf(file, "%s\t%lu\t%lu\t%lu\t0x%x\t%d\t%d\t%lu\t%lu\t%lu\n", name.c_str(), kernel.launches,
                   kernel.sectors_read, kernel.sectors_written, (instruction >> 2) - 1, int(instruction >> 1 & 1),
                   int(instruction & 1), sum.requests, sum.passes, sum.fewest);
}

}  // namespace

void count_access(const char* pointer, size_t size, bool write, bool in_shared, void* caller) {
  OpenRequests& own = open_requests[running->block->slot][running->number];
  const uint32_t instruction = number_of(caller) << 2 | uint32_t(in_shared) << 1 | uint32_t(write);
  const uint64_t execution = own.executed[instruction][running_lane]++;
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  Request& request = own.requests[execution << 32 | instruction];
  request.instruction = instruction;
  add_words(request, address, size);
  if (in_shared) return;
  for (uintptr_t sector = address / sector_bytes; sector * sector_bytes < address + size; ++sector) {
    Page& page = pages[sector / page_sectors];
    (write ? page.written : page.read)[sector % page_sectors / 64] |= uint64_t(1) << (sector % 64);
  }
}

void close_requests(const Warp& warp) {
  OpenRequests& own = open_requests[warp.block->slot][warp.number];
  for (const auto& [key, request] : own.requests) add_passes(request);
  own.requests.clear();
  own.executed.clear();
}

void close_launch() {
  Kernel& kernel = kernels[current.kernel];
  ++kernel.launches;
  for (const auto& [number, page] : pages)
    for (size_t i = 0; i < page.read.size(); ++i) {
      kernel.sectors_read += std::popcount(page.read[i]);
      kernel.sectors_written += std::popcount(page.written[i]);
    }
  for (const auto& [instruction, passes] : instructions) {
    Passes& sum = kernel.instructions[instruction];
    sum.requests += passes.requests;
    sum.passes += passes.passes;
    sum.fewest += passes.fewest;
  }
  pages.clear();
  instructions.clear();
}

}  // namespace puffin::emulate

// Start to count, or stop and write what was counted as a table to the file. Returns whether that was possible.
extern "C" __attribute__((visibility("default"))) bool puffin_count_traffic(const char* path) {
  using namespace puffin::emulate;
  counting = !path;
  if (!path) {
    kernels.clear();
    return true;
  }
  std::FILE* file = std::fopen(path, "w");
  if (!file) return false;
  write_table(file);
  return std::fclose(file) == 0;
}
