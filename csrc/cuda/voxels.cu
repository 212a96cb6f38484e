// Neighbours of voxels on CUDA, by one hash table for all events; defined in src/puffin/ops/voxels.py. Which slot holds
// a row depends on the order of the threads, but what is found does not, as the voxels of an event are different.
// Checking that they are would make the host wait for the device.
#include "device.cuh"

#include <bit>

namespace puffin::cuda {
namespace {

// A voxel, and the rows of its event. Unsigned, so that the sum of a coordinate and an offset may overflow.
struct Place {
  uint64_t x, y, z;
  int64_t first, last;
};

// Rows by place, in open slots; -1 is free.
struct Slots {
  const int64_t *coordinates, *ptr;
  int64_t rows, events;
  int32_t* slots;
  uint64_t mask;

  __device__ Place place(int64_t row) const {
    const int64_t event = segment_of(ptr, events, row);
    const int64_t* p = coordinates + 3 * row;
    return {uint64_t(p[0]), uint64_t(p[1]), uint64_t(p[2]), ptr[event], ptr[event + 1]};
  }
  __device__ bool holds(int64_t row, const Place& at) const {
    const int64_t* p = coordinates + 3 * row;
    return row >= at.first && row < at.last && uint64_t(p[0]) == at.x && uint64_t(p[1]) == at.y &&
           uint64_t(p[2]) == at.z;
  }
  __device__ static uint64_t first_slot(const Place& at) {
    uint64_t hash = uint64_t(at.first) ^ at.x * 0x9E3779B97F4A7C15;
    hash = (hash ^ hash >> 32 ^ at.y) * 0xC2B2AE3D27D4EB4F;
    hash = (hash ^ hash >> 29 ^ at.z) * 0xBF58476D1CE4E5B9;
    return hash >> 32;
  }
};

__global__ void clear(int32_t* slots, int64_t count) {
  for (int64_t i = thread_id(); i < count; i += thread_count()) slots[i] = -1;
}

__global__ void insert(const Slots table) {
  for (int64_t row = thread_id(); row < table.rows; row += thread_count()) {
    const Place at = table.place(row);
    for (uint64_t slot = Slots::first_slot(at);; ++slot) {
      const int32_t other = atomicCAS(table.slots + (slot & table.mask), -1, int32_t(row));
      if (other < 0 || table.holds(other, at)) break;
    }
  }
}

// out: (27, rows)
__global__ void look_up(const Slots table, int32_t* out) {
  for (int64_t i = thread_id(); i < 27 * table.rows; i += thread_count()) {
    Place at = table.place(i % table.rows);
    const int k = int(i / table.rows);
    at.x += uint64_t(k / 9 - 1);
    at.y += uint64_t(k / 3 % 3 - 1);
    at.z += uint64_t(k % 3 - 1);
    int32_t row;
    for (uint64_t slot = Slots::first_slot(at);; ++slot) {
      row = table.slots[slot & table.mask];
      if (row < 0 || table.holds(row, at)) break;
    }
    out[i] = row;
  }
}

}  // namespace

Tensor voxel_neighbours(const Tensor coordinates_in, const Tensor ptr) {
  STD_TORCH_CHECK(coordinates_in.dim() == 2 && coordinates_in.size(1) == 3 &&
                      coordinates_in.scalar_type() == ScalarType::Long && coordinates_in.size(0) < INT32_MAX,
                  "coordinates: expected (V, 3) int64");
  check_ptr(ptr, coordinates_in);
  const Scope scope(coordinates_in);
  const Tensor coordinates = torch::stable::contiguous(coordinates_in);
  const int64_t rows = coordinates.size(0), size = int64_t(std::bit_ceil(uint64_t(2 * rows)));
  Tensor result = new_tensor(coordinates, {27, rows}, ScalarType::Int);  // sparse_conv reads columns
  if (rows == 0) return torch::stable::transpose(result, 0, 1);
  STD_TORCH_CHECK(ptr.size(0) > 1, "ptr: expected an event, as there are rows");
  Tensor slots = new_tensor(coordinates, {size}, ScalarType::Int);
  const Slots table{
      coordinates.const_data_ptr<int64_t>(),
      ptr.const_data_ptr<int64_t>(),
      rows,
      ptr.size(0) - 1,
      slots.mutable_data_ptr<int32_t>(),
      uint64_t(size - 1)};
  PUFFIN_LAUNCH(clear, blocks_for(size), threads_per_block, scope.stream, table.slots, size);
  PUFFIN_LAUNCH(insert, blocks_for(rows), threads_per_block, scope.stream, table);
  PUFFIN_LAUNCH(
      look_up, blocks_for(27 * rows), threads_per_block, scope.stream, table, result.mutable_data_ptr<int32_t>());
  return torch::stable::transpose(result, 0, 1);
}

}  // namespace puffin::cuda

PUFFIN_KERNELS(m) { m.impl("voxel_neighbours", TORCH_BOX(&puffin::cuda::voxel_neighbours)); }
