// Neighbours of voxels on the CPU, by a hash table for each event; defined in src/puffin/ops/voxels.py.
#include "checks.h"
#include "parallel.h"

#include <bit>
#include <vector>

namespace puffin {
namespace {

using Position = std::array<uint64_t, 3>;  // unsigned, so that the sum of a coordinate and an offset may overflow

// Rows by position, in open slots. Eight neighbours along z have neighbouring slots, as one look-up follows the other.
struct Slots {
  const int64_t* coordinates;
  int32_t* rows;
  uint64_t mask;

  Position position(int64_t row) const {
    const int64_t* p = coordinates + 3 * row;
    return {uint64_t(p[0]), uint64_t(p[1]), uint64_t(p[2])};
  }
  // The slot of the voxel at this position: that of its row, or a free one, which holds -1.
  int32_t& find(const Position& at) const {
    uint64_t hash = (at[0] * 0x9E3779B97F4A7C15 ^ at[1]) * 0xC2B2AE3D27D4EB4F ^ at[2] >> 3;
    hash = (hash ^ hash >> 29) * 0xBF58476D1CE4E5B9;
    for (uint64_t slot = (hash >> 32) + (at[2] & 7);; ++slot) {
      int32_t& row = rows[slot & mask];
      if (row < 0 || position(row) == at) return row;
    }
  }
};

}  // namespace

Tensor voxel_neighbours(const Tensor coordinates_in, const Tensor ptr) {
  check_tensor(coordinates_in, {any, 3}, ScalarType::Long, "coordinates");
  STD_TORCH_CHECK(coordinates_in.size(0) < INT32_MAX, "coordinates: expected fewer than 2^31 voxels");
  const Tensor coordinates = torch::stable::contiguous(coordinates_in);
  const int64_t rows = coordinates.size(0), events = ptr.size(0) - 1;
  const int64_t* first = checked_ptr(ptr, rows);
  Tensor result = new_tensor(coordinates, {27, rows}, ScalarType::Int);  // sparse_conv reads columns
  std::vector<int64_t> begin{0};
  for (int64_t b = 0; b < events; ++b)
    begin.push_back(begin.back() + int64_t(std::bit_ceil(uint64_t(2 * (first[b + 1] - first[b])))));
  std::vector<int32_t> slots(begin.back(), -1);
  int32_t* to = result.mutable_data_ptr<int32_t>();
  std::atomic<bool> different{true};
  for_each_task(events, [&](int64_t b) {
    const Slots event{
        coordinates.const_data_ptr<int64_t>(), slots.data() + begin[b], uint64_t(begin[b + 1] - begin[b] - 1)};
    for (int64_t r = first[b]; r < first[b + 1]; ++r) {
      int32_t& slot = event.find(event.position(r));
      if (slot >= 0) different = false;
      slot = int32_t(r);
    }
    for (int k = 0; k < 27; ++k) std::fill(to + k * rows + first[b], to + k * rows + first[b + 1], -1);
    for (int64_t r = first[b]; r < first[b + 1]; ++r) {
      const auto [x, y, z] = event.position(r);
      to[13 * rows + r] = int32_t(r);
      for (int k = 0; k < 13; ++k) {  // the other half are the mirrored pairs
        const int32_t other = event.find({x + k / 9 - 1, y + k / 3 % 3 - 1, z + k % 3 - 1});
        if (other < 0) continue;
        to[k * rows + r] = other;
        to[(26 - k) * rows + other] = int32_t(r);
      }
    }
  });
  STD_TORCH_CHECK(
      different, "coordinates: expected different voxels in each event, got a voxel twice; merge them first");
  return torch::stable::transpose(result, 0, 1);
}

}  // namespace puffin

STABLE_TORCH_LIBRARY_IMPL(puffin, CPU, m) { m.impl("voxel_neighbours", TORCH_BOX(&puffin::voxel_neighbours)); }
